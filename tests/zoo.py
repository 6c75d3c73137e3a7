"""Bundles of the MONAI Model Zoo with the weights that their networks begin with, so that what they say is noise.

Also the series that each can read: as many as it has inputs, in its modality, grey or in colour.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydicom import Dataset

import phantoms
from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.catalog.entry import CONFIGS
from imaging_ai.catalog.metadata import network_format, read_metadata
from imaging_ai.core.volume import Volume
from imaging_ai.infer.bundle import build_parser, importable, load_bundle
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.volume import read_volume

__all__ = [
    "angular",
    "brighten",
    "channels_of",
    "colored",
    "copied",
    "mask_of",
    "random_bundle",
    "random_weights",
    "series_of",
    "thresholding",
]

#: What a detector's labels are called, and what makes its configuration resample the series by itself.
_NODULES = """
[detect]
max_findings = 5

[[classes]]
value = 0
label = "Nodule"
finding = ["27925004", "SCT", "Nodule"]
finding_site = ["39607008", "SCT", "Lung"]
threshold = 0.1

[outputs]
lines = true
kinds = ["SR", "SC"]

[run]
overrides = { whether_raw_luna16 = true }
"""


def random_bundle(source: Path, target: Path, *, seed: int = 1, allow_scripts: bool = False) -> Path:
    """Copy a bundle that has no weights to `target`, and give it random ones."""
    random_weights(copied(source, target), seed=seed, allow_scripts=allow_scripts)
    return target


def copied(source: Path, target: Path) -> ModelEntry:
    """Copy a bundle to `target`; where it has several inputs, or detects, and has no dicom.toml, that says what."""
    shutil.copytree(source, target)
    _name_inputs(target)
    return read_model(target)


def random_weights(entry: ModelEntry, *, seed: int = 1, allow_scripts: bool = False) -> None:
    """Save the weights that the networks of a bundle begin with where the bundle looks for them."""
    with importable(entry.path.resolve(), allow_scripts):
        (entry.path / "models").mkdir(exist_ok=True)
        config, parser = build_parser(entry, allow_scripts=allow_scripts)
        if "arch_ckpt_path" in config.content:  # DiNTS: which paths of the search space there are
            straight = np.tile([1.0, 0, 0, 1, 0, 0, 1, 0, 0, 1], (12, 1))  # of ten ways between four depths
            path = {"arch_code_a": straight, "arch_code_c": np.ones((12, 10))}
            torch.save({**path, "node_a": np.ones((13, 4))}, parser.get_parsed_content("arch_ckpt_path"))
        torch.manual_seed(seed)
        networks = config.content.get("networks")
        made = parser.get_parsed_content("networks" if networks else "network_def")
        files = parser.get_parsed_content("weights")
        for network, file in zip(made, files, strict=True) if networks else [(made, files)]:
            if head := getattr(network, "classification_head", None):
                torch.nn.init.zeros_(head.cls_logits.bias)  # a detector begins with scores that choose no box
            torch.save(network.state_dict(), file)


def brighten(entry: ModelEntry, series: Mapping[str, list[bytes]], *, allow_scripts: bool = False) -> None:
    """Put a network in the place of a bundle's own that finds what is bright in `series`, as `thresholding` does."""
    random_weights(entry, allow_scripts=allow_scripts)
    model = load_bundle(entry, allow_scripts=allow_scripts)
    volumes = {name: read_volume(files) for name, files in series.items()}
    thresholding(model, volumes if entry.inputs else next(iter(volumes.values())), channels_of(entry))
    with importable(entry.path.resolve(), allow_scripts):
        files = build_parser(entry, allow_scripts=allow_scripts)[1].get_parsed_content("weights")
    file = next(entry.path / name for name in CONFIGS if (entry.path / name).is_file())
    config = yaml.safe_load(file.read_text())  # which reads JSON too
    outer, inner = model.network.weight.shape[:2]  # type: ignore[union-attr,misc]
    target = f"torch.nn.{type(model.network).__name__}"
    definition = {"_target_": target, "in_channels": inner, "out_channels": outer, "kernel_size": 1}
    config["network_def" if "network_def" in config else "network"] = definition
    file.write_text(json.dumps(config) if file.suffix == ".json" else yaml.safe_dump(config, sort_keys=False))
    for one in files if isinstance(files, list) else [files]:
        torch.save(model.network.state_dict(), one)


def mask_of(seg: Dataset, volume: Volume) -> NDArray[np.bool_]:
    """Read a SEG back as others do: ``[segment, slice, row, column]`` on the grid of the volume that it was made of."""
    stream = io.BytesIO()
    seg.save_as(stream)
    read = highdicom.seg.segread(io.BytesIO(stream.getvalue()))
    uids = [source.sop_instance_uid for source in volume.sources]
    there = read.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    return np.moveaxis(np.asarray(there) > 0, -1, 0)


def channels_of(entry: ModelEntry) -> int:
    """Return how many channels the network of a bundle answers, as its metadata says."""
    return int(network_format(read_metadata(entry.path / "configs" / "metadata.json"), "outputs")["num_channels"])


