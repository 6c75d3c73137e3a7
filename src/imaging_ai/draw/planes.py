"""Planes of a grid: its slices as they are stored, and the two kinds that stand on them, with the last slice on top.

For axial slices that go from the feet to the head, these are the coronal and the sagittal planes, head up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imaging_ai.core.geometry import Grid
from imaging_ai.core.region import Region

__all__ = ["OPPOSITE", "Plane"]

OPPOSITE = str.maketrans("LRPAHF", "RLAPFH")
_NAMES = ("slice", "row", "column")


@dataclass(frozen=True, slots=True)
class Plane:
    """The plane at `index` (from 0) along one axis of a grid: 0 slices, 1 rows, 2 columns."""

    axis: Literal[0, 1, 2]
    index: int

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what an array ``(slices, rows, columns, …)`` has on it, as it is drawn."""
        return self._upright(np.take(values, self.index, axis=self.axis))

    def mask(self, region: Region) -> NDArray[np.bool_]:
        """Return what a region has on it."""
        if self.axis == 0:
            return region.plane(self.index)
        first, second = (axis for axis in range(3) if axis != self.axis)
        mask = np.zeros((region.shape[first], region.shape[second]), np.bool_)
        side = region.box[self.axis]
        if side.start <= self.index < side.stop:
            inside = np.take(region.inside, self.index - side.start, axis=self.axis)
            mask[region.box[first], region.box[second]] = inside
        return self._upright(mask)

    def extent(self, grid: Grid) -> tuple[float, float]:
        """Return its height and width in millimetres."""
        height, width = (grid.shape[axis] * grid.spacing[axis] for axis in range(3) if axis != self.axis)
        return height, width

    def directions(self, grid: Grid) -> tuple[str, str]:
        """Return where in the patient its right and its lower edge lie."""
        slices, rows, columns = grid.axes
        if self.axis == 0:
            return columns, rows
        return columns if self.axis == 1 else rows, slices.translate(OPPOSITE)

    def name(self, grid: Grid) -> str:
        """Say which one it is."""
        return f"{_NAMES[self.axis]} {self.index + 1} of {grid.shape[self.axis]}"

    def _upright(self, plane: NDArray[Any]) -> NDArray[Any]:
        return plane if self.axis == 0 else plane[::-1]
