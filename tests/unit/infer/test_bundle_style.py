"""Bundles are written in many ways: ensembles, macros, old names, sections and packages of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import phantoms
from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.volume import Volume
from imaging_ai.errors import BundleInvalid, ModelFailed
from imaging_ai.infer.bundle import load_bundle

MakeEntry = Callable[..., ModelEntry]
MakeVolume = Callable[..., Volume]
SHAPE = (16, 40, 48)


def changed(entry: ModelEntry, change: Callable[[dict[str, Any]], None]) -> ModelEntry:
    """Change a bundle's inference configuration."""
    file = entry.path / "configs" / "inference.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    return read_model(entry.path)


def saved(entry: ModelEntry, weights: object) -> ModelEntry:
    torch.save(weights, entry.path / "models" / "model.pt")
    return read_model(entry.path)


def test_a_yaml_with_macros_relative_names_and_lists_that_are_added_runs(
    make_entry: MakeEntry, make_volume: MakeVolume
) -> None:
    def other_words(config: dict[str, Any]) -> None:
        steps = config["preprocessing"]["transforms"]
        config["imports"] = ["$import torch.nn as nn", "$import os"]
        config["image"] = "$monai.utils.CommonKeys.IMAGE"
        never = {"_target_": "Rotate90d", "keys": "image", "_disabled_": "@off"}
        config["first"], config["others"] = [{"_target_": "LoadImaged", "keys": "@image"}], [*steps[1:], never]
        config["off"] = True
        config["preprocessing"] = {"_target_": "Compose", "transforms": "$@first + @others "}
        config["channels"] = {"in": 1, "out": "$@#in + 1"}
        config["kernel"] = {"size": 1}
        config["network_def"] = {
            "_target_": "torch.nn.Conv3d",
            "in_channels": "@channels#in",
            "out_channels": "@channels::out",
            "kernel_size": "%kernel::size",
        }
        config["network"] = "$nn.Sequential(@network_def).to(@device)"
        config["checkpointloader"]["load_path"] = "$os.path.join(@bundle_root, 'models', f'model.pt')"

    entry = changed(make_entry(), other_words)
    file = entry.path / "configs" / "inference.json"
    file.with_suffix(".yaml").write_text(yaml.safe_dump(json.loads(file.read_text())))
    file.unlink()
    volume = make_volume(phantoms.corner(SHAPE))
    answer = load_bundle(read_model(entry.path)).predict(volume)
    assert np.array_equal(answer > 0, volume.voxels > 150)


def test_sections_are_found_by_the_evaluator_where_they_have_other_names(
    make_entry: MakeEntry, make_volume: MakeVolume
) -> None:
    def renamed(config: dict[str, Any]) -> None:
        config["net"] = config.pop("network_def")
        config["steps_before"], config["windows"] = config.pop("preprocessing"), config.pop("inferer")
        config["steps_after"] = config.pop("postprocessing")
        for step in config["steps_after"]["transforms"]:
            if step["_target_"] == "Invertd":
                step["transform"] = "@steps_before"
        config.pop("network", None)
        config["dataset"] = {"_target_": "Dataset", "data": [], "transform": "@steps_before"}
        config["evaluator"] = {
            "_target_": "SupervisedEvaluator",
            "network": "$@net.to(@device)",
            "inferer": "@windows",
            "postprocessing": "@steps_after",
        }

    volume = make_volume(phantoms.corner(SHAPE))
    answer = load_bundle(changed(make_entry(), renamed)).predict(volume)
    assert np.array_equal(answer > 0, volume.voxels > 150)


@pytest.mark.parametrize("how", ["mean", "vote"])
def test_an_ensemble_runs_each_network_and_combines_as_the_bundle_says(
    make_entry: MakeEntry, make_volume: MakeVolume, how: str
) -> None:
    """Thresholds of 50, 150 and 1000: the mean of the numbers is at 400, the majority at 150."""

    def three(config: dict[str, Any]) -> None:
        network, loader = config.pop("network_def"), config.pop("checkpointloader")
        for k in range(3):
            config[f"network_{k}"] = network
        keys = [f"pred{k}" for k in range(3)]
        config["handlers"] = [
            {**loader, "load_path": f"$@bundle_root + '/models/fold{k}.pt'", "load_dict": {"model": f"@network_{k}"}}
            for k in (2, 0, 1)
        ]
        config["evaluator"] = {
            "_target_": "EnsembleEvaluator",
            "networks": [f"@network_{k}" for k in range(3)],
            "pred_keys": keys,
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        }
        discrete = {"_target_": "AsDiscreted", "argmax": True}
        combined = {"keys": keys, "output_key": "pred"}
        config["postprocessing"]["transforms"] = (
            [{"_target_": "MeanEnsembled", **combined}, {**discrete, "keys": "pred"}]
            if how == "mean"
            else [{**discrete, "keys": keys}, {"_target_": "VoteEnsembled", **combined}]
        )

    entry = changed(make_entry(), three)
    for k, threshold in enumerate((50.0, 150.0, 1000.0)):
        state = {"weight": torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1), "bias": torch.tensor([0.0, -threshold])}
        torch.save(state, entry.path / "models" / f"fold{k}.pt")
    image = phantoms.corner(SHAPE, inside=600)
    image[-3:, -4:, -5:] = 200
    volume = make_volume(image)
    model = load_bundle(read_model(entry.path))
    assert np.array_equal(model.predict(volume) > 0, volume.voxels > (400 if how == "mean" else 150))
    assert model.nbytes == 3 * 4 * 4
    thresholds = [-float(network.bias[1]) for network in model.network.networks]  # type: ignore[union-attr]
    assert thresholds == [50, 150, 1000], "each has the weights of its own loader, whatever their order"
    (entry.path / "models" / "fold2.pt").unlink()
    with pytest.raises(BundleInvalid, match=r"fold2\.pt is missing"):
        load_bundle(read_model(entry.path))


