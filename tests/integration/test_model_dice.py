"""The shipped model on the patients that its training never saw, from series to findings, against the experts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from imaging_ai.catalog import read_model
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.segment import find
from imaging_ai.infer.volume import read_volume
from rtstruct import dice_against_rtstruct

BUNDLE = Path(__file__).resolve().parents[2] / "models" / "fdg-pet-lesion"
HELD_OUT = [f"STS_{number:03d}" for number in range(3, 41, 3)]


@pytest.fixture(scope="module")
def scores(real_data: Path) -> dict[str, float]:
    model, found = load_bundle(read_model(BUNDLE)), {}
    for name in HELD_OUT:
        series = real_data / "sts" / name / "PET"
        volume = read_volume(file.read_bytes() for file in (series / "image").iterdir())
        masks = [finding.mask for finding in find(model.predict(volume), volume, model.entry, name)]
        found[name] = dice_against_rtstruct(np.any(masks, axis=0), volume.grid, series / "mask" / "RS.dcm")
    return found


def test_the_median_dice_on_patients_never_seen_is_at_least_seven_tenths(scores: dict[str, float]) -> None:
    assert len(scores) == 13
    assert np.median(list(scores.values())) >= 0.70


def test_the_card_tells_each_patients_dice_as_it_is(scores: dict[str, float]) -> None:
    card = (BUNDLE / "docs" / "README.md").read_text()
    told = {name: float(value) for name, value in re.findall(r"^\| (STS_\d{3}) \| (0\.\d\d) \|", card, re.MULTILINE)}
    assert told == pytest.approx(scores, abs=0.02)
