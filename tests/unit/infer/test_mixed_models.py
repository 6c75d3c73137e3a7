"""A network that answers an image and numbers for classes: segments and evaluations in one report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import encoded
import phantoms
from imaging_ai.analysis import analyse
from imaging_ai.catalog import read_model
from imaging_ai.errors import ModelFailed
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.model import LoadedModel

CLASSES = """
[classify]
temperature = 1.0

[[classes]]
value = 1
label = "Bleeding"
finding = ["50960005", "SCT", "Hemorrhage"]
"""


class Both(torch.nn.Module):
    """The threshold of a bundle, and beside it 0 and how much the image's maximum is above 150."""

    def __init__(self, segmenter: torch.nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        highest = images.flatten(1).amax(1) - 150
        return self.segmenter(images), torch.stack([torch.zeros_like(highest), highest], 1)


def model(folder: Path) -> LoadedModel:
    bundle = phantoms.threshold_bundle(folder / "both")
    with (bundle / "dicom.toml").open("a") as toml:
        toml.write(CLASSES)
    loaded = load_bundle(read_model(bundle))
    loaded.network = Both(loaded.network)
    return loaded


@pytest.mark.parametrize(("inside", "kinds"), [(300.0, ["SEG", "SR"]), (100.0, ["SR"])])
def test_segments_and_classes_stand_in_one_report(tmp_path: Path, inside: float, kinds: list[str]) -> None:
    voxels = phantoms.ball((6, 20, 20), inside=inside)
    files = [phantoms.to_bytes(ds) for ds in phantoms.series(voxels)]
    analysis = analyse({"image": files}, model(tmp_path), lambda *_: None, job_uid="2.25.1", created_at=1e9)
    assert [one.kind for one in analysis.objects] == kinds
    (finding,), (said,) = analysis.findings, analysis.evaluations
    assert finding.found == said.present == (inside > 150)
    groups = encoded.read(analysis.objects[-1]).ContentSequence[-1].ContentSequence
    assert [group.ContentSequence[0].TextValue for group in groups] == ["Bright", "Bleeding"]


def test_classes_of_a_network_that_answers_only_an_image_are_a_mistake(tmp_path: Path) -> None:
    bundle = phantoms.threshold_bundle(tmp_path / "image", dicom_toml=CLASSES)
    files = [phantoms.to_bytes(ds) for ds in phantoms.series(np.zeros((6, 8, 8), np.float32))]
    with pytest.raises(ModelFailed, match="the network answers an image"):
        analyse({"image": files}, load_bundle(read_model(bundle)), lambda *_: None, job_uid="2.25.1", created_at=1e9)


def test_numbers_without_classes_are_not_taken_for_an_image(tmp_path: Path) -> None:
    bundle = phantoms.threshold_bundle(tmp_path / "numbers")
    config = bundle / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["network_def"]["kernel_size"] = [8, 8, 6]
    content["inferer"] = {"_target_": "SimpleInferer"}
    config.write_text(json.dumps(content))
    torch.save({"weight": torch.zeros(2, 1, 8, 8, 6), "bias": torch.zeros(2)}, bundle / "models" / "model.pt")
    files = [phantoms.to_bytes(ds) for ds in phantoms.series(np.zeros((6, 8, 8), np.float32))]
    with pytest.raises(ModelFailed, match="an answer must lie on the grid"):
        analyse({"image": files}, load_bundle(read_model(bundle)), lambda *_: None, job_uid="2.25.1", created_at=1e9)
