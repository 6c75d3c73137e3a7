"""What is checked of the coordinates in a report: they lie on a plane of the source, and are as large as is said."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from imaging_ai.core.volume import Volume
from imaging_ai.encode.rules import require

__all__ = ["check_flat", "check_line", "check_polygon"]

_OF_A_VOXEL = 0.05


def check_line(line: Dataset, path: str, volume: Volume, number: float) -> None:
    """Check that a line is as long as its number says, or that a closed one has as large an area."""
    require(line.get("GraphicType") == "POLYLINE", f"{path} GraphicType", "not POLYLINE")
    points = _on_a_plane(line, path, volume)
    closed = len(points) > 3 and np.array_equal(points[0], points[-1])
    require(closed or len(points) == 2, f"{path} GraphicData", "not two points, and not closed")
    size = _area(points) if closed else float(np.linalg.norm(points[0] - points[1]))
    same = math.isclose(size, number, rel_tol=1e-3, abs_tol=1e-3)
    require(same, f"{path} NumericValue", f"is not the {'area' if closed else 'length'} of its line")


def check_polygon(region: Dataset, path: str, volume: Volume) -> None:
    """Check that a region is a closed polygon that is not empty."""
    require(region.get("GraphicType") == "POLYGON", f"{path} GraphicType", "not POLYGON")
    points = _on_a_plane(region, path, volume)
    closed = len(points) > 3 and np.array_equal(points[0], points[-1])
    require(closed and _area(points) > 0, f"{path} GraphicData", "not a closed polygon with an area")


def check_flat(item: Dataset, path: str, volume: Volume, number: float | None = None) -> None:
    """Check that a region in pixels is a closed line within an image of the source, and as large as its number says."""
    require(not volume.located, f"{path} ValueType", "in pixels, though the images have a place in the patient")
    require(item.get("GraphicType") == "POLYLINE", f"{path} GraphicType", "not POLYLINE")
    points = np.asarray(item.GraphicData, np.float64).reshape(-1, 2)
    closed = len(points) > 3 and np.array_equal(points[0], points[-1])
    inside = (points >= 0).all() and (points <= (volume.grid.columns, volume.grid.rows)).all()
    require(bool(closed and inside), f"{path} GraphicData", "not a closed line within the image")
    area = _area(np.pad(points, ((0, 0), (0, 1))))
    said = area if number is None else number
    require(area > 0 and math.isclose(area, said, rel_tol=1e-3), f"{path} NumericValue", "is not the area of its line")
    named = {str(ref.ReferencedSOPInstanceUID) for one in item.ContentSequence for ref in one.ReferencedSOPSequence}
    sources = {source.sop_instance_uid for source in volume.sources}
    require(len(named) == 1 and named <= sources, f"{path} ReferencedSOPSequence", "not an image of the source")


def _on_a_plane(item: Dataset, path: str, volume: Volume) -> NDArray[np.float64]:
    """Return points ``(point, xyz)``, after seeing that they lie on one plane of the source, within its images."""
    grid = volume.grid
    uid = item.get("ReferencedFrameOfReferenceUID")
    require(uid == grid.frame_of_reference_uid, f"{path} ReferencedFrameOfReferenceUID", "not the source's")
    numbers = np.asarray(item.GraphicData, np.float64)
    require(numbers.size >= 6 and numbers.size % 3 == 0, f"{path} GraphicData", "not two points or more")
    points = numbers.reshape(-1, 3)
    columns, rows, slices = np.linalg.inv(grid.affine)[:3] @ np.vstack([points.T, np.ones(len(points))])
    on_one = abs(slices - round(slices[0])).max() < _OF_A_VOXEL and 0 <= round(slices[0]) < grid.slices
    inside = all(
        places.min() >= -1 and places.max() <= size for places, size in ((columns, grid.columns), (rows, grid.rows))
    )
    require(bool(on_one and inside), f"{path} GraphicData", "does not lie on a plane of the source")
    return points


def _area(points: NDArray[np.float64]) -> float:
    """Return the area of a closed polygon that is flat."""
    away = points[1:] - points[0]
    return float(np.linalg.norm(np.cross(away[:-1], away[1:]).sum(axis=0))) / 2
