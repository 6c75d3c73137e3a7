"""Series that would give a wrong answer are refused with a coded reason; odd ones that are right are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import Dataset

import phantoms
import zoo
from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.identity import derive_uid
from imaging_ai.errors import ModelFailed, SeriesRefused
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.volume import read_volume

MakeEntry = Callable[..., ModelEntry]


OWN = ("SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient")


def stack(count: int, turn_degrees: float = 0.0) -> list[Dataset]:
    """Make a series of `count` empty slices of 16 x 16, each turned about the row by so much more."""
    [first] = phantoms.series(np.zeros((1, 16, 16), np.float32))
    datasets = []
    for k in range(count):
        ds = Dataset()
        ds.update({element.tag: element for element in first if element.keyword not in OWN})
        ds.file_meta = first.file_meta
        ds.SOPInstanceUID = derive_uid("stack", str(k))
        ds.ImagePositionPatient = [0, 0, 0.5 * k]
        angle = np.deg2rad(k * turn_degrees)
        ds.ImageOrientationPatient = [1, 0, 0, 0, round(float(np.cos(angle)), 6), round(float(np.sin(angle)), 6)]
        datasets.append(ds)
    return datasets


@pytest.mark.slow
def test_five_thousand_slices_are_a_volume(make_entry: MakeEntry) -> None:
    volume = read_volume(stack(5000))
    assert volume.grid.shape == (5000, 16, 16)
    assert volume.grid.spacing[0] == pytest.approx(0.5)
    assert not load_bundle(make_entry(window=16)).predict(volume).any()


def test_slices_around_an_axis_are_refused_without_comparing_each_with_each() -> None:
    with pytest.raises(SeriesRefused, match="more than 50 directions") as refusal:
        read_volume(stack(200, turn_degrees=0.9))
    assert refusal.value.reason == "mixed-orientations"


def test_signed_pixels_that_are_declared_unsigned_are_refused() -> None:
    datasets = phantoms.series(np.full((3, 16, 16), -1000, np.float32))
    for ds in datasets:
        ds.PixelRepresentation = 0
    with pytest.raises(SeriesRefused, match="CT numbers reach 64536: signed pixels") as refusal:
        read_volume(datasets)
    assert refusal.value.reason == "implausible-values"


def test_one_slice_is_no_volume_to_a_network_of_volumes(make_entry: MakeEntry) -> None:
    volume = read_volume(phantoms.series(phantoms.corner((1, 20, 20))))
    entry = make_entry(dicom_toml='[[segments]]\nvalue = 1\nlabel = "Bright"\n')
    with pytest.raises(SeriesRefused, match="one slice is no volume") as refusal:
        load_bundle(entry).predict(volume)
    assert refusal.value.reason == "too-few-slices"


def test_one_slice_is_enough_for_a_flat_network(tmp_path: Path) -> None:
    volume = read_volume(phantoms.series(phantoms.corner((1, 20, 20))))
    model = load_bundle(read_model(flat(tmp_path, channels=1)))
    assert np.array_equal(model.predict(volume) > 0, volume.voxels > 150)


def test_color_given_to_a_network_for_grey_and_grey_to_one_for_color_fail(
    make_entry: MakeEntry, tmp_path: Path
) -> None:
    color = read_volume(zoo.colored(phantoms.corner((4, 20, 24)), (2.0, 1.0, 1.0)))
    grey = read_volume(phantoms.series(phantoms.corner((4, 20, 24))))
    with pytest.raises(ModelFailed, match=r"expected input.* to have 1 channels, but got 3"):
        load_bundle(make_entry()).predict(color)
    with pytest.raises(ModelFailed, match=r"expected input.* to have 3 channels, but got 1"):
        load_bundle(read_model(flat(tmp_path, channels=3))).predict(grey)


@pytest.mark.parametrize("spacing", [(12.0, 0.4, 0.4), (0.5, 3.0, 1.0)])
def test_anisotropic_and_cropped_series_come_back_on_their_own_grid(
    make_entry: MakeEntry, spacing: tuple[float, float, float]
) -> None:
    image = phantoms.corner((12, 40, 48))[1:, 5:, 4:]  # cut through the bright block
    volume = read_volume(phantoms.series(image, spacing=spacing, orientation=phantoms.OBLIQUE, slope=-0.5))
    answer = load_bundle(make_entry(pixdim=(1.0, 1.0, 2.0))).predict(volume)
    assert answer.shape == image.shape
    both = int(((answer > 0) & (image > 150)).sum())
    assert 2 * both / (int((answer > 0).sum()) + int((image > 150).sum())) > 0.8


def flat(folder: Path, *, channels: int) -> Path:
    """Make a bundle that thresholds each slice."""
    bundle = phantoms.threshold_bundle(folder / "flat")
    (bundle / "dicom.toml").write_text('[[segments]]\nvalue = 1\nlabel = "Bright"\n')
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    network = {"_target_": "torch.nn.Conv2d", "in_channels": channels, "out_channels": 2, "kernel_size": 1}
    file.write_text(json.dumps({**config, "network_def": network}))
    weight = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).repeat(1, channels, 1, 1) / channels
    torch.save({"weight": weight, "bias": torch.tensor([0.0, -150.0])}, bundle / "models" / "model.pt")
    return bundle
