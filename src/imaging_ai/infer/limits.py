"""Series that a model must not read: the limits of `dicom.toml`, each refused with a coded reason."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np

from imaging_ai.catalog import Limits, ModelEntry
from imaging_ai.core.geometry import Grid
from imaging_ai.core.volume import Volume
from imaging_ai.errors import SeriesRefused

__all__ = ["check_limits"]

_PLANES = {0: "sagittal", 1: "coronal", 2: "axial"}
_ANNOTATION = re.compile(r"\{[^}]*\}")


def check_limits(volume: Volume, entry: ModelEntry) -> None:
    """Refuse a volume that lies outside of what its author allows a model to read.

    Raises
    ------
    SeriesRefused
        With the first limit that is not kept.
    """
    for reason, message in _broken(volume, entry.refuse):
        raise SeriesRefused(reason, f"{entry.name} does not read this series: {message}")


def _broken(volume: Volume, limits: Limits) -> Iterator[tuple[str, str]]:
    grid = volume.grid
    slice_spacing, row_spacing, column_spacing = grid.spacing
    if limits.min_slices is not None and grid.slices < limits.min_slices:
        yield "too-few-slices", f"{grid.slices} slices, at least {limits.min_slices} are needed"
    if limits.max_slices is not None and grid.slices > limits.max_slices:
        yield "too-many-slices", f"{grid.slices} slices, at most {limits.max_slices} are read"
    coverage = grid.slices * slice_spacing
    if limits.min_coverage_mm is not None and coverage < limits.min_coverage_mm:
        yield "too-little-coverage", f"{coverage:.1f} mm are covered, at least {limits.min_coverage_mm:g} are needed"
    for name, value, bounds in (
        ("slice", slice_spacing, limits.slice_spacing_mm),
        ("pixel", row_spacing, limits.pixel_spacing_mm),
        ("pixel", column_spacing, limits.pixel_spacing_mm),
    ):
        if bounds and not bounds[0] * 0.999 <= value <= bounds[1] * 1.001:
            yield f"{name}-spacing", f"{name} spacing {value:.3g} mm, wanted {bounds[0]:g} to {bounds[1]:g} mm"
    plane = _plane(grid)
    if limits.orientation and plane not in limits.orientation:
        yield "orientation", f"the slices are {plane}, wanted {' or '.join(limits.orientation)}"
    tilt = _tilt_degrees(grid)
    if limits.max_tilt_degrees is not None and tilt > limits.max_tilt_degrees:
        yield "gantry-tilt", f"the gantry is tilted by {tilt:.1f} degrees, at most {limits.max_tilt_degrees:g} are read"
    unit = volume.unit.value if volume.unit else ""
    if limits.unit is not None and _same_unit(unit) != _same_unit(limits.unit):
        why = "".join(f"; {note}" for note in volume.notes)
        yield "unit", f"the values are in {unit or 'no known unit'}, wanted {limits.unit}{why}"


def _plane(grid: Grid) -> str:
    """Return the anatomical plane nearest to that of the slices."""
    normal = np.cross(grid.affine[:3, 0], grid.affine[:3, 1])
    return _PLANES[int(np.abs(normal).argmax())]


def _tilt_degrees(grid: Grid) -> float:
    normal, step = np.cross(grid.affine[:3, 0], grid.affine[:3, 1]), grid.affine[:3, 2]
    cosine = abs(normal @ step) / (np.linalg.norm(normal) * np.linalg.norm(step))
    return math.degrees(math.acos(min(1.0, float(cosine))))


def _same_unit(unit: str) -> str:
    """Move annotations to the end: ``{SUVbw}g/ml`` was written for what is now ``g/ml{SUVbw}``."""
    return _ANNOTATION.sub("", unit) + "".join(_ANNOTATION.findall(unit))
