"""Probabilities come back on the source grid, in accord with the labels, whichever way a bundle goes back itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.post.dictionary import AsDiscreted
from monai.transforms.utility.dictionary import MapLabelValued
from numpy.typing import NDArray

import phantoms
from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.volume import Volume
from imaging_ai.errors import ModelFailed
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.model import Answer
from imaging_ai.infer.postprocessing import Postprocessing
from imaging_ai.infer.segment import probability_map
from imaging_ai.infer.tensors import image_tensor
from imaging_ai.infer.volume import read_volume

MakeEntry = Callable[..., ModelEntry]
MakeVolume = Callable[..., Volume]
SHAPE = (16, 40, 48)


def rearranged(entry: ModelEntry, change: Callable[[list[dict[str, Any]]], None]) -> ModelEntry:
    """Change the postprocessing of a bundle."""
    file = entry.path / "configs" / "inference.json"
    config = json.loads(file.read_text())
    change(config["postprocessing"]["transforms"])
    file.write_text(json.dumps(config))
    return read_model(entry.path)


def ramp() -> NDArray[np.float32]:
    """An image around the threshold of 150, so that the network's answer is neither 0 nor 1."""
    across = np.linspace(146, 154, SHAPE[2], dtype=np.float32)
    return np.broadcast_to(across, SHAPE) + np.linspace(-2, 2, SHAPE[0], dtype=np.float32)[:, None, None]


def ask(entry: ModelEntry, volume: Volume) -> tuple[NDArray[Any], NDArray[np.float32]]:
    answer = load_bundle(entry).answer(volume, probability=True)
    assert answer.probability is not None
    assert (answer.probability.dtype, answer.probability.shape) == (np.float32, SHAPE)
    return np.asarray(answer.labels), answer.probability


@pytest.mark.parametrize("window", [None, 16])
def test_it_is_what_the_network_said(make_entry: MakeEntry, make_volume: MakeVolume, window: int | None) -> None:
    volume = make_volume(ramp(), slope=0.01)
    labels, chances = ask(make_entry(window=window), volume)
    assert chances == pytest.approx(1 / (1 + np.exp(150 - volume.voxels.astype(np.float64))), abs=1e-5)
    assert np.array_equal(labels > 0, chances > 0.5)


@pytest.mark.parametrize(
    "how",
    [{}, {"orientation": phantoms.OBLIQUE, "spacing": (2.5, 0.7, 1.3)}, {"orientation": phantoms.CORONAL}],
    ids=str,
)
@pytest.mark.parametrize("order", ["as the Model Zoo has it", "labels go back", "labels_first", "nothing goes back"])
def test_whichever_way_a_bundle_goes_back_it_lies_where_the_image_is_bright(
    make_entry: MakeEntry, make_volume: MakeVolume, how: dict[str, Any], order: str
) -> None:
    volume = make_volume(ramp(), slope=0.01, **how)
    labels_first = '[[segments]]\nvalue = 1\nlabel = "Bright"\n[run]\nlabels_first = true\n'
    entry = make_entry(pixdim=(0.8, 0.8, 0.8), dicom_toml=labels_first if order == "labels_first" else None)
    if order == "labels go back":
        entry = rearranged(entry, lambda steps: steps.insert(1, steps.pop(2)))
    if order == "nothing goes back":
        entry = rearranged(entry, lambda steps: steps.remove(next(s for s in steps if s["_target_"] == "Invertd")))
    labels, chances = ask(entry, volume)
    inside = np.s_[1:-1, 2:-2, 2:-2]
    expected = 1 / (1 + np.exp(150 - volume.voxels.astype(np.float64)))
    assert chances[inside] == pytest.approx(expected[inside], abs=0.004)
    sure = np.abs(chances - 0.5) > 0.1
    assert np.array_equal((labels > 0)[sure], (chances > 0.5)[sure])


