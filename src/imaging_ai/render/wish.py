"""What a client wishes of a rendered image (PS3.18 8.3.5.1, 9.5.1.2): one value, whatever its request looked like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imaging_ai.errors import BadParameterError
from imaging_ai.render.grey import Window

__all__ = ["MOST_PIXELS", "Annotation", "IccProfile", "Picture", "Region", "Viewport", "Wish"]

Annotation = Literal["patient", "technique"]

#: Levels of 8 bits: (rows, columns) in gray, (rows, columns, 3) in RGB.
Picture = NDArray[np.uint8]

IccProfile = Literal["", "no", "yes", "srgb", "adobergb", "rommrgb"]

#: Of an image that is rendered, and of one that comes out.
MOST_PIXELS = 1 << 26


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of the source image: in its pixels, or in parts of its columns and rows when `normalized`.

    No width or height reaches to the edge; `flip_horizontally` and `flip_vertically` turn what is in it round.
    """

    left: float = 0.0
    top: float = 0.0
    width: float | None = None
    height: float | None = None
    flip_horizontally: bool = False
    flip_vertically: bool = False
    normalized: bool = False

    def box(self, columns: int, rows: int, name: str) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of the whole pixels it has of an image.

        Raises
        ------
        BadParameterError
            If it has none; it names the parameter the region came in.
        """
        across, down = (columns, rows) if self.normalized else (1, 1)
        left, top = self.left * across, self.top * down
        right = columns if self.width is None else min(left + self.width * across, columns)
        bottom = rows if self.height is None else min(top + self.height * down, rows)
        if left >= right or top >= bottom:
            raise BadParameterError(name, "the region has nothing of the image")
        first_column, first_row = min(int(left), columns - 1), min(int(top), rows - 1)
        return first_column, first_row, max(round(right), first_column + 1), max(round(bottom), first_row + 1)


@dataclass(frozen=True, slots=True)
class Viewport:
    """The width and height that the image is made to fit; at least one of them."""

    width: int | None
    height: int | None

    def fit(self, width: float, height: float) -> tuple[int, int]:
        """Return the largest size of these proportions that is within."""
        scales = [limit / size for limit, size in ((self.width, width), (self.height, height)) if limit]
        scale = min(scales)
        return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(frozen=True, slots=True)
class Wish:
    """How an image is to be rendered; `region_name` and `viewport_name` are what the request calls them."""

    window: Window | None = None
    region: Region | None = None
    viewport: Viewport | None = None
    quality: int | None = None
    annotations: tuple[Annotation, ...] = ()
    icc_profile: IccProfile = ""
    region_name: str = "viewport"
