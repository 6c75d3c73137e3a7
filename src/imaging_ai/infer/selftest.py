"""A trial of a model on made-up volumes that lie within its limits: does it run, how long, in how much memory.

The phantom has the grid that the model's limits ask for and a bright ball in the middle of air and tissue. It says
nothing about how good the answer is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from imaging_ai.catalog import ModelEntry
from imaging_ai.core.finding import Code
from imaging_ai.core.geometry import Grid, SourceFrame
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.infer.classify import classify
from imaging_ai.infer.detect import detect
from imaging_ai.infer.model import LoadedModel

__all__ = ["Trial", "phantom", "try_out"]

_SLICES, _PIXELS = 48, 128
_CT = "1.2.840.10008.5.1.4.1.1.2"
_AXES = {
    "axial": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "coronal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
}
#: Values of what surrounds, of tissue, and of the ball, by modality.
_VALUES = {"CT": (-1000.0, 40.0, 300.0), "PT": (0.0, 1.0, 12.0), "MR": (0.0, 300.0, 900.0)}


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial showed: shape of the input, seconds, bytes of memory beyond the model, and what came out."""

    shape: tuple[int, ...]
    seconds: float
    peak_bytes: int
    answer: str


def phantom(entry: ModelEntry) -> dict[str, Volume]:
    """Make a volume for each input of a model, within its limits, all on one grid."""
    limits = entry.refuse
    slice_spacing = float(np.mean(limits.slice_spacing_mm)) if limits.slice_spacing_mm else 2.0
    pixel_spacing = float(np.mean(limits.pixel_spacing_mm)) if limits.pixel_spacing_mm else 1.5
    slices = max(_SLICES, limits.min_slices or 0, int(np.ceil((limits.min_coverage_mm or 0) / slice_spacing)))
    slices = min(slices, limits.max_slices or slices)
    column, row, normal = _AXES[limits.orientation[0] if limits.orientation else "axial"]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = np.multiply(column, pixel_spacing), np.multiply(row, pixel_spacing)
    affine[:3, 2] = np.multiply(normal, slice_spacing)
    modality = next((known for known in _VALUES if entry.accepts.names("Modality", known)), "CT")
    unit = Code(limits.unit, "UCUM", limits.unit) if limits.unit else None
    shape = (slices, _PIXELS, _PIXELS)
    axes = (np.linspace(-1, 1, size) for size in shape)
    away = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    around, tissue, ball = _VALUES[modality]
    voxels = np.where(away < 0.3, ball, np.where(away < 0.9, tissue, around)).astype(np.float32)
    grid = Grid(*shape, affine, derive_uid("self-test", entry.digest))
    sources = tuple(SourceFrame(_CT, derive_uid(grid.frame_of_reference_uid, str(k)), 1, False) for k in range(slices))
    one = Volume(voxels, grid, sources, (), modality, unit)
    return dict.fromkeys(entry.inputs or ("image",), one)


def try_out(model: LoadedModel) -> Trial:
    """Run a model on its phantom.

    Raises
    ------
    ModelFailed, ModelOutOfMemory, SeriesRefused
        As the model does.
    """
    volumes = phantom(model.entry)
    first = next(iter(volumes.values()))
    began = time.perf_counter()
    said = _answer(model, volumes if model.entry.inputs else first)
    return Trial(first.grid.shape, time.perf_counter() - began, model.peak_bytes, said)


def _answer(model: LoadedModel, given: Volume | Mapping[str, Volume]) -> str:
    if model.entry.detector:
        boxes = [one for one in detect(model, given, "self-test") if one.box]
        return ", ".join(f"a box {one.tracking_identifier} {one.probability:.3f}" for one in boxes) or "no box"
    evaluations = classify(model, given, "self-test")
    whole = ", ".join(f"{one.description.label} {one.probability:.3f}" for one in evaluations if not one.instances)
    if not model.entry.segments and evaluations:
        return whole
    labels = model.predict(given)
    counts = np.bincount(labels.ravel().astype(np.int64)) if labels.ndim == 3 else labels.sum((1, 2, 3))
    said = f"{'label' if labels.ndim == 3 else 'channel'}s {', '.join(str(k) for k in np.flatnonzero(counts))}"
    return f"{said}; {whole}" if whole else said
