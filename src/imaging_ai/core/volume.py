"""A series as a model sees it: oriented, rescaled voxels, and the frames that they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imaging_ai.core.finding import Code
from imaging_ai.core.geometry import Grid, SourceFrame

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Volume"]


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Voxels on a grid, with what is needed to write results that refer to them.

    Attributes
    ----------
    voxels
        float32 of the shape ``(slices, rows, columns)`` (``(slices, rows, columns, 3)`` for colour), modality
        values (after Rescale or Modality LUT; SUV for PET when the series allows it).
    grid
        Where the voxels lie; slice 0 is the one with the smallest position along the normal (row x column direction).
    sources
        For each slice, the frame it was read from, in the order of the slices.
    headers
        For each source *instance*, in the order of first use, its data set without pixel data; results copy patient,
        study and frame of reference from the first.
    unit
        UCUM unit of the voxels, None when the series does not tell.
    located
        Whether the images say where they lie in the patient; else the grid only orders them, and no length is known.
    notes
        What was left out or assumed in reading, a sentence each, without patient data.
    """

    voxels: NDArray[np.float32]
    grid: Grid
    sources: tuple[SourceFrame, ...]
    headers: tuple[Dataset, ...]
    modality: str
    unit: Code | None = None
    notes: tuple[str, ...] = ()
    located: bool = True
