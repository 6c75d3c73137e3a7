"""Bundles and volumes that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import phantoms
from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.volume import Volume
from imaging_ai.infer.volume import read_volume

MakeEntry = Callable[..., ModelEntry]
MakeVolume = Callable[..., Volume]


@pytest.fixture
def make_entry(tmp_path: Path) -> MakeEntry:
    """Make a bundle that thresholds, and read it; arguments as for `phantoms.threshold_bundle`."""
    return lambda name="threshold", **how: read_model(phantoms.threshold_bundle(tmp_path / name, **how))


@pytest.fixture
def make_volume() -> MakeVolume:
    """Write a phantom as DICOM and read it back; arguments as for `phantoms.series`."""

    def make(voxels: NDArray[np.float32], **how: object) -> Volume:
        return read_volume(phantoms.to_bytes(ds) for ds in phantoms.series(voxels, **how))  # type: ignore[arg-type]

    return make
