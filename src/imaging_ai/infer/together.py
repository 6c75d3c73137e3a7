"""Several series that a model reads as one image: of one patient and study, in one frame of reference, not apart.

Positions mean the same only within a Frame of Reference (PS3.3 C.7.4.1). Others could be put voxel on voxel all the
same, and a model would answer nonsense without a word.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from imaging_ai.core.geometry import Grid
from imaging_ai.core.volume import Volume
from imaging_ai.errors import SeriesRefused

__all__ = ["check_together"]

_OF_ONE = (
    ("PatientID", "mixed-patients", "patients"),
    ("StudyInstanceUID", "mixed-studies", "studies"),
)
#: The part of the first series that each other one must cover at least.
_COVERED = 0.1
#: From here on it is not told that something is beyond it.
_WHOLE = 0.95
#: So many places along each axis are looked at.
_PLACES = 9


def check_together(volumes: Mapping[str, Volume]) -> tuple[str, ...]:
    """Refuse inputs that do not belong together; return a sentence on each that does not reach all of the first.

    Raises
    ------
    SeriesRefused
        Naming the inputs, and in what they differ.
    """
    (name, first), *others = volumes.items()
    notes = []
    for other_name, other in others:
        both = f"the inputs {name} and {other_name}"
        for keyword, reason, what in _OF_ONE:
            if _said(first, keyword) != _said(other, keyword):
                raise SeriesRefused(reason, f"{both} are of different {what} ({keyword})")
        if not first.located and not other.located:
            if first.grid.shape != other.grid.shape:
                raise SeriesRefused("mixed-sizes", f"{both} have no place in the patient, and differ in size or number")
            continue
        if first.grid.frame_of_reference_uid != other.grid.frame_of_reference_uid:
            raise SeriesRefused(
                "mixed-frames-of-reference",
                f"{both} are not in one frame of reference (Frame of Reference UID), so that nobody knows what of one "
                "lies where in the other; register them first",
            )
        if (part := _covered(first.grid, other.grid)) < _COVERED:
            raise SeriesRefused("apart", f"{both} lie apart: {part:.0%} of the first is covered by the other")
        if part < _WHOLE:
            notes.append(f"the input {other_name} covers {part:.0%} of {name}: elsewhere it counts as its least value")
    return tuple(notes)


def _said(volume: Volume, keyword: str) -> str:
    return str(volume.headers[0].get(keyword) or "").strip() if volume.headers else ""


def _covered(grid: Grid, other: Grid) -> float:
    """Return how much of a grid lies within the voxels of another."""
    axes = (np.linspace(0, size - 1, _PLACES) for size in grid.shape)
    places = grid.to_patient(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3))
    indices = (places - other.affine[:3, 3]) @ np.linalg.inv(other.affine[:3, :3]).T
    sizes = np.array([other.columns, other.rows, other.slices])
    return float(np.all((indices >= -0.5) & (indices <= sizes - 0.5), axis=1).mean())
