"""Where voxels lie in the patient: regular grids in the reference coordinate system (PS3.3 C.7.6.2.1.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid", "SourceFrame"]

_LEANS = 0.35


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A stack of parallel, evenly spaced planes.

    Arrays on a grid are indexed ``[slice, row, column]`` with the shape ``(slices, rows, columns)``.
    `affine` is 4 x 4 float64 and maps homogeneous ``(column, row, slice, 1)`` indices to LPS+ millimetres
    (x to the patient's left, y to the back, z to the head); voxel centres are at whole indices.
    A sheared stack (gantry tilt) has a third column that is not normal to the first two.
    """

    slices: int
    rows: int
    columns: int
    affine: NDArray[np.float64]
    frame_of_reference_uid: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(slices, rows, columns)``."""
        return self.slices, self.rows, self.columns

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in millimetres between neighbouring slices, rows and columns, in that order."""
        columns, rows, slices = (float(np.linalg.norm(self.affine[:3, axis])) for axis in range(3))
        return slices, rows, columns

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in cubic millimetres (the determinant, so right for sheared stacks too)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def patient_orientation(self) -> tuple[str, str]:
        """Where the rows and the columns lead, as in Patient Orientation (PS3.3 C.7.6.1.1.1): ``("L", "P")``."""
        return _towards(self.affine[:3, 0]), _towards(self.affine[:3, 1])

    @property
    def axes(self) -> tuple[str, str, str]:
        """Where slices, rows and columns lead as their indices grow: ``("H", "P", "L")``."""
        columns, rows, slices = (_towards(self.affine[:3, axis]) for axis in range(3))
        return slices, rows, columns

    def to_patient(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map an ``(n, 3)`` array of (slice, row, column) indices to ``(n, 3)`` LPS+ millimetres."""
        swapped = np.asarray(indices, dtype=np.float64)[:, ::-1]
        return np.asarray(swapped @ self.affine[:3, :3].T + self.affine[:3, 3])


def _towards(direction: NDArray[np.float64]) -> str:
    """Name a direction: its main axis first, others where it leans to them by more than some twenty degrees."""
    cosines = direction / np.linalg.norm(direction)
    letters = [("LPH" if cosine > 0 else "RAF")[axis] for axis, cosine in enumerate(cosines)]
    return "".join(letters[axis] for axis in np.argsort(-np.abs(cosines)) if abs(cosines[axis]) > _LEANS)


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """The frame that slice k of a grid was read from; `frame_number` counts from 1."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int
    multi_frame: bool
