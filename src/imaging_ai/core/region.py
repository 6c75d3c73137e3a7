"""Where on a grid something is: a mask, kept as the part of it that is not empty.

A hundred organs of a CT as masks of the whole grid are eight gigabytes; each within its own box, some hundred
megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "Region"]

Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Voxels of a grid of `shape` ``(slices, rows, columns)``: those of `box` that are true in `inside`.

    `box` has a start and a stop on each axis, within the grid; `inside` is boolean of the box's size.
    """

    shape: tuple[int, int, int]
    box: Box
    inside: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Refuse a part that does not fit its box, or a box beyond the grid."""
        sizes = tuple(side.stop - side.start for side in self.box)
        within = all(0 <= side.start <= side.stop <= size for side, size in zip(self.box, self.shape, strict=True))
        if self.inside.shape != sizes or not within:
            raise ValueError(f"a mask of {self.inside.shape} does not lie at {self.box} of {self.shape}")

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Region:
        """Keep what is not empty of a mask of the whole grid."""
        box = _box(mask)
        shape: tuple[int, int, int] = mask.shape
        return cls(shape, box, np.ascontiguousarray(mask[box], np.bool_))

    @classmethod
    def nothing(cls, shape: tuple[int, int, int]) -> Region:
        """Return the region without a voxel."""
        return cls(shape, (slice(0, 0), slice(0, 0), slice(0, 0)), np.zeros((0, 0, 0), np.bool_))

    @property
    def found(self) -> bool:
        """Whether it has a voxel."""
        return bool(self.inside.any())

    @property
    def voxels(self) -> int:
        """How many voxels it has."""
        return int(np.count_nonzero(self.inside))

    @property
    def slices(self) -> NDArray[np.intp]:
        """The slices that have a voxel of it, in order."""
        return np.flatnonzero(np.any(self.inside, axis=(1, 2))) + np.intp(self.box[0].start)

    @property
    def areas(self) -> NDArray[np.intp]:
        """How many voxels it has in each slice of the grid."""
        areas = np.zeros(self.shape[0], np.intp)
        areas[self.box[0]] = np.count_nonzero(self.inside, axis=(1, 2))
        return areas

    def plane(self, k: int) -> NDArray[np.bool_]:
        """Return the mask of one slice, ``(rows, columns)``."""
        plane = np.zeros(self.shape[1:], np.bool_)
        first = self.box[0].start
        if first <= k < self.box[0].stop:
            plane[self.box[1:]] = self.inside[k - first]
        return plane

    def whole(self) -> NDArray[np.bool_]:
        """Return the mask of the whole grid."""
        mask = np.zeros(self.shape, np.bool_)
        mask[self.box] = self.inside
        return mask


def _box(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box that holds all that is true."""
    slices = _span(np.any(mask, axis=(1, 2)))
    plane = np.any(mask[slices], axis=0)
    return slices, _span(np.any(plane, axis=1)), _span(np.any(plane, axis=0))


def _span(present: NDArray[np.bool_]) -> slice:
    where = np.flatnonzero(present)
    return slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, 0)
