"""The grayscale pipeline (PS3.4 N.2.1, PS3.3 C.11.1 and C.11.2): stored values to 256 levels.

Modality LUT (rescale or table), then one VOI transformation (table or window), then inversion for MONOCHROME1. Stored
values of up to 16 bits go through one table of all that there may be; everything else is computed pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grayscale", "LookupTable", "Modality", "Rescale", "VoiFunction", "Window", "levels_of"]

_PIXELS_AT_ONCE = 1 << 15  # what is made of them on the way stays in the cache of a core

VoiFunction = Literal["linear", "linear-exact", "sigmoid"]

Levels = NDArray[np.uint8]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Window:
    """A window and how it maps values (PS3.3 C.11.2.1.2 and C.11.2.1.3); `width` is over 0, linear at least 1."""

    center: float
    width: float
    function: VoiFunction = "linear"

    @classmethod
    def spanning(cls, low: float, high: float) -> Window:
        """Return the window that shows `low` black and `high` white."""
        return cls((low + high) / 2, max(high - low, 1e-9), "linear-exact")

    def shades(self, values: Values) -> Values:
        """Return how bright values are, from 0 to 1."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if self.function == "sigmoid":
                return 1 / (1 + np.exp(-4 * (values - self.center) / self.width))
            if self.function == "linear-exact":
                return np.clip((values - self.center) / self.width + 0.5, 0, 1)
            if self.width <= 1:
                return (values > self.center - 0.5).astype(np.float64)
            return np.clip((values - (self.center - 0.5)) / (self.width - 1) + 0.5, 0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class LookupTable:
    """A lookup table (PS3.3 C.11.1.1.1, C.11.2.1.1): values before and after its entries take the first or last."""

    entries: NDArray[np.uint16]
    first: int
    bits: int

    def of(self, values: Values) -> Values:
        """Return the entries for values."""
        with np.errstate(invalid="ignore"):
            index = np.clip(np.nan_to_num(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        return self.entries[index].astype(np.float64)

    def shades(self, values: Values) -> Values:
        """Return how bright values are, from 0 to 1."""
        return np.clip(self.of(values) / ((1 << self.bits) - 1), 0, 1)


@dataclass(frozen=True, slots=True)
class Rescale:
    """Rescale Slope and Intercept."""

    slope: float = 1.0
    intercept: float = 0.0

    def of(self, values: Values) -> Values:
        """Return values in their unit."""
        if (self.slope, self.intercept) == (1.0, 0.0):
            return values
        with np.errstate(over="ignore", invalid="ignore"):
            return values * self.slope + self.intercept


Modality = Rescale | LookupTable


@dataclass(frozen=True, slots=True)
class Grayscale:
    """What is done to stored values of one sample a pixel."""

    modality: Modality
    voi: Window | LookupTable
    inverted: bool = False

    def levels(self, stored: NDArray[Any], bits: int = 16) -> Levels:
        """Return the levels of a frame of stored values, of which integers have no more than `bits` bits."""
        small = stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2
        table = (
            _table(self, stored.dtype, min(bits, 8 * stored.dtype.itemsize))
            if small and stored.size > 1 << 14
            else None
        )
        levels = np.empty(stored.shape, np.uint8)
        rows = max(_PIXELS_AT_ONCE // max(stored.shape[1], 1), 1)
        for top in range(0, len(stored), rows):
            block = slice(top, top + rows)
            if table is None:
                levels[block] = self._levels(stored[block])
            else:
                np.take(table, stored[block], mode="wrap", out=levels[block])  # values below 0 are at its end
        return levels

    def _levels(self, stored: NDArray[Any]) -> Levels:
        values = self.modality.of(stored.astype(np.float64))
        return levels_of(self.voi.shades(values), inverted=self.inverted)


@lru_cache(maxsize=64)  # the images of a series mostly have the same; lookup tables are each their own
def _table(gray: Grayscale, dtype: np.dtype[Any], bits: int) -> Levels:
    values = np.arange(1 << bits)
    return gray._levels(np.where(values >> (bits - 1), values - (1 << bits), values) if dtype.kind == "i" else values)


def levels_of(shades: Values, *, inverted: bool = False) -> Levels:
    """Return shades from 0 to 1 as levels from 0 to 255, or from 255 to 0."""
    shades = np.nan_to_num(1 - shades if inverted else shades, nan=0.0)
    return (shades * 255 + 0.5).astype(np.uint8)
