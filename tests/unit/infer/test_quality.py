"""What a series must be like to be read: how it was acquired, what its values are, and how familiar it looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydicom import Dataset

import phantoms
from imaging_ai.catalog import Limits, ModelEntry, read_model
from imaging_ai.core.volume import Volume
from imaging_ai.errors import BundleInvalid, InputError, SeriesRefused
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.familiar import deepest_layer, fit, listening, read_familiar, write_familiar
from imaging_ai.infer.fitting import features_from, keep
from imaging_ai.infer.limits import check_limits

MakeEntry = Callable[..., ModelEntry]
MakeVolume = Callable[..., Volume]


def refused(entry: ModelEntry, volume: Volume, **limits: Any) -> str:
    """Return the reason why a volume is refused, "" when it is read."""
    try:
        check_limits(volume, dataclasses.replace(entry, refuse=Limits(**limits)))
    except SeriesRefused as refusal:
        return refusal.reason
    return ""


def with_header(volume: Volume, **attributes: object) -> Volume:
    header = Dataset()
    header.update(volume.headers[0])
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    return dataclasses.replace(volume, headers=(header, *volume.headers[1:]))


# -- limits


def test_a_model_of_one_modality_reads_no_other(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    volume = make_volume(phantoms.corner((6, 20, 20)))
    assert refused(make_entry(), volume, modality=("MR", "PT")) == "modality"
    assert refused(make_entry("b"), volume, modality=("CT",)) == ""


@pytest.mark.parametrize(
    ("agent", "wanted", "reason"),
    [
        ("OMNIPAQUE", "without", "contrast"),
        ("OMNIPAQUE", "with", ""),
        ("", "with", "no-contrast"),
        ("None", "with", "no-contrast"),
        ("None", "without", ""),
        (None, "with", ""),
        (None, "without", ""),
    ],
)
def test_contrast_counts_where_the_series_tells_of_it(
    make_entry: MakeEntry, make_volume: MakeVolume, agent: str | None, wanted: str, reason: str
) -> None:
    volume = make_volume(phantoms.corner((6, 20, 20)))
    volume = volume if agent is None else with_header(volume, ContrastBolusAgent=agent)
    assert refused(make_entry(), volume, contrast=wanted) == reason


def test_the_contrast_phase_of_an_enhanced_object_counts(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    usage, groups = Dataset(), Dataset()
    usage.ContrastBolusAgentPhase = "ARTERIAL"
    groups.ContrastBolusUsageSequence = [usage]
    volume = with_header(make_volume(phantoms.corner((6, 20, 20))), SharedFunctionalGroupsSequence=[groups])
    assert refused(make_entry(), volume, contrast_phases=("PORTAL_VENOUS",)) == "contrast-phase"
    assert refused(make_entry("b"), volume, contrast_phases=("arterial", "VENOUS")) == ""


def test_values_of_another_scale_are_refused_but_not_a_few_odd_ones(
    make_entry: MakeEntry, make_volume: MakeVolume
) -> None:
    voxels = phantoms.corner((6, 40, 40), inside=300, outside=-900)
    entry = make_entry()
    assert refused(entry, make_volume(voxels), intensity=(-1100, 1000)) == ""
    assert refused(entry, make_volume(voxels + 1000), intensity=(-1100, 1000)) == "intensity"
    voxels[0, 0, :20] = 3000  # metal
    assert refused(entry, make_volume(voxels), intensity=(-1100, 1000)) == ""


def test_a_flat_series_is_refused(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    flat = make_volume(np.full((6, 20, 20), 7.0, np.float32))
    assert refused(make_entry(), flat, min_contrast=10.0) == "flat"


# -- what is familiar


@pytest.fixture
def features() -> NDArray[np.float64]:
    """Features of forty series that lie in three of twenty directions."""
    rng = np.random.default_rng(0)
    return 5 + rng.normal(size=(40, 3)) @ rng.normal(size=(3, 20)) + 0.05 * rng.normal(size=(40, 20))


def test_what_was_left_out_scores_about_one_and_what_lies_elsewhere_more(features: NDArray[np.float64]) -> None:
    familiar = fit("layer", list(features[:30]))
    known = [familiar.score(row) for row in features[30:]]
    assert np.median(known) < 1 and max(known) < 1.5
    elsewhere = features[0] + np.random.default_rng(1).normal(size=20)  # as far as others, but in no known direction
    assert familiar.score(elsewhere) > 1.5 * max(known)
    assert familiar.score(features[0] * 30) > 1.5 * max(known)


@pytest.mark.parametrize("spoke", [0.0, 0.01])
def test_a_feature_that_is_silent_but_once_neither_hides_nor_exaggerates(
    features: NDArray[np.float64], spoke: float
) -> None:
    rows = np.c_[features, np.zeros(len(features))]
    rows[3, -1] = spoke
    familiar = fit("layer", list(rows[:12]))
    assert 0.1 < np.median([familiar.score(row) for row in rows[12:]]) < 1
    assert familiar.score(rows[0] * 30) > 5
    whispering = rows[20] + np.eye(21)[-1] * 1e-4
    assert familiar.score(whispering) == pytest.approx(familiar.score(rows[20]), rel=0.05)


def test_a_layer_of_one_feature_is_enough() -> None:
    familiar = fit("layer", [np.array([5 + k / 10]) for k in range(9)])
    assert familiar.score(np.array([5.4])) < 1 < familiar.score(np.array([20.0]))


def test_statistics_say_the_same_after_they_were_written(tmp_path: Path, features: NDArray[np.float64]) -> None:
    familiar = fit("net.2", list(features))
    write_familiar(familiar, tmp_path / "features.npz")
    again = read_familiar(tmp_path / "features.npz")
    assert (again.layer, again.count) == ("net.2", 40)
    assert again.score(features[3]) == pytest.approx(familiar.score(features[3]), rel=1e-3)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nonsense", b"\x80\x04."])
def test_damaged_statistics_are_refused_and_nothing_of_them_is_executed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "features.npz").write_bytes(content)
    with pytest.raises(BundleInvalid, match=r"features\.npz has no statistics"):
        read_familiar(tmp_path / "features.npz")


def test_too_few_series_or_equal_ones_teach_nothing(features: NDArray[np.float64]) -> None:
    with pytest.raises(InputError, match="at least 5 are needed"):
        fit("layer", list(features[:4]))
    with pytest.raises(InputError, match="nothing can be learnt"):
        fit("layer", [features[0]] * 9)


def test_the_deepest_layer_is_the_last_of_the_smallest_answers() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3, padding=1),
        torch.nn.Conv3d(4, 8, 2, stride=2),
        torch.nn.PReLU(),
        torch.nn.Upsample(scale_factor=2),
    )
    image = torch.rand(2, 1, 8, 8, 8)
    with deepest_layer(network) as found:
        network(image)
    assert found == ["2"]
    with listening(network, "2") as heard:
        answers = [network[:3](one[None]) for one in image]
        network(image[:1]), network(image[1:])
    expected = torch.cat(answers).mean((0, 2, 3, 4)).detach().numpy()
    assert heard.features == pytest.approx(expected, abs=1e-5)
    with pytest.raises(BundleInvalid, match="no layer 'nowhere'"), listening(network, "nowhere"):
        pass


@pytest.fixture
def series() -> Iterator[dict[str, list[bytes]]]:
    rng = np.random.default_rng(0)
    return (
        {"image": [phantoms.to_bytes(ds) for ds in phantoms.series(_noise(rng), name=f"known {number}")]}
        for number in range(8)
    )


def _noise(rng: np.random.Generator) -> NDArray[np.float32]:
    return np.float32(phantoms.ball((8, 16, 16)) + rng.normal(0, 20, (8, 16, 16)) + rng.normal(0, 30))


def test_a_model_that_was_fitted_refuses_what_it_does_not_know(
    tmp_path: Path, make_volume: MakeVolume, series: Iterator[dict[str, list[bytes]]]
) -> None:
    bundle = phantoms.threshold_bundle(tmp_path / "threshold")
    model = load_bundle(read_model(bundle))
    familiar, left_out = features_from(model, series)
    assert (familiar.count, left_out) == (8, [])
    keep(familiar, bundle)
    toml = bundle / "dicom.toml"
    toml.write_text(toml.read_text() + "refuse_above = 3.0\n")
    entry = read_model(bundle)
    assert entry.digest != model.entry.digest, "it is another model"
    fitted = load_bundle(entry)
    fitted.predict(make_volume(_noise(np.random.default_rng(99))))
    assert fitted.unlike is not None and fitted.unlike < 3
    with pytest.raises(SeriesRefused, match="does not know such a series") as refusal:
        fitted.predict(make_volume(np.full((8, 16, 16), 5000.0, np.float32)))
    assert refusal.value.reason == "out-of-distribution"


def test_doubts_are_said_below_the_limit_of_refusal(
    tmp_path: Path, make_volume: MakeVolume, series: Iterator[dict[str, list[bytes]]]
) -> None:
    bundle = phantoms.threshold_bundle(tmp_path / "threshold")
    keep(features_from(load_bundle(read_model(bundle)), series)[0], bundle)
    fitted = load_bundle(read_model(bundle))
    fitted.predict(make_volume(np.full((8, 16, 16), 5000.0, np.float32)))
    assert "unlike those that the model was fitted on" in fitted.doubts[0]


def test_statistics_outside_of_the_bundle_are_not_read(tmp_path: Path) -> None:
    toml = '[model]\nversion = "1"\n[out_of_distribution]\nstatistics = "../features.npz"\n'
    bundle = phantoms.threshold_bundle(tmp_path / "threshold", dicom_toml=toml)
    with pytest.raises(BundleInvalid, match="outside of the bundle"):
        load_bundle(read_model(bundle))