def _name_inputs(bundle: Path) -> None:
    """Say in dicom.toml which series are the channels, where a bundle has more than one input."""
    if (bundle / "dicom.toml").exists():
        return
    metadata = read_metadata(bundle / "configs" / "metadata.json")
    if network_format(metadata, "outputs").get("type") == "object":
        (bundle / "dicom.toml").write_text(_NODULES)
        return
    format_ = network_format(metadata, "inputs")
    channels = [str(name) for name in format_.get("channel_def", {}).values()]
    colors = channels[:3] == ["R", "G", "B"]
    names = (["image", "label"] if len(channels) == 4 else []) if colors else channels if len(channels) > 1 else []
    tables = (f'[inputs.{name}]\nSeriesDescription = "{name}"\n' for name in names)
    if names:
        (bundle / "dicom.toml").write_text("".join(tables))


def series_of(
    entry: ModelEntry,
    shape: Sequence[int],
    spacing: tuple[float, float, float],
    *,
    image: NDArray[np.float32] | None = None,
    study: str = "zoo",
    **geometry: Any,
) -> dict[str, list[bytes]]:
    """Write what a model reads: by the names of its inputs, the files of a series ``[slice, row, column]`` for each.

    They show a ball in noise, or an `image`, which each shows alike; they are of one study of that name.
    """
    format_: dict[str, Any] = network_format(read_metadata(entry.path / "configs" / "metadata.json"), "inputs")
    colors = list(format_.get("channel_def", {}).values())[:3] == ["R", "G", "B"]
    modality = {"CT": "CT"}.get(str(format_.get("modality")), "MR")
    step = 0 if image is not None else 10
    if image is None:
        image = phantoms.ball((shape[0], shape[1], shape[2]), radius=0.3 * shape[1] * spacing[1], spacing=spacing)
        image += np.random.default_rng(0).normal(0, 20, image.shape).astype(np.float32)
    found = {}
    for index, name in enumerate(entry.inputs or ["image"]):
        if colors and name == "image":
            datasets = colored(image, spacing, name=study, **geometry)
        else:
            shown = np.rint(image > 150) if name == "label" else image + step * index
            datasets = phantoms.series(shown, modality=modality, name=study, spacing=spacing, **geometry)
        for ds in datasets:
            ds.StudyDescription, ds.SeriesDescription, ds.SeriesNumber = study, name, index + 1
            ds.SeriesInstanceUID = f"{ds.SeriesInstanceUID}.{index}"
            ds.SOPInstanceUID = f"{ds.SOPInstanceUID}.{index}"
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        found[name] = [phantoms.to_bytes(ds) for ds in datasets]
    return found


def angular(shape: Sequence[int]) -> NDArray[np.float32]:
    """Make a bright body in the form of an L that no flip and no turn maps onto itself, in a grey image."""
    image = np.full(tuple(shape), 50, np.float32)
    s, r, c = shape
    image[s // 5 : s * 7 // 10, r // 5 : r * 7 // 10, c // 5 : c // 2] = 300
    image[s // 5 : s * 7 // 10, r // 5 : r * 2 // 5, c // 2 : c * 4 // 5] = 300
    return image


def thresholding(model: LoadedModel, volumes: Volume | Mapping[str, Volume], channels: int) -> None:
    """Put a network into a model that answers channel 1 where what it is given is bright.

    All around the network stays the bundle's own. Bright is what is above the middle of what this image becomes.
    """
    given = model.prepare(volumes, 0 if model.planar else None).inputs
    flat = given.ndim == 4 or model.reads_planes
    network = (torch.nn.Conv2d if flat else torch.nn.Conv3d)(given.shape[1], channels, 1)
    mean = given.mean(1)
    gain = 100 / float(mean.max() - mean.min())
    with torch.no_grad():
        network.weight.zero_()
        network.weight[1] = gain / given.shape[1]
        network.bias.fill_(-1000)  # never the largest, and below any threshold
        network.bias[0] = 0 if not _overlapping(model) else -1000
        network.bias[1] = -gain * float(mean.max() + mean.min()) / 2
    model.network = network.requires_grad_(False).eval()


def _overlapping(model: LoadedModel) -> bool:
    return any(getattr(step, "sigmoid", None) in (True, (True,), [True]) for step in model.steps_after)


def colored(
    image: NDArray[np.float32], spacing: tuple[float, float, float], *, name: str = "zoo", **geometry: Any
) -> list[Any]:
    """Write a phantom as RGB slices: red where it is bright."""
    datasets = phantoms.series(np.zeros_like(image), modality="MR", name=name, spacing=spacing, **geometry)
    for ds, plane in zip(datasets, np.clip(image, 0, 255).astype(np.uint8), strict=True):
        rgb = np.stack([plane, plane // 2, plane // 3], axis=-1)
        ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.PlanarConfiguration = "RGB", 3, 0
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, rgb.tobytes()
    return datasets
