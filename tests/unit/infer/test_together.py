"""Series that one model reads together belong to one patient, study and frame of reference, and lie over each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydicom import Dataset

import encoded
import phantoms
from imaging_ai.analysis import analyse
from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.volume import Volume
from imaging_ai.errors import SeriesRefused
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.tensors import image_tensor, resampled_onto
from imaging_ai.infer.together import check_together
from imaging_ai.infer.volume import read_volume

MakeVolume = Callable[..., Volume]
SHAPE = (8, 20, 24)
TOML = '[inputs.first]\n[inputs.second]\n[[segments]]\nvalue = 1\nlabel = "Bright in the first"\n'


def named(name: str, **geometry: Any) -> list[Dataset]:
    """Write a series of the one study, in its frame of reference."""
    datasets = phantoms.series(phantoms.corner(SHAPE), modality="MR", **geometry)
    for ds in datasets:
        ds.SeriesInstanceUID = f"{ds.SeriesInstanceUID}.{name}"
        ds.SOPInstanceUID = f"{ds.SOPInstanceUID}.{name}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return datasets


def of_another(keyword: str, value: str) -> dict[str, Volume]:
    second = named("2")
    for ds in second:
        setattr(ds, keyword, value)
    return {"first": read_volume(named("1")), "second": read_volume(second)}


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("PatientID", "SOMEBODY ELSE", "mixed-patients"),
        ("StudyInstanceUID", "1.2.3", "mixed-studies"),
        ("FrameOfReferenceUID", "1.2.3", "mixed-frames-of-reference"),
        ("FrameOfReferenceUID", "", "mixed-frames-of-reference"),
    ],
)
def test_what_does_not_belong_together_is_refused_and_nobody_named(keyword: str, value: str, reason: str) -> None:
    with pytest.raises(SeriesRefused, match="the inputs first and second") as refusal:
        check_together(of_another(keyword, value))
    assert refusal.value.reason == reason
    assert "ELSE" not in refusal.value.message


def test_what_lies_apart_is_refused_and_what_is_smaller_is_not() -> None:
    first = read_volume(named("1"))
    with pytest.raises(SeriesRefused, match="0% of the first is covered") as refusal:
        check_together({"first": first, "second": read_volume(named("2", origin=(-30.0, -40.0, 500.0)))})
    assert refusal.value.reason == "apart"
    (note,) = check_together({"first": first, "second": read_volume(named("2", origin=(-20.0, -40.0, 54.0)))})
    assert "the input second covers 43% of first" in note
    check_together(
        {"first": first, "second": read_volume(named("2", orientation=phantoms.CORONAL, origin=(-30, -35, 66)))}
    )
    assert check_together({"first": first}) == check_together({"first": first, "second": first}) == ()


def radiograph(name: str, rows: int) -> Volume:
    """Read an image without a place in the patient."""
    ds = named(name)[0]
    del ds.ImagePositionPatient, ds.ImageOrientationPatient
    ds.Modality, ds.Rows, ds.PixelData = "DX", rows, bytes(rows * SHAPE[2] * 2)
    return read_volume([ds])


def test_images_without_a_place_go_together_pixel_by_pixel_or_not_at_all() -> None:
    check_together({"first": radiograph("1", 20), "second": radiograph("2", 20)})
    with pytest.raises(SeriesRefused, match="differ in size") as refusal:
        check_together({"first": radiograph("1", 20), "second": radiograph("2", 24)})
    assert refusal.value.reason == "mixed-sizes"


def two_channels(entry: ModelEntry) -> LoadedModel:
    """Make a model of two inputs that finds what is bright in the first."""
    file = entry.path / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"]["in_channels"] = 2
    file.write_text(json.dumps(config))
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).reshape(2, 2, 1, 1, 1)
    torch.save({"weight": weight, "bias": torch.tensor([0.0, -150.0])}, entry.path / "models" / "model.pt")
    return load_bundle(read_model(entry.path))


def test_a_model_refuses_series_of_two_frames_of_reference(make_entry: Callable[..., ModelEntry]) -> None:
    model = two_channels(make_entry(dicom_toml=TOML))
    with pytest.raises(SeriesRefused, match="not in one frame of reference"):
        model.predict(of_another("FrameOfReferenceUID", "1.2.3"))


def test_the_result_lies_on_the_first_input_in_whichever_order_the_series_come(
    make_entry: Callable[..., ModelEntry],
) -> None:
    model = two_channels(make_entry(dicom_toml=TOML))
    first, second = named("1"), named("2", origin=(-31.0, -40.0, 50.0))  # as many voxels, in another place
    files = {"second": [phantoms.to_bytes(ds) for ds in second], "first": [phantoms.to_bytes(ds) for ds in first]}
    analysis = analyse(files, model, lambda *_: None, job_uid="2.25.1", created_at=1e9)
    seg = encoded.read(analysis.objects[0])
    position = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    assert position[0] == -30
    (finding,) = analysis.findings
    assert np.array_equal(finding.mask, phantoms.corner(SHAPE) > 150)


def test_what_a_ct_does_not_reach_is_air_and_not_water() -> None:
    air = read_volume(phantoms.series(np.full(SHAPE, -1000, np.float32), spacing=(2.0, 0.5, 0.5)))
    target = read_volume(phantoms.series(np.zeros(SHAPE, np.float32)))
    moved = resampled_onto(image_tensor(air), image_tensor(target))
    assert moved.shape == image_tensor(target).shape
    assert moved.unique().tolist() == [-1000]
