"""Series that a model must not read: the limits of `dicom.toml`, each refused with a coded reason."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom import Dataset

from imaging_ai.catalog import Limits, ModelEntry
from imaging_ai.core.geometry import Grid
from imaging_ai.core.volume import Volume
from imaging_ai.errors import SeriesRefused

__all__ = ["check_limits"]

_PLANES = {0: "sagittal", 1: "coronal", 2: "axial"}
#: Values that percentiles are taken of, evenly through the volume.
_SAMPLES = 1_000_000
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
    yield from _acquired_otherwise(volume, limits)
    yield from _placed_otherwise(volume.grid, limits)
    yield from _valued_otherwise(volume, limits)


def _acquired_otherwise(volume: Volume, limits: Limits) -> Iterator[tuple[str, str]]:
    if limits.modality is not None and volume.modality not in limits.modality:
        yield "modality", f"it is {volume.modality or 'of no modality'}, wanted {' or '.join(limits.modality)}"
    header = volume.headers[0] if volume.headers else Dataset()
    given = _contrast_given(header)
    if limits.contrast == "with" and given is False:
        yield "no-contrast", "it says that no contrast agent was given, and the model reads only series with contrast"
    if limits.contrast == "without" and given:
        yield "contrast", "a contrast agent was given, and the model reads only series without contrast"
    phases = {str(item.get("ContrastBolusAgentPhase", "")).upper() for item in _usage(header)} - {""}
    if limits.contrast_phases and phases and phases.isdisjoint(phase.upper() for phase in limits.contrast_phases):
        said, wanted = ", ".join(sorted(phases)), " or ".join(limits.contrast_phases)
        yield "contrast-phase", f"the contrast phase is {said}, wanted {wanted}"


def _contrast_given(header: Dataset) -> bool | None:
    """Say whether a contrast agent was given, None where the series does not tell."""
    if "ContrastBolusAgentSequence" in header:
        return bool(header.ContrastBolusAgentSequence)
    if "ContrastBolusAgent" not in header:
        return None
    return str(header.ContrastBolusAgent or "").strip().upper() not in ("", "NO", "NONE", "N")


def _usage(header: Dataset) -> Sequence[Dataset]:
    """Return how contrast was used (Contrast/Bolus Usage functional group, PS3.3 C.8.13.2.1), of the first frame."""
    for groups in (header.get("SharedFunctionalGroupsSequence"), header.get("PerFrameFunctionalGroupsSequence")):
        if groups and (usage := groups[0].get("ContrastBolusUsageSequence")):
            return list(usage)
    return ()


def _valued_otherwise(volume: Volume, limits: Limits) -> Iterator[tuple[str, str]]:
    unit = volume.unit.value if volume.unit else ""
    if limits.unit is not None and _same_unit(unit) != _same_unit(limits.unit):
        why = "".join(f"; {note}" for note in volume.notes)
        yield "unit", f"the values are in {unit or 'no known unit'}, wanted {limits.unit}{why}"
    if limits.intensity is None and limits.min_contrast is None:
        return
    values = volume.voxels.reshape(-1)
    low, high = (float(value) for value in np.percentile(values[:: max(1, values.size // _SAMPLES)], (1, 99)))
    if limits.intensity is not None and not (limits.intensity[0] <= low and high <= limits.intensity[1]):
        wanted = f"{limits.intensity[0]:g} to {limits.intensity[1]:g}"
        yield "intensity", f"98 % of its values lie from {low:.4g} to {high:.4g}, wanted within {wanted}"
    if limits.min_contrast is not None and high - low < limits.min_contrast:
        yield "flat", f"98 % of its values lie within {high - low:.4g}, at least {limits.min_contrast:g} are needed"


def _placed_otherwise(grid: Grid, limits: Limits) -> Iterator[tuple[str, str]]:
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
