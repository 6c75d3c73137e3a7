"""Radiographs, photographs and endoscopies have no place in the patient: classifiers read them, segmenters do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

import phantoms
import zoo
from imaging_ai.catalog import read_model
from imaging_ai.errors import SeriesRefused
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.volume import read_volume


def photographs(modality: str = "ES") -> list[Dataset]:
    datasets = zoo.colored(phantoms.ball((3, 20, 30), inside=200), (1.0, 1.0, 1.0))
    for number, ds in enumerate(datasets):
        del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing
        ds.Modality, ds.InstanceNumber = modality, 3 - number
    return datasets


def test_images_without_a_place_come_in_the_order_of_their_numbers() -> None:
    datasets = photographs()
    volume = read_volume(datasets)
    assert not volume.located
    assert volume.voxels.shape == (3, 20, 30, 3)
    assert [source.sop_instance_uid for source in volume.sources] == [ds.SOPInstanceUID for ds in datasets[::-1]]
    assert volume.notes == ("the images have no place in the patient: each is read by itself",)


def test_the_frames_of_a_film_are_images() -> None:
    [ds, *_] = photographs()
    ds.NumberOfFrames, ds.PixelData = 4, ds.PixelData * 4
    assert read_volume([ds]).voxels.shape == (4, 20, 30, 3)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_slices_that_lost_their_place_are_refused(modality: str) -> None:
    with pytest.raises(SeriesRefused) as refusal:
        read_volume(photographs(modality))
    assert refusal.value.reason == "no-geometry"


def test_some_without_a_place_among_slices_are_refused() -> None:
    datasets = photographs()
    datasets[0].ImagePositionPatient = [0, 0, 0]
    with pytest.raises(SeriesRefused) as refusal:
        read_volume(datasets)
    assert refusal.value.reason == "no-geometry"


def test_a_segmenter_does_not_read_them(tmp_path: Path) -> None:
    volume = read_volume(photographs())
    with pytest.raises(SeriesRefused, match="only classifiers and detectors of single images") as refusal:
        load_bundle(read_model(phantoms.threshold_bundle(tmp_path / "threshold"))).predict(volume)
    assert refusal.value.reason == "no-geometry"
    assert np.isfinite(volume.voxels).all()
