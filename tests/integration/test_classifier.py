"""Classifiers on real series: the shipped one on patients that it never saw, and one of the Model Zoo."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from scipy.stats import rankdata

import phantoms
from imaging_ai.catalog import read_model
from imaging_ai.encode import check, encode_results
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.classify import classify
from imaging_ai.infer.volume import read_volume
from others import dciodvfy_errors
from rtstruct import rasterise
from zoo import random_bundle

BUNDLE = Path(__file__).resolve().parents[2] / "models" / "fdg-pet-slice"


def test_the_card_tells_what_comes_out_on_patients_never_seen(real_data: Path) -> None:
    card = (BUNDLE / "docs" / "README.md").read_text()
    rows = re.findall(r"^\| (STS_\d{3}) \| (\d+) \| (\d+) \| (\S+) \| (\d+) \| (\d+) \|$", card, re.MULTILINE)
    model = load_bundle(read_model(BUNDLE))
    for name, slices, with_tumour, area, missed, false_alarms in rows[::4]:
        folder = real_data / "sts" / name / "PET"
        volume = read_volume(file.read_bytes() for file in (folder / "image").iterdir())
        positive = rasterise(dcmread(folder / "mask" / "RS.dcm"), volume.grid).any(axis=(1, 2))
        _, *each = classify(model, volume, name)
        present = np.array([one.present for one in each])
        ranks = rankdata([one.probability for one in each])[positive].sum()
        count, others = int(positive.sum()), int((~positive).sum())
        assert (len(each), count) == (int(slices), int(with_tumour))
        assert (ranks - count * (count + 1) / 2) / (count * others) == pytest.approx(float(area), abs=0.02)
        assert np.sum(positive & ~present) == pytest.approx(int(missed), abs=2)
        assert np.sum(~positive & present) == pytest.approx(int(false_alarms), abs=2)


def test_a_classifier_of_the_zoo_runs_as_it_stands(real_data: Path, tmp_path: Path) -> None:
    bundle = random_bundle(real_data / "zoo" / "endoscopic_inbody_classification", tmp_path / "inbody", seed=1)
    model = load_bundle(read_model(bundle))
    grey = read_volume(phantoms.to_bytes(ds) for ds in phantoms.series(phantoms.ball((2, 48, 40))))
    volume = replace(grey, voxels=np.repeat(grey.voxels[..., None], 3, axis=-1))
    said = classify(model, volume, "1.2")
    assert [one.description.label for one in said] == ["in body", "out body"]
    assert not any(one.calibrated for one in said)
    (report,) = encode_results(
        volume, (), model.entry.algorithm, job_uid="2.25.1", created_at=1e9, evaluations=said, kinds=("SR",)
    )
    check(report, volume)
    path = tmp_path / "sr.dcm"
    path.write_bytes(report.data)
    assert dciodvfy_errors(path) == []
