"""A network whose answer is known comes back on the source grid, whatever the grid; what is broken is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import phantoms
from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.volume import Volume
from imaging_ai.errors import BundleInvalid, ModelFailed, ModelOutOfMemory, SeriesRefused, WrongState
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


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"spacing": (4.0, 0.7, 1.3)},
        {"orientation": phantoms.CORONAL},
        {"orientation": phantoms.SAGITTAL},
        {"orientation": phantoms.FLIPPED, "reverse": True},
        {"orientation": phantoms.OBLIQUE},
        {"tilt_degrees": -18.5},
        {"tilt_degrees": 25.0, "orientation": phantoms.OBLIQUE},
    ],
    ids=str,
)
@pytest.mark.parametrize("pixdim", [None, (1.0, 1.0, 1.0)], ids=["plain", "resampled"])
def test_the_answer_lies_where_the_image_is_bright(
    make_entry: MakeEntry, make_volume: MakeVolume, pixdim: tuple[float, float, float] | None, how: dict[str, Any]
) -> None:
    volume = make_volume(phantoms.corner(SHAPE), **how)
    answer = load_bundle(make_entry(pixdim=pixdim)).predict(volume)
    assert answer.dtype == np.uint8
    assert answer.shape == SHAPE
    agreement = dice(answer > 0, volume.voxels > 150)
    assert agreement == 1.0 if pixdim is None else agreement > 0.9


def test_without_inversion_the_answer_is_brought_back_to_the_source_grid(
    make_entry: MakeEntry, make_volume: MakeVolume
) -> None:
    def no_inversion(config: dict[str, Any]) -> None:
        transforms = config["postprocessing"]["transforms"]
        config["postprocessing"]["transforms"] = [t for t in transforms if t["_target_"] != "Invertd"]

    entry = changed(make_entry(pixdim=(1.0, 1.0, 1.0)), no_inversion)
    volume = make_volume(phantoms.corner(SHAPE), orientation=phantoms.CORONAL)
    answer = load_bundle(entry).predict(volume)
    assert answer.shape == SHAPE
    assert dice(answer > 0, volume.voxels > 150) > 0.9


def test_labels_are_inverted_by_nearest_neighbour(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    def discrete_first(config: dict[str, Any]) -> None:
        transforms = config["postprocessing"]["transforms"]
        transforms.insert(1, transforms.pop(2))
        assert [t["_target_"] for t in transforms[1:3]] == ["AsDiscreted", "Invertd"]

    entry = changed(make_entry(pixdim=(0.7, 0.7, 0.7)), discrete_first)
    volume = make_volume(phantoms.corner(SHAPE))
    assert dice(load_bundle(entry).predict(volume) > 0, volume.voxels > 150) > 0.95


def test_labels_first_goes_back_with_labels(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    toml = '[[segments]]\nvalue = 1\nlabel = "Bright"\n[run]\nlabels_first = true\n'
    entry = make_entry(pixdim=(0.7, 0.7, 0.7), dicom_toml=toml)
    assert entry.algorithm.parameters == (("labels_first", "true"),)
    volume = make_volume(phantoms.corner(SHAPE), orientation=phantoms.OBLIQUE)
    model = load_bundle(entry)
    invert = model._after.transforms[2]
    assert type(invert).__name__ == "Invertd" and invert.nearest_interp[0]
    assert dice(model.predict(volume) > 0, volume.voxels > 150) > 0.95


def test_progress_may_stop_a_run(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    def stop(part: float) -> None:
        if part > 0.3:
            raise WrongState("the job was cancelled")

    with pytest.raises(WrongState, match="cancelled"):
        load_bundle(make_entry(window=16)).predict(make_volume(phantoms.corner(SHAPE)), stop)


def test_overlapping_channels_come_out_as_masks(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    def sigmoid(config: dict[str, Any]) -> None:
        config["postprocessing"]["transforms"] = [
            {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
            {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
        ]

    entry = saved(
        changed(make_entry(), sigmoid),
        {"weight": torch.ones(2, 1, 1, 1, 1), "bias": torch.tensor([-50.0, -150.0])},
    )
    image = phantoms.ball(SHAPE, radius=9) + phantoms.ball(SHAPE, radius=15, inside=100)
    volume = make_volume(image)
    answer = load_bundle(entry).predict(volume)
    assert answer.dtype == np.bool_
    assert np.array_equal(answer, np.stack([image > 50, image > 150]))


def test_a_flat_network_runs_slice_by_slice(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    def flat(config: dict[str, Any]) -> None:
        config["network_def"] = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}

    entry = changed(make_entry(), flat)
    state = torch.load(entry.path / "models" / "model.pt")
    entry = saved(entry, {"weight": state["weight"][..., 0], "bias": state["bias"]})
    volume = make_volume(phantoms.corner(SHAPE), orientation=phantoms.OBLIQUE)
    parts: list[float] = []
    answer = load_bundle(entry).predict(volume, parts.append)
    assert np.array_equal(answer > 0, volume.voxels > 150)
    assert parts == sorted(parts)


def test_several_series_are_channels_on_the_grid_of_the_first(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    toml = (
        '[inputs.low]\nModality = "MR"\n[inputs.high]\nModality = "MR"\n'
        '[[segments]]\nvalue = 1\nlabel = "Bright in both"\n'
    )

    def two_channels(config: dict[str, Any]) -> None:
        config["network_def"]["in_channels"] = 2

    entry = changed(make_entry(dicom_toml=toml), two_channels)
    weight = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).reshape(2, 2, 1, 1, 1)
    entry = saved(entry, {"weight": weight, "bias": torch.tensor([0.0, -450.0])})
    low = make_volume(phantoms.ball(SHAPE, radius=10, spacing=(2, 1, 1)), modality="MR")
    fine = phantoms.ball((32, 80, 96), radius=10, spacing=(1, 0.5, 0.5))
    high = make_volume(fine, modality="MR", spacing=(1.0, 0.5, 0.5), origin=(-30.25, -40.25, 49.5))
    model = load_bundle(entry)
    answer = model.predict({"high": high, "low": low})
    assert answer.shape == SHAPE
    assert dice(answer > 0, low.voxels > 150) > 0.9
    with pytest.raises(ModelFailed, match="needs the series high"):
        model.predict({"low": low})


def test_progress_goes_up_to_1_window_by_window(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    parts: list[float] = []
    image = phantoms.corner(SHAPE) + np.arange(SHAPE[2], dtype=np.float32)
    load_bundle(make_entry(window=16, overlap=0.5)).predict(make_volume(image), parts.append)
    assert len(parts) > 5
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert max(part for part in parts if part < 1.0) == pytest.approx(0.8)


def test_the_same_series_gives_the_same_answer(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    model = load_bundle(make_entry(pixdim=(0.9, 0.9, 0.9), window=16))
    volume = make_volume(phantoms.corner(SHAPE), orientation=phantoms.OBLIQUE)
    assert np.array_equal(model.predict(volume), model.predict(volume))


def test_the_limits_of_a_model_are_kept(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    with pytest.raises(SeriesRefused, match="2 slices, at least 4 are needed"):
        load_bundle(make_entry()).predict(make_volume(phantoms.corner((2, 20, 20))))


def test_an_answer_without_numbers_fails(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    entry = make_entry()
    bad = saved(entry, {"weight": torch.full((2, 1, 1, 1, 1), 3e38), "bias": torch.zeros(2)})  # overflows
    with pytest.raises(ModelFailed, match="not numbers"):
        load_bundle(bad).predict(make_volume(phantoms.corner(SHAPE)))


def test_an_answer_of_another_size_fails(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    entry = changed(make_entry(), lambda config: config["network_def"].update(stride=2))
    with pytest.raises(ModelFailed, match="must lie on the grid of what the network was given"):
        load_bundle(entry).predict(make_volume(phantoms.corner(SHAPE)))


@pytest.mark.parametrize("window", [None, 16])
def test_an_answer_of_several_things_by_name_fails_with_their_names(
    make_entry: MakeEntry, make_volume: MakeVolume, window: int | None
) -> None:
    class Nuclei(torch.nn.Conv3d):
        """Answers as HoVer-Net does."""

        def forward(self, image: torch.Tensor) -> Any:
            return {"nucleus_prediction": image, "type_prediction": image}

    model = load_bundle(make_entry(window=window))
    model.network = Nuclei(1, 2, 1).eval()
    with pytest.raises(ModelFailed, match=r"by name \(nucleus_prediction, type_prediction\), not one image"):
        model.predict(make_volume(phantoms.corner(SHAPE)))


def test_too_few_channels_fail(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    entry = make_entry(dicom_toml='[[segments]]\nvalue = 2\nlabel = "Not in this network"\n')
    with pytest.raises(ModelFailed, match="answered 2 channels, but its segments need 3"):
        load_bundle(entry).predict(make_volume(phantoms.corner(SHAPE)))


def test_probabilities_are_no_labels(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    entry = changed(make_entry(), lambda config: config["postprocessing"]["transforms"].pop(1))
    image = phantoms.corner(SHAPE)
    image[0, 0, 0] = 150.3
    with pytest.raises(ModelFailed, match="lacks AsDiscreted"):
        load_bundle(entry).predict(make_volume(image))


def test_what_a_network_raises_is_told(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    entry = make_entry()
    entry = saved(
        changed(entry, lambda config: config["network_def"].update(in_channels=3)),
        {"weight": torch.zeros(2, 3, 1, 1, 1), "bias": torch.zeros(2)},
    )
    with pytest.raises(ModelFailed, match=r"threshold failed: RuntimeError: .*3 channels"):
        load_bundle(entry).predict(make_volume(phantoms.corner(SHAPE)))


class _Hungry(torch.nn.Module):
    """A network that has memory for so many windows at once."""

    def __init__(self, most: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.most, self.error, self.seen = most, error, [0]

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(windows))
        if len(windows) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return torch.cat([torch.zeros_like(windows), windows - 150], dim=1)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_out_of_memory_is_tried_again_window_by_window(
    make_entry: MakeEntry, make_volume: MakeVolume, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # with more, windows are shared among them
    model = load_bundle(make_entry(window=16))
    hungry = model.network = _Hungry(1, error)
    volume = make_volume(phantoms.corner(SHAPE) + np.arange(SHAPE[2], dtype=np.float32))
    assert np.array_equal(model.predict(volume) > 0, volume.voxels > 150)
    assert hungry.seen[1:4] == [4, 2, 1] and hungry.seen[-1] == 1
    assert "out of memory; again with 1 window at once on the cpu" in model.how
    model.network = _Hungry(0, error)
    with pytest.raises(ModelOutOfMemory, match="threshold ran out of memory on cpu"):
        model.predict(volume)


def test_missing_weights_are_named(make_entry: MakeEntry) -> None:
    entry = make_entry()
    (entry.path / "models" / "model.pt").unlink()
    with pytest.raises(BundleInvalid, match=r"model.pt is missing; the weights belong into models/"):
        load_bundle(read_model(entry.path))


def test_weights_of_another_network_are_named(make_entry: MakeEntry) -> None:
    message = r"threshold: model\.pt is not of this network: 1 shapes differ, first weight: \(3, 1, 1, 1, 1\), wanted"
    with pytest.raises(BundleInvalid, match=message):
        load_bundle(saved(make_entry(), {"weight": torch.zeros(3, 1, 1, 1, 1)}))


def test_weights_that_are_not_numbers_are_refused(make_entry: MakeEntry) -> None:
    entry = saved(make_entry(), {"weight": torch.full((2, 1, 1, 1, 1), torch.inf), "bias": torch.zeros(2)})
    with pytest.raises(BundleInvalid, match="not numbers in weight"):
        load_bundle(entry)


class _Code:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


def test_a_pickle_is_not_executed(make_entry: MakeEntry) -> None:
    entry = saved(make_entry(), {"weight": _Code()})
    with pytest.raises(BundleInvalid, match="not a plain state_dict"):
        load_bundle(entry)
    assert not Path("executed").exists()


def test_torchscript_is_not_executed(make_entry: MakeEntry) -> None:
    entry = make_entry()
    torch.jit.script(torch.nn.Conv3d(1, 2, 1)).save(str(entry.path / "models" / "model.pt"))
    with pytest.raises(BundleInvalid, match=r"TorchScript archive, which is a program; save torch\.jit\.load"):
        load_bundle(read_model(entry.path))


def test_a_checkpoint_may_hold_the_state_dict(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    entry = make_entry()
    state = torch.load(entry.path / "models" / "model.pt")
    entry = saved(entry, {"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3})
    volume = make_volume(phantoms.corner(SHAPE))
    assert np.array_equal(load_bundle(entry).predict(volume) > 0, volume.voxels > 150)


def test_beside_the_weights_a_checkpoint_may_hold_numbers_of_numpy(
    make_entry: MakeEntry, make_volume: MakeVolume
) -> None:
    entry = make_entry()
    state = torch.load(entry.path / "models" / "model.pt")
    entry = saved(entry, {"state_dict": state, "best": np.float64(0.9), "history": np.arange(3)})
    volume = make_volume(phantoms.corner(SHAPE))
    assert np.array_equal(load_bundle(entry).predict(volume) > 0, volume.voxels > 150)


def test_weights_that_lack_something_are_refused_and_more_is_left_out_where_the_bundle_says_so(
    make_entry: MakeEntry,
) -> None:
    entry = saved(make_entry(), {"weight": torch.zeros(2, 1, 1, 1, 1)})
    with pytest.raises(BundleInvalid, match="it lacks bias"):
        load_bundle(entry)
    more = {"weight": torch.zeros(2, 1, 1, 1, 1), "bias": torch.zeros(2), "head": torch.zeros(1)}
    with pytest.raises(BundleInvalid, match="it has head, which the network has not"):
        load_bundle(saved(entry, more))
    entry = changed(entry, lambda config: config["checkpointloader"].update(strict=False))
    assert load_bundle(entry).notes == ("model.pt: 1 tensors that the network has not are left out",)


def test_weights_under_another_name_are_pointed_to(make_entry: MakeEntry) -> None:
    entry = make_entry()
    (entry.path / "models" / "model.pt").rename(entry.path / "models" / "fold0.pth")
    with pytest.raises(BundleInvalid, match=r"there is fold0\.pth: name it in dicom\.toml, \[run\] weights"):
        load_bundle(read_model(entry.path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.pop("preprocessing"), "has no preprocessing"),
        (lambda config: config.pop("network_def"), "has no network_def"),
        (lambda config: config.update(inferer="%inferer"), "stands for itself"),
        (lambda config: config.update(inferer="%nowhere::inferer"), "there is no nowhere"),
        (lambda config: config.update(network_def={"_target_": "NoSuchNet"}), "NoSuchNet is not known"),
        (lambda config: config["preprocessing"]["transforms"].append("@nothing"), "@nothing is not defined"),
        (lambda config: config.update(inferer="%other.json::inferer"), "macro"),
        (lambda config: config["network_def"].update(kernel_size="$__import__('os').getpid()"), "__import__"),
        (lambda config: config["checkpointloader"].update(load_path="/etc/passwd"), "outside of the bundle"),
        (lambda config: config["network_def"].update(out_channels=-1), "cannot be built"),
        (lambda config: config.update(network_def={"_target_": "EnsureType"}), "is not a network"),
    ],
)
def test_a_broken_configuration_is_named(
    make_entry: MakeEntry, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(BundleInvalid, match=message):
        load_bundle(changed(make_entry(), change))


def test_what_a_result_does_not_need_is_never_evaluated(make_entry: MakeEntry) -> None:
    def hostile(config: dict[str, Any]) -> None:
        config["imports"].append("$import no_such_module")
        config["datalist"] = "$open('executed', 'w')"
        config["initialize"] = ["$open('executed', 'w')"]

    load_bundle(changed(make_entry(), hostile))
    assert not Path("executed").exists()


def test_scripts_of_a_bundle_run_only_where_allowed(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    entry = make_entry()
    (entry.path / "scripts").mkdir()
    (entry.path / "scripts" / "__init__.py").write_text("")
    (entry.path / "scripts" / "net.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Conv3d):\n    def __init__(self):\n        super().__init__(1, 2, 1)\n"
    )
    entry = changed(entry, lambda config: config.update(network_def={"_target_": "scripts.net.Net"}))
    with pytest.raises(BundleInvalid, match="only where they are allowed"):
        load_bundle(entry)
    volume = make_volume(phantoms.corner(SHAPE))
    answer = load_bundle(entry, allow_scripts=True).predict(volume)
    assert np.array_equal(answer > 0, volume.voxels > 150)


def test_bfloat16_and_channels_last_are_the_authors_choice(make_entry: MakeEntry, make_volume: MakeVolume) -> None:
    toml = '[[segments]]\nvalue = 1\nlabel = "Bright"\n[run]\nprecision = "bfloat16"\nchannels_last = true\n'
    volume = make_volume(phantoms.corner(SHAPE))
    answer = load_bundle(make_entry(dicom_toml=toml, window=16)).predict(volume)
    assert np.array_equal(answer > 0, volume.voxels > 150)