def test_who_does_not_ask_gets_none(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    volume, model = make_volume(phantoms.corner(SHAPE)), load_bundle(make_entry())
    answer = model.answer(volume)
    assert answer.probability is None
    assert np.array_equal(answer.labels, model.predict(volume))
    assert np.array_equal(answer.labels, model.answer(volume, probability=True).labels)


def test_an_answer_that_is_no_probability_is_refused_only_where_one_is_asked_for(
    make_entry: MakeEntry, make_volume: MakeVolume
) -> None:
    entry = rearranged(make_entry(), lambda steps: steps.pop(0))
    volume, model = make_volume(phantoms.corner(SHAPE)), load_bundle(entry)
    model.answer(volume)
    with pytest.raises(ModelFailed, match="lacks Activationsd"):
        model.answer(volume, probability=True)


def given(channels: list[list[float]], **discrete: Any) -> Answer:
    """Ask for the probability of the segments 1 and 2 in a row of voxels."""
    answer = torch.tensor(channels)[:, :, None, None]
    voxels = np.zeros((1, 1, answer.shape[1]), np.float32)
    source = image_tensor(phantom(voxels))
    after = Postprocessing(Compose([AsDiscreted("pred", **discrete)]), (1, 2))
    return after({"pred": MetaTensor(answer, affine=source.affine)}, source, probability=True)


def phantom(voxels: NDArray[np.float32]) -> Volume:
    """A volume of one slice."""
    read = read_volume([phantoms.to_bytes(ds) for ds in phantoms.series(np.repeat(voxels, 2, axis=0))])
    return replace(read, voxels=voxels, grid=replace(read.grid, slices=1))


def test_of_channels_of_which_one_is_true_it_is_the_sum_of_the_segments() -> None:
    answer = given([[0.2, 0.7], [0.5, 0.2], [0.3, 0.1]], argmax=True)
    assert answer.labels.ravel().tolist() == [1, 0]
    assert answer.probability is not None
    assert answer.probability.ravel().tolist() == pytest.approx([0.8, 0.3])


def test_of_channels_that_overlap_it_is_the_largest() -> None:
    answer = given([[0.2, 0.9], [0.5, 0.2], [0.3, 0.6]], threshold=0.5)
    assert answer.probability is not None
    assert answer.probability.ravel().tolist() == pytest.approx([0.5, 0.6])


def test_postprocessing_that_makes_no_labels_tells_no_probability() -> None:
    source = image_tensor(phantom(np.zeros((1, 1, 2), np.float32)))
    data = {"pred": MetaTensor(torch.zeros(1, 2, 1, 1), affine=source.affine)}
    with pytest.raises(ModelFailed, match="no AsDiscreted"):
        Postprocessing(Compose([]), (1,))(data, source, probability=True)


def test_labels_that_get_other_numbers_tell_no_probability_of_theirs() -> None:
    source = image_tensor(phantom(np.zeros((1, 1, 2), np.float32)))
    steps = [AsDiscreted("pred", argmax=True), MapLabelValued("pred", orig_labels=[1, 2], target_labels=[2, 1])]
    after = Postprocessing(Compose(steps), (1,))
    data = {
        "pred": MetaTensor(torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.0, 0.8]])[:, :, None, None], affine=source.affine)
    }
    assert after(dict(data), source, probability=False).labels.ravel().tolist() == [2, 1]
    with pytest.raises(ModelFailed, match="gives labels other numbers"):
        after(dict(data), source, probability=True)


def test_a_map_is_made_of_what_can_be_seen(make_entry: MakeEntry) -> None:
    entry = make_entry()
    assert probability_map(np.full(SHAPE, 0.001, np.float32), entry) is None
    seen = probability_map(np.full(SHAPE, 0.02, np.float32), entry)
    assert seen is not None
    assert (seen.name, seen.limits, seen.description) == ("probability", (0, 1), "Probability of Bright")
    assert "Threshold 1.0.0" in seen.derivation
