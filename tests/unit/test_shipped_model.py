"""The model that we ship: its weights, its card, and that it finds what is there and nothing where nothing is."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from scipy import ndimage

import phantoms
from imaging_ai.analysis import analyse
from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.volume import Volume
from imaging_ai.demo_phantom import BODY, LESION, DemoStudy, uptake, write_demo_study
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.segment import find
from imaging_ai.infer.volume import read_volume
from rtstruct import dice

MODELS = Path(__file__).resolve().parents[2] / "models"
BUNDLE = MODELS / "fdg-pet-lesion"
HELD_OUT = [f"STS_{number:03d}" for number in range(3, 41, 3)]


@pytest.fixture(scope="module")
def entry() -> ModelEntry:
    return read_model(BUNDLE)


@pytest.fixture(scope="module")
def model(entry: ModelEntry) -> LoadedModel:
    return load_bundle(entry)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> DemoStudy:
    return write_demo_study(tmp_path_factory.mktemp("demo"), seed=1)


@pytest.fixture(scope="module")
def volume(study: DemoStudy) -> Volume:
    return read_volume(path.read_bytes() for path in study.paths)


@pytest.fixture(scope="module")
def training() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_fdg_pet_lesion", MODELS / "train_fdg_pet_lesion.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def lesion_in(model: LoadedModel, volume: Volume) -> tuple[NDArray[np.bool_], float]:
    """Return the mask of the finding, and its volume in ml as it is reported (0 when nothing is found)."""
    findings = find(model.predict(volume), volume, model.entry, "1.2.3")
    assert len(findings) == 1
    volumes = [m.value for m in findings[0].measurements if m.quantity.meaning == "Volume"]
    return findings[0].mask, volumes[0] if volumes else 0.0


def test_nothing_is_missing_in_its_description(entry: ModelEntry) -> None:
    assert entry.missing() == ()
    assert [segment.label for segment in entry.segments] == ["Lesion"]


def test_it_reads_pet_in_suv(entry: ModelEntry, volume: Volume) -> None:
    assert entry.accepts.mismatches({"Modality": "PT"}, 80) == []
    assert entry.accepts.mismatches({"Modality": "CT"}, 80) != []
    assert entry.accepts.mismatches({"Modality": "PT"}, 3) != []
    assert volume.unit is not None
    assert entry.refuse.unit == volume.unit.value


def test_it_finds_the_lesion_of_the_demo_within_a_fifth_of_its_volume(
    model: LoadedModel, study: DemoStudy, volume: Volume
) -> None:
    mask, reported = lesion_in(model, volume)
    assert dice(mask, study.lesion) > 0.85
    assert reported == pytest.approx(study.true_volume_ml, rel=0.2)


@pytest.mark.parametrize("seed", [2, 3])
def test_it_finds_the_lesion_in_other_noise(model: LoadedModel, study: DemoStudy, volume: Volume, seed: int) -> None:
    noisy = replace(volume, voxels=uptake((*BODY, LESION), seed=seed))
    assert dice(lesion_in(model, noisy)[0], study.lesion) > 0.85


def test_its_objects_are_a_segmentation_reports_a_probability_map_and_pictures(
    model: LoadedModel, study: DemoStudy, volume: Volume
) -> None:
    files = [path.read_bytes() for path in study.paths]
    analysis = analyse({"image": files}, model, lambda *_: None, job_uid="2.25.1", created_at=1e9)
    kinds = [one.kind for one in analysis.objects]
    assert kinds[:4] == ["SEG", "SR", "SR", "PM"]
    assert set(kinds[4:]) == {"SC"}
    chances = pydicom.dcmread(io.BytesIO(analysis.objects[3].data)).pixel_array
    (finding,) = analysis.findings
    assert np.array_equal(finding.mask, (chances > 0.5) & finding.mask)
    assert chances[study.lesion].mean() > 0.7
    assert chances[~ndimage.binary_dilation(study.lesion, iterations=3)].max() < 0.1
    first = pydicom.dcmread(io.BytesIO(analysis.objects[4].data))
    areas = np.count_nonzero(finding.mask, axis=(1, 2))
    assert f"slice {areas.argmax() + 1} of {len(areas)}" in first.ImageComments


def test_nothing_found_is_a_report_and_no_picture(model: LoadedModel, tmp_path: Path) -> None:
    healthy = phantoms.pet_series(uptake(BODY, seed=1), spacing=(4.0, 4.0, 4.0))
    files = [phantoms.to_bytes(ds) for ds in healthy]
    analysis = analyse({"image": files}, model, lambda *_: None, job_uid="2.25.1", created_at=1e9)
    assert not analysis.findings[0].found
    assert [one.kind for one in analysis.objects][:1] == ["SR"]
    assert {one.kind for one in analysis.objects} <= {"SR", "PM"}


def test_a_bed_without_a_patient_has_no_lesion(model: LoadedModel, volume: Volume) -> None:
    empty = replace(volume, voxels=np.zeros_like(volume.voxels))
    mask, reported = lesion_in(model, empty)
    assert not mask.any()
    assert reported == 0


def test_monai_alone_gives_the_same_answer(model: LoadedModel, volume: Volume, tmp_path: Path) -> None:
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    image = nibabel.Nifti1Image(volume.voxels.transpose(2, 1, 0), to_ras @ volume.grid.affine)
    (tmp_path / "data").mkdir()
    nibabel.save(image, tmp_path / "data" / "demo.nii.gz")
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser["dataset_dir"], parser["output_dir"] = str(tmp_path / "data"), str(tmp_path / "eval")
    network = parser.get_parsed_content("network").eval()
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    data = parser.get_parsed_content("dataset")[0]
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
    parser.get_parsed_content("postprocessing")(data)
    written = nibabel.load(tmp_path / "eval" / "demo_lesion.nii.gz")
    labels = np.asarray(written.dataobj).transpose(2, 1, 0) > 0
    assert dice(labels, np.asarray(model.predict(volume)) > 0) > 0.999


def test_the_weights_are_small_and_plain() -> None:
    weights = BUNDLE / "models" / "model.pt"
    assert weights.stat().st_size < 5_000_000
    state = torch.load(weights, weights_only=True)
    assert all(isinstance(value, torch.Tensor) and value.isfinite().all() for value in state.values())


def test_the_card_belongs_to_these_weights_and_names_every_patient_held_out() -> None:
    card = (BUNDLE / "docs" / "README.md").read_text()
    assert sha256((BUNDLE / "models" / "model.pt").read_bytes()).hexdigest() in card
    scores = dict(re.findall(r"^\| (STS_\d{3}) \| (0\.\d\d) \|", card, re.MULTILINE))
    assert list(scores) == HELD_OUT
    assert np.median([float(value) for value in scores.values()]) >= 0.70
    licence = (BUNDLE / "LICENSE").read_text()
    for credit in ("10.7937/K9/TCIA.2015.7GO2GSKS", "10.1088/0031-9155/60/14/5471", "10.1007/s10278-013-9622-7"):
        assert credit in licence


def test_training_twice_gives_the_same_weights(training: ModuleType, study: DemoStudy, volume: Volume) -> None:
    pair = torch.from_numpy(np.stack([volume.voxels, study.lesion]).transpose(0, 3, 2, 1).astype(np.float32))
    tumour = np.argwhere(pair[1].numpy() > 0)
    patient = training.Patient(1, volume, study.lesion, pair.contiguous(), np.full(3, 4.0), tumour)
    bundle = training.Bundle(BUNDLE)
    one, other = (training.train([patient], bundle, 2, lambda _: None).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    fresh = bundle.network().state_dict()
    assert not all(torch.equal(one[name], fresh[name]) for name in one)


def test_no_patient_is_both_trained_on_and_held_out(training: ModuleType, study: DemoStudy, volume: Volume) -> None:
    patients = [
        training.Patient(n, volume, study.lesion, torch.empty(0), np.ones(3), np.empty(0)) for n in range(1, 41)
    ]
    assert [f"STS_{p.number:03d}" for p in patients if p.held_out] == HELD_OUT
