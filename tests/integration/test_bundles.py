"""Bundles of the MONAI Model Zoo run as they stand on real series, with random weights: what they say is noise, but it
must lie on the grid of the source, in the labels that the bundle knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import phantoms
from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.volume import Volume
from imaging_ai.errors import BundleInvalid
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.segment import find
from imaging_ai.infer.volume import read_volume
from zoo import colored, random_bundle

ZooBundle = Callable[[str], ModelEntry]


@pytest.fixture
def zoo_bundle(real_data: Path, tmp_path: Path) -> ZooBundle:
    """Copy a bundle of the zoo and give it the weights that its network begins with."""

    return lambda name: read_model(random_bundle(real_data / "zoo" / name, tmp_path / name))


def read_folder(folder: Path) -> Volume:
    """Read the instances of a folder, as the command line does; an index of the media is none."""
    files = (file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "DIRFILE")
    return read_volume([data for data in files if data[128:132] == b"DICM"])


def labels(prediction: NDArray[np.generic]) -> set[int]:
    return {int(value) for value in np.unique(prediction)}


def test_the_spleen_bundle_reads_a_ct(real_data: Path, zoo_bundle: ZooBundle) -> None:
    volume = read_folder(real_data / "ct-abdomen-3mm" / "dicom")
    small = dataclasses.replace(
        volume,
        voxels=volume.voxels[:32].copy(),
        grid=dataclasses.replace(volume.grid, slices=32),
        sources=volume.sources[:32],
    )
    model = load_bundle(zoo_bundle("spleen_ct_segmentation"))
    answer = model.predict(small)
    assert answer.shape == small.grid.shape
    assert labels(answer) <= {0, 1}
    [finding] = find(answer, small, model.entry, "1.2.3")
    assert finding.tracking_identifier == "spleen"


@pytest.mark.slow
def test_the_spleen_bundle_reads_a_tilted_ct(real_data: Path, zoo_bundle: ZooBundle) -> None:
    volume = read_folder(real_data / "ct-gantry-tilt")
    row, column, step = volume.grid.affine[:3, :3].T
    assert abs(np.cross(row, column) @ step) < 0.96 * np.prod(volume.grid.spacing), "the stack is sheared"
    answer = load_bundle(zoo_bundle("spleen_ct_segmentation")).predict(volume)
    assert answer.shape == volume.grid.shape
    assert labels(answer) <= {0, 1}


@pytest.mark.slow
def test_the_prostate_bundle_reads_an_mr(zoo_bundle: ZooBundle) -> None:
    image = phantoms.ball((10, 60, 60), radius=10, spacing=(3, 0.5, 0.5))
    volume = read_volume(phantoms.series(image, modality="MR", spacing=(3.0, 0.5, 0.5)))
    answer = load_bundle(zoo_bundle("prostate_mri_anatomy")).predict(volume)
    assert answer.shape == volume.grid.shape
    assert labels(answer) <= {0, 1, 2}


@pytest.mark.slow
def test_the_transformer_bundle_loses_an_argument_that_monai_has_removed(zoo_bundle: ZooBundle) -> None:
    volume = read_volume(phantoms.series(phantoms.ball((12, 48, 48), radius=20), spacing=(3.0, 1.5, 1.5)))
    model = load_bundle(zoo_bundle("swin_unetr_btcv_segmentation"))
    assert model.notes == ("SwinUNETR no longer takes img_size: dropped",)
    answer = model.predict(volume)
    assert answer.shape == volume.grid.shape
    assert labels(answer) <= set(range(14))


@pytest.mark.slow
def test_the_whole_body_bundle_answers_104_labels(zoo_bundle: ZooBundle) -> None:
    volume = read_volume(phantoms.series(phantoms.ball((12, 48, 48), radius=20), spacing=(3.0, 1.5, 1.5)))
    model = load_bundle(zoo_bundle("wholeBody_ct_segmentation"))
    answer = model.predict(volume)
    assert answer.shape == volume.grid.shape
    assert len(find(answer, volume, model.entry, "1.2.3")) == 104


@pytest.mark.slow
def test_the_endoscopy_bundle_reads_color_slices(zoo_bundle: ZooBundle) -> None:
    datasets = colored(np.random.default_rng(1).uniform(0, 255, (2, 120, 160)).astype(np.float32), (1.0, 1.0, 1.0))
    answer = load_bundle(zoo_bundle("endoscopic_tool_segmentation")).predict(read_volume(datasets))
    assert answer.shape == (2, 120, 160)
    assert labels(answer) <= {0, 1}


def test_a_bundle_without_weights_is_refused(real_data: Path) -> None:
    with pytest.raises(BundleInvalid, match=r"model\.pt is missing"):
        load_bundle(read_model(real_data / "zoo" / "spleen_ct_segmentation"))


@pytest.mark.parametrize("folder", ["ct-abdomen-3mm/dicom", "ct-abdomen-slab/dicom", "ct-gantry-tilt", "mr-head-t1"])
def test_real_series_are_volumes_that_keep_their_geometry(real_data: Path, folder: str) -> None:
    volume = read_folder(real_data / folder)
    assert not volume.notes
    positions = np.array([header.ImagePositionPatient for header in volume.headers], dtype=float)
    indices = np.array([(k, 0, 0) for k in range(volume.grid.slices)], dtype=float)
    assert np.abs(volume.grid.to_patient(indices) - positions).max() < 0.02
    assert np.isfinite(volume.voxels).all()


def test_every_pet_of_the_training_set_is_suv(real_data: Path) -> None:
    folders = sorted((real_data / "sts").glob("STS_*/PET/image"))[:6]
    for folder in folders:
        volume = read_folder(folder)
        assert volume.unit is not None and volume.unit.value == "g/ml{SUVbw}"
        assert volume.voxels.min() >= 0 and 2 < volume.voxels.max() < 200
