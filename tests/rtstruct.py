"""Contours of an RT Structure Set as a mask on a grid, to compare a segmentation with an expert's (PS3.3 C.8.8.6).

A voxel belongs to a contour when its centre lies inside the polygon, whose points are kept as exact as the file
has them; contours of one region on one slice are combined by exclusive or, so that a hole is a hole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from imaging_ai.core.geometry import Grid

OFF_PLANE = 0.05  # of a slice: further away from its slice a contour is not of this grid


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the overlap of two masks, 0 to 1; two empty ones agree."""
    both = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / both if both else 1.0


def dice_against_rtstruct(mask: NDArray[np.bool_], grid: Grid, rtstruct: Path, roi: str = "GTV_Mass") -> float:
    """Return the Dice of `mask` on `grid` with the regions of the file `rtstruct` whose name begins with `roi`."""
    return dice(mask, rasterise(dcmread(rtstruct), grid, roi))


def rasterise(rtstruct: Dataset, grid: Grid, roi: str = "GTV_Mass") -> NDArray[np.bool_]:
    """Draw the regions whose name begins with `roi`; every contour must lie on a slice of `grid`."""
    numbers = {item.ROINumber for item in rtstruct.StructureSetROISequence if item.ROIName.startswith(roi)}
    assert numbers, f"no region named {roi}* in the structure set"
    mask = np.zeros(grid.shape, bool)
    for region in rtstruct.ROIContourSequence:
        if region.ReferencedROINumber in numbers:
            mask |= _region(region, grid)
    return mask


def _region(region: Dataset, grid: Grid) -> NDArray[np.bool_]:
    mask = np.zeros(grid.shape, bool)
    to_index = np.linalg.inv(grid.affine)
    for contour in region.ContourSequence:
        assert contour.ContourGeometricType == "CLOSED_PLANAR"
        points = np.asarray(contour.ContourData, np.float64).reshape(-1, 3)
        columns, rows, slices = to_index[:3, :3] @ points.T + to_index[:3, 3:]
        index = round(float(slices.mean()))
        assert np.abs(slices - index).max() < OFF_PLANE, "a contour lies between the slices of the grid"
        assert 0 <= index < grid.slices, "a contour lies outside the grid"
        mask[index] ^= inside(np.column_stack([rows, columns]), grid.rows, grid.columns)
    return mask


def inside(polygon: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return which pixel centres lie inside a closed `polygon` of (row, column) points, by the even-odd rule."""
    start, end = polygon, np.roll(polygon, -1, axis=0)
    across = np.arange(rows)[:, None]
    crosses = (start[:, 0] <= across) != (end[:, 0] <= across)
    mask = np.zeros((rows, columns), bool)
    for row in np.flatnonzero(crosses.any(axis=1)):
        one, two = start[crosses[row]], end[crosses[row]]
        at = one[:, 1] + (row - one[:, 0]) / (two[:, 0] - one[:, 0]) * (two[:, 1] - one[:, 1])
        mask[row] = (np.arange(columns)[:, None] >= at).sum(axis=1) % 2 == 1
    return mask
