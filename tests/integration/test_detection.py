"""The Model Zoo's detector of lung nodules, its configuration unchanged: from a series to reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom.sr.codedict import codes

import phantoms
import zoo
from imaging_ai.analysis import Analysis, analyse
from imaging_ai.catalog import read_model
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.detect import detect
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.volume import read_volume
from others import dciodvfy_errors, dsrdump

NAME = "lung_nodule_ct_detection"
BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / NAME


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The bundle with random weights, and scores that choose boxes."""
    return load_bundle(read_model(zoo.random_bundle(BUNDLE, tmp_path_factory.mktemp("zoo") / NAME)))


def analysed(model: LoadedModel, folder: Path, **geometry: Any) -> Analysis:
    image = phantoms.ball((8, 28, 32), radius=6.0, spacing=(2.5, 1.0, 1.0), inside=100.0, outside=-800.0)
    files = [phantoms.to_bytes(ds) for ds in phantoms.series(image, spacing=(2.5, 1.0, 1.0), **geometry)]
    analysis = analyse({"image": files}, model, lambda *_: None, job_uid="1.2", created_at=0.0)
    for number, one in enumerate(analysis.objects):
        (folder / f"{number}-{one.kind}.dcm").write_bytes(one.data)
    return analysis


def test_its_boxes_are_reports_and_pictures_that_others_accept(model: LoadedModel, tmp_path: Path) -> None:
    analysis = analysed(model, tmp_path, orientation=phantoms.OBLIQUE, reverse=True)
    assert model.notes == ("EnsureChannelFirstd no longer takes meta_key_postfix: dropped",)
    assert [one.present for one in analysis.evaluations] == [True] * 5
    assert [one.kind for one in analysis.objects][:2] == ["SR", "SR"]
    assert {one.kind for one in analysis.objects[2:]} == {"SC"}
    for file in sorted(tmp_path.iterdir()):
        assert dciodvfy_errors(file) == [], file.name
    said = dsrdump(tmp_path / "0-SR.dcm")
    assert said.count("Bounded by") == 5
    assert codes.DCM.VolumeSurface.meaning in said
    assert dsrdump(tmp_path / "1-SR.dcm").count("POLYLINE") == 5


def test_that_nothing_was_found_is_a_report_too(model: LoadedModel, tmp_path: Path) -> None:
    head = model.network.classification_head.cls_logits.bias  # type: ignore[union-attr]
    try:
        torch.nn.init.constant_(head, -9.0)  # type: ignore[arg-type]
        analysis = analysed(model, tmp_path)
    finally:
        torch.nn.init.zeros_(head)  # type: ignore[arg-type]
    assert [one.kind for one in analysis.objects] == ["SR"]
    assert "Absent" in dsrdump(tmp_path / "0-SR.dcm")
    assert dciodvfy_errors(tmp_path / "0-SR.dcm") == []


def test_along_the_axes_of_the_patient_its_boxes_are_those_of_its_own_postprocessing(model: LoadedModel) -> None:
    image = phantoms.ball((8, 28, 32), radius=6.0, spacing=(2.5, 1.0, 1.0), inside=100.0, outside=-800.0)
    volume = read_volume(phantoms.series(image, spacing=(2.5, 1.0, 1.0)))
    ours = [one.box for one in detect(model, volume, "1.2")]
    with model.running():
        (prepared,) = model.preparations(volume)
        assert model.retina is not None
        found = model.retina(prepared.inputs, model.network, lambda _: None)
        data: dict[str, Any] = dict(zip(found.keys, (found.boxes, found.labels, found.scores), strict=True))
        data["image"] = prepared.image
        for step in model.steps_after:
            data = step(data)
    best = data["label_scores"].argsort(descending=True, stable=True)[:5]
    theirs = data["box"][best].numpy()
    for box, (x, y, z, *size) in zip(ours, theirs, strict=True):
        assert box is not None
        assert np.array(box.centre) == pytest.approx((x, y, z), abs=0.36), "half a voxel, where ours ends at its edge"
        assert np.array(box.size) == pytest.approx(size, abs=0.71)