def test_channels_that_the_author_named_are_kept_apart(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    """The bundle of brain tumours ends by merging overlapping channels into the labels 1, 2 and 4."""

    def merged(config: dict[str, Any]) -> None:
        config["postprocessing"]["transforms"] = [
            {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
            {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
            {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: torch.where(x[[1]] > 0, 4, x[[0]])"},
        ]

    state = {"weight": torch.ones(2, 1, 1, 1, 1), "bias": torch.tensor([-50.0, -150.0])}
    image = phantoms.ball(SHAPE, radius=9) + phantoms.ball(SHAPE, radius=15, inside=100)
    volume = make_volume(image)
    channels = '[[segments]]\nvalue = 0\nlabel = "Whole"\n[[segments]]\nvalue = 1\nlabel = "Core"\n'
    apart = load_bundle(saved(changed(make_entry("apart", dicom_toml=channels), merged), state))
    assert np.array_equal(apart.predict(volume), np.stack([image > 50, image > 150]))
    assert "kept apart" in apart.notes[0]
    labels = '[[segments]]\nvalue = 1\nlabel = "Edema"\n[[segments]]\nvalue = 4\nlabel = "Core"\n'
    one = load_bundle(saved(changed(make_entry("one", dicom_toml=labels), merged), state))
    assert np.array_equal(one.predict(volume), np.where(image > 150, 4, image > 50))


def test_what_monai_has_renamed_runs_by_its_new_name(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    def old(config: dict[str, Any]) -> None:
        steps = config["preprocessing"]["transforms"]
        steps[:] = [{"_target_": "AddChanneld", "keys": "image"} if "Channel" in s["_target_"] else s for s in steps]
        for step in config["postprocessing"]["transforms"]:
            if step["_target_"] == "AsDiscreted":
                step.update(to_onehot=True, n_classes=2)

    model = load_bundle(changed(make_entry(), old))
    assert model.notes == ("AddChannel is EnsureChannelFirst now", "AsDiscreted calls n_classes to_onehot now")
    volume = make_volume(phantoms.corner(SHAPE))
    bright = volume.voxels > 150
    assert np.array_equal(model.predict(volume), np.stack([~bright, bright]))


def test_a_package_that_is_not_here_is_named(make_entry: MakeEntry) -> None:
    def vision(config: dict[str, Any]) -> None:
        config["network_def"] = {"_target_": "TorchVisionFCModel", "model_name": "resnet18", "num_classes": 1}

    entry = changed(make_entry(), vision)
    packages = {"torchvision": "0.14.1", "nibabel": "4.0"}
    (entry.path / "configs" / "metadata.json").write_text(json.dumps({"optional_packages_version": packages}))
    with pytest.raises(BundleInvalid, match=r"needs the package torchvision; .* pip install torchvision==0\.14\.1$"):
        load_bundle(entry)


def test_a_package_that_scripts_import_is_named(make_entry: MakeEntry) -> None:
    entry = make_entry()
    (entry.path / "scripts").mkdir()
    (entry.path / "scripts" / "__init__.py").write_text("")
    (entry.path / "scripts" / "net.py").write_text("import no_such_package\n")
    entry = changed(entry, lambda config: config.update(network_def={"_target_": "scripts.net.Net"}))
    with pytest.raises(BundleInvalid, match=r"scripts\.net\.Net needs the package no_such_package"):
        load_bundle(entry, allow_scripts=True)


def test_several_loaded_images_need_as_many_series(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    def two(config: dict[str, Any]) -> None:
        config["preprocessing"]["transforms"][0]["keys"] = ["image", "label"]

    with pytest.raises(ModelFailed, match=r"loads 2 images \(image, label\), and 1 were given: say in dicom\.toml"):
        load_bundle(changed(make_entry(), two)).predict(make_volume(phantoms.corner(SHAPE)))
