"""`[refuse]`: series that a model must not read."""

from __future__ import annotations

from typing import Literal

from imaging_ai.catalog.table import Range, Table

__all__ = ["Limits"]


class Limits(Table, frozen=True):
    """Series that a model must not read; None where there is no limit.

    `intensity` bounds the 1st and the 99th percentile of the values, `min_contrast` is the least that lies between the
    two. What was given (`contrast`, `contrast_phases` of PS3.3 C.8.13.2.1) counts only where the series tells it.
    """

    min_slices: int | None = None
    max_slices: int | None = None
    min_coverage_mm: float | None = None
    slice_spacing_mm: Range | None = None
    pixel_spacing_mm: Range | None = None
    orientation: tuple[Literal["axial", "coronal", "sagittal"], ...] | None = None
    max_tilt_degrees: float | None = None
    unit: str | None = None
    modality: tuple[str, ...] | None = None
    contrast: Literal["with", "without"] | None = None
    contrast_phases: tuple[str, ...] | None = None
    intensity: Range | None = None
    min_contrast: float | None = None
