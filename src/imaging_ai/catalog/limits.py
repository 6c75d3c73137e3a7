"""`[refuse]`: series that a model must not read."""

from __future__ import annotations

from typing import Literal

from imaging_ai.catalog.table import Range, Table

__all__ = ["Limits"]


class Limits(Table, frozen=True):
    """Series that a model must not read; None where there is no limit."""

    min_slices: int | None = None
    max_slices: int | None = None
    min_coverage_mm: float | None = None
    slice_spacing_mm: Range | None = None
    pixel_spacing_mm: Range | None = None
    orientation: tuple[Literal["axial", "coronal", "sagittal"], ...] | None = None
    max_tilt_degrees: float | None = None
    unit: str | None = None
