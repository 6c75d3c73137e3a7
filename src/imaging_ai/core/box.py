"""Where a detector found something: a box in the patient, of any orientation, and its outlines on the slices of a grid.

Coordinates are LPS+ millimetres (PS3.3 C.7.6.2.1.1); those of images without a place in the patient are their columns,
their rows and their number. A box that is upright on a grid stays so on its slices; one that leans is cut by them into
polygons of up to six sides.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging_ai.core.geometry import Grid
from imaging_ai.core.region import Region

__all__ = ["PatientBox", "Point"]

Point = tuple[float, float, float]

_CORNERS = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
#: The twelve edges: pairs of corners that differ in one place.
_EDGES = [(a, b) for a, b in itertools.combinations(range(8), 2) if np.count_nonzero(_CORNERS[a] != _CORNERS[b]) == 1]
#: Areas in pixels that are nothing, and digits by which two corners of an outline are told apart.
_NOTHING, _DIGITS = 1e-6, 6
#: A box that reaches into a voxel by no more than this part of it only touches it.
_TOUCH = 1e-3


@dataclass(frozen=True, slots=True)
class PatientBox:
    """A box by its centre and the three edges that meet in a corner.

    The edges lead along the rows (width), down the columns (height) and across the slices (depth) of the images that
    it was found in, as nearly as edges of it do.
    """

    centre: Point
    edges: tuple[Point, Point, Point]

    @classmethod
    def between(
        cls, low: NDArray[np.float64], high: NDArray[np.float64], to_patient: NDArray[np.float64]
    ) -> PatientBox:
        """Return the box from `low` to `high`, two corners ``(x, y, z)`` in indices that a 4 x 4 affine maps."""
        centre = to_patient[:3, :3] @ ((low + high) / 2) + to_patient[:3, 3]
        return cls(_point(centre), tuple(_point(edge) for edge in (to_patient[:3, :3] * (high - low)).T))  # type: ignore[arg-type]

    def along(self, grid: Grid) -> PatientBox:
        """Return the same box with its edges in the order and the directions of a grid's rows, columns and slices."""
        edges, axes = np.array(self.edges), grid.affine[:3, :3].T
        cosines = _unit(edges) @ _unit(axes).T
        order = max(itertools.permutations(range(3)), key=lambda o: sum(abs(cosines[e, a]) for a, e in enumerate(o)))
        turned = [edges[edge] * math.copysign(1, cosines[edge, axis]) for axis, edge in enumerate(order)]
        return PatientBox(self.centre, tuple(_point(edge) for edge in turned))  # type: ignore[arg-type]

    @property
    def size(self) -> Point:
        """Width, height and depth in millimetres."""
        width, height, depth = (math.hypot(*edge) for edge in self.edges)
        return width, height, depth

    def nearest_slice(self, grid: Grid) -> int:
        """Return the slice of a grid that lies nearest to the centre."""
        return int(np.clip(np.rint(self._on(grid).mean(axis=0)[2]), 0, grid.slices - 1))

    def outlines(self, grid: Grid) -> dict[int, NDArray[np.float64]]:
        """Return closed polygons ``(corner, xyz)`` in millimetres, by the slices that cut the box, in order.

        A box between two slices is moved onto the nearest, by half a slice at most. What lies beyond the images is
        left out; a box that lies there wholly has no outline.
        """
        corners = self._on(grid)
        low, high = math.ceil(corners[:, 2].min()), math.floor(corners[:, 2].max())
        slices = range(max(0, low), min(grid.slices - 1, high) + 1)
        if low > high and 0 <= round(corners[:, 2].mean()) < grid.slices:
            slices = range(round(corners[:, 2].mean()), round(corners[:, 2].mean()) + 1)
            corners[:, 2] += slices[0] - corners[:, 2].mean()
        limits = (grid.columns - 0.5, grid.rows - 0.5)
        found = {k: np.clip(_cut(corners, k), -0.5, limits) for k in slices}
        return {
            k: grid.to_patient(np.column_stack([np.full(len(places), k, np.float64), places[:, ::-1]]))
            for k, places in found.items()
            if _area(places) > _NOTHING
        }

    def in_pixels(self, grid: Grid) -> dict[int, NDArray[np.float64]]:
        """Return the outlines as ``(corner, column and row)`` by slice, from the outer edge of the first pixel on."""
        inverse = np.linalg.inv(grid.affine)[:2]
        outlines = self.outlines(grid).items()
        return {k: np.asarray(points @ inverse[:, :3].T + inverse[:, 3] + 0.5) for k, points in outlines}

    def region(self, grid: Grid) -> Region:
        """Return the voxels of a grid that the box covers, in whole rows, columns and slices; at least one of each."""
        corners = self._on(grid)[:, ::-1]
        sizes = np.array(grid.shape)
        low = np.clip(np.floor(corners.min(axis=0) + 0.5 + _TOUCH), 0, sizes - 1).astype(int)
        high = np.clip(np.ceil(corners.max(axis=0) + 0.5 - _TOUCH), low + 1, sizes).astype(int)
        box = tuple(slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))
        return Region(grid.shape, box, np.ones(high - low, np.bool_))

    def as_tree(self) -> dict[str, object]:
        """Say the same in what JSON is made of."""
        return {"centre": list(self.centre), "edges": [list(edge) for edge in self.edges]}

    def _on(self, grid: Grid) -> NDArray[np.float64]:
        """Return the eight corners as indices ``(column, row, slice)`` of a grid."""
        corners = np.array(self.centre) + _CORNERS @ np.array(self.edges)
        inverse = np.linalg.inv(grid.affine)
        return np.asarray(corners @ inverse[:3, :3].T + inverse[:3, 3])


def _cut(corners: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Cut a box by slice `k`: the closed convex polygon ``(corner, column and row)``, empty where it does not."""
    points = set()
    for a, b in _EDGES:
        one, other = corners[a, 2] - k, corners[b, 2] - k
        if one * other <= 0 and one != other:
            place = corners[a] + (corners[b] - corners[a]) * one / (one - other)
            points.add((round(float(place[0]), _DIGITS), round(float(place[1]), _DIGITS)))
    if len(points) < 3:
        return np.empty((0, 2))
    places = np.array(sorted(points))
    away = places - places.mean(axis=0)
    places = places[np.argsort(np.arctan2(away[:, 1], away[:, 0]), kind="stable")]
    return np.vstack([places, places[:1]])


def _area(places: NDArray[np.float64]) -> float:
    """Return the area of a closed polygon ``(corner, two axes)``."""
    if not len(places):
        return 0.0
    x, y = places.T
    return float(abs(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _point(values: NDArray[np.float64]) -> Point:
    x, y, z = (float(value) + 0.0 for value in values)  # which is never -0
    return x, y, z
