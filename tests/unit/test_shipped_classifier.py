"""The classifier that we ship: its weights, its card, its calibration, and that training is what the card says."""

from __future__ import annotations

import csv
import importlib.util
import re
import sys
import tomllib
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from scipy.special import expit

from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.volume import Volume
from imaging_ai.demo_phantom import write_demo_study
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.classify import classify, scores
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.volume import read_volume

MODELS = Path(__file__).resolve().parents[2] / "models"
BUNDLE = MODELS / "fdg-pet-slice"
HELD_OUT = [f"STS_{number:03d}" for number in range(3, 41, 3)]


@pytest.fixture(scope="module")
def entry() -> ModelEntry:
    return read_model(BUNDLE)


@pytest.fixture(scope="module")
def model(entry: ModelEntry) -> LoadedModel:
    return load_bundle(entry)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    study = write_demo_study(tmp_path_factory.mktemp("demo"), seed=1)
    return read_volume(path.read_bytes() for path in study.paths)


@pytest.fixture(scope="module")
def training() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_fdg_pet_slice", MODELS / "train_fdg_pet_slice.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_nothing_is_missing_in_its_description(entry: ModelEntry) -> None:
    assert entry.missing() == ()
    assert entry.outputs.kinds == ("SR",)
    assert entry.classifier is not None
    assert entry.classifier.calibrated(0)


def test_the_weights_are_small_and_plain() -> None:
    weights = BUNDLE / "models" / "model.pt"
    assert weights.stat().st_size < 3_000_000
    state = torch.load(weights, weights_only=True)
    assert all(isinstance(value, torch.Tensor) and value.isfinite().all() for value in state.values())


def test_the_card_belongs_to_these_weights_and_this_calibration() -> None:
    card = (BUNDLE / "docs" / "README.md").read_text()
    assert sha256((BUNDLE / "models" / "model.pt").read_bytes()).hexdigest() in card
    toml = tomllib.loads((BUNDLE / "dicom.toml").read_text())
    assert f"temperature {toml['classify']['temperature']:.2f}" in card
    assert f"sensitivity at {toml['classes'][0]['threshold']:g}" in card
    assert re.findall(r"^\| (STS_\d{3}) \|", card, re.MULTILINE) == HELD_OUT
    (area,) = re.findall(r"^\| area under the ROC curve \| (0\.\d{3})", card, re.MULTILINE)
    assert float(area) > 0.85


def test_monai_alone_gives_the_same_probabilities(model: LoadedModel, volume: Volume, tmp_path: Path) -> None:
    chosen = [0, 20, volume.grid.slices // 2]
    (tmp_path / "data").mkdir()
    for k in chosen:
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.grid.affine
        image = nibabel.Nifti1Image(volume.voxels[k].transpose(1, 0), affine)
        nibabel.save(image, tmp_path / "data" / f"{k:03d}.nii.gz")
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser["dataset_dir"], parser["output_dir"] = str(tmp_path / "data"), str(tmp_path / "eval")
    network = parser.get_parsed_content("network").eval()
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    post, inferer = (parser.get_parsed_content(name) for name in ("postprocessing", "inferer"))
    with torch.no_grad():
        for data in parser.get_parsed_content("dataset"):
            post({**data, "pred": inferer(data["image"][None], network)[0]})
    post.transforms[-1].get_saver().finalize()
    with (tmp_path / "eval" / "predictions.csv").open() as file:
        theirs = [float(row[-1]) for row in csv.reader(file)]
    ours = scores(model, volume)[chosen].astype(float)
    assert expit(ours[:, 1] - ours[:, 0]) == pytest.approx(theirs, abs=1e-4)


def test_a_bed_without_a_patient_has_no_tumour(model: LoadedModel, volume: Volume) -> None:
    from dataclasses import replace

    empty = replace(volume, voxels=np.zeros_like(volume.voxels))
    assert not any(one.present for one in classify(model, empty, "1.2"))


def test_training_twice_gives_the_same_weights(training: ModuleType) -> None:
    images = {1: torch.rand(6, 1, 80, 80, generator=torch.Generator().manual_seed(0)) * 5}
    patient = training.Patient(1, None, np.arange(6) > 2)
    quiet = lambda _: None  # noqa: E731
    one, other = (training.train([patient], images, BUNDLE, 2, quiet).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_temperature_is_the_one_that_the_log_odds_were_spoilt_by(training: ModuleType) -> None:
    random = np.random.default_rng(0)
    odds = random.normal(0, 2, 20_000)
    positive = random.random(odds.size) < expit(odds)
    assert training.temperature_of(odds * 3.0, positive) == pytest.approx(3.0, rel=0.05)
    assert training.calibration_error(expit(odds), positive) < 0.01
    assert training.calibration_error(expit(odds * 3), positive) > 0.08


def test_the_area_under_the_curve_counts_pairs_and_ties_half(training: ModuleType) -> None:
    score, positive = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True])
    assert training.area_under_curve(score, positive) == pytest.approx((1 + 1 + 1 + 0.5) / 4)


def test_the_threshold_is_where_sensitivity_and_specificity_add_up_to_most(training: ModuleType) -> None:
    chances = np.array([0.1, 0.2, 0.3, 0.7, 0.8])
    assert 0.3 < training.youden_threshold(chances, np.array([False, False, False, True, True])) <= 0.7
