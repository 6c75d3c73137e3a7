"""A bundle's inference configuration, cut down to what a result needs and adapted to run from memory.

Kept: the network, preprocessing, inferer, postprocessing, and what they refer to. So the data lists, output
folders, loaders and handlers of a bundle are never evaluated.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from imaging_ai.errors import BundleInvalid
from imaging_ai.infer.expressions import Allowed

__all__ = ["InferenceConfig", "read_config"]

_REFERENCE = re.compile(r"@(\w+)")
_WHOLE_REFERENCE = re.compile(r"@\w+(?:(?:::|#)\w+)*")
_CUDA = re.compile(r"cuda(:\d+)?")
_SECTIONS = ("preprocessing", "inferer", "postprocessing")
#: Transforms that read or write files, or print what they see.
_LEFT_OUT = frozenset(
    f"{name}{suffix}"
    for name in ("LoadImage", "SaveImage", "SaveClassification", "DataStats", "WriteFileMapping", "TransformChain")
    for suffix in ("", "d", "D", "Dict")
)


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    """The configuration to build, the names of the images that it loads, and what was changed in it."""

    content: dict[str, Any]
    image_keys: tuple[str, ...]
    weights: str
    notes: tuple[str, ...]


def read_config(
    file: Path, bundle: Path, device: str, allowed: Allowed, *, labels_first: bool = False
) -> InferenceConfig:
    """Read an inference configuration and adapt it to `device`.

    `labels_first` takes the label of each voxel before, not after, going back to the source grid.

    Raises
    ------
    BundleInvalid
        If it is damaged, lacks a section, or asks for what is forbidden.
    """
    raw = _load(file)
    network = next((key for key in ("network_def", "network") if key in raw), None)
    for section in (network or "network_def", *_SECTIONS):
        if section not in raw:
            raise BundleInvalid(f"{file}: has no {section}; a bundle needs network_def, {', '.join(_SECTIONS)}")
    image_keys = tuple(_image_keys(raw, raw["preprocessing"])) or ("image",)
    wanted = {section: _adapted(raw[section], device) for section in _SECTIONS}
    wanted["network_def"] = _adapted(raw[network or ""], device)
    wanted["weights"] = _load_path(raw) or str(bundle / "models" / "model.pt")
    raw["bundle_root"] = str(bundle)
    content = _closure(wanted, {key: _adapted(value, device) for key, value in raw.items()}, file)
    if labels_first:
        _label_before_inversion(content["postprocessing"])
    _invert_labels_by_nearest(content["postprocessing"])
    allowed.check(content, file.name)
    notes: list[str] = []
    _drop_removed_arguments(content, allowed, notes)
    return InferenceConfig(
        content=content,
        image_keys=image_keys,
        weights="weights",
        notes=tuple(notes),
    )


def _load(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text("utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError as error:
        raise BundleInvalid(f"{file}: is missing") from error
    except (ValueError, yaml.YAMLError) as error:
        raise BundleInvalid(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BundleInvalid(f"{file}: must be a mapping")
    return content


def _name(config: Any) -> str:
    """Return the class name of a component, "" for anything else."""
    return str(config.get("_target_", "")).rsplit(".", 1)[-1] if isinstance(config, dict) else ""


def _components(config: Any) -> list[dict[str, Any]]:
    """List the components in a part of a configuration, outer ones first."""
    if isinstance(config, dict):
        inner = [found for value in config.values() for found in _components(value)]
        return ([config] if "_target_" in config else []) + inner
    if isinstance(config, list):
        return [found for value in config for found in _components(value)]
    return []


def _image_keys(raw: dict[str, Any], preprocessing: Any) -> list[str]:
    found: list[str] = []
    for component in _components(preprocessing):
        if _name(component).startswith("LoadImage"):
            keys = component.get("keys", [])
            for key in keys if isinstance(keys, list) else [keys]:
                value = raw.get(key[1:], "") if isinstance(key, str) and key.startswith("@") else key
                found += value if isinstance(value, list) else [value]
    return [str(key) for key in found if key]


def _load_path(raw: dict[str, Any]) -> Any:
    return next((c.get("load_path") for c in _components(raw) if _name(c) == "CheckpointLoader"), None)


def _adapted(config: Any, device: str) -> Any:
    """Copy a part of a configuration: no file transforms, our device, no downloads of weights."""
    if isinstance(config, dict):
        kept = {key: value for key, value in config.items() if key not in ("_requires_", "_desc_")}
        if config.get("pretrained"):
            kept["pretrained"] = False
        return {key: _adapted(value, device) for key, value in kept.items()}
    if isinstance(config, list):
        return [_adapted(value, device) for value in config if _name(value) not in _LEFT_OUT]
    if isinstance(config, str):
        if _CUDA.fullmatch(config):
            return device
        if config.startswith("$") and "torch.device(" in config:
            return f"$torch.device('{device}')"
    return copy.copy(config)


def _closure(wanted: dict[str, Any], raw: dict[str, Any], file: Path) -> dict[str, Any]:
    """Add what the wanted parts refer to, and what that refers to."""
    content = dict(wanted)
    waiting = list(wanted.values())
    while waiting:
        for key in _references(waiting.pop(), file):
            if key not in content:
                if key not in raw:
                    raise BundleInvalid(f"{file}: @{key} is not defined")
                content[key] = raw[key]
                waiting.append(raw[key])
    return content


def _references(config: Any, file: Path) -> set[str]:
    if isinstance(config, dict):
        return {key for value in config.values() for key in _references(value, file)}
    if isinstance(config, list):
        return {key for value in config for key in _references(value, file)}
    if isinstance(config, str):
        if config.startswith("%"):
            raise BundleInvalid(f"{file}: the macro {config} is refused; write it out")
        if config.startswith("$") or _WHOLE_REFERENCE.fullmatch(config):
            return set(_REFERENCE.findall(config))
    return set()


def _invert_labels_by_nearest(postprocessing: Any) -> None:
    """Labels have no values in between: what is inverted after it was made discrete is not interpolated."""
    discrete = False
    for component in _components(postprocessing):
        discrete = discrete or _name(component).startswith("AsDiscrete")
        if discrete and _name(component).startswith("Invert"):
            component["nearest_interp"] = True


def _label_before_inversion(postprocessing: Any) -> None:
    """Move the argmax before the inversion: one channel of labels goes back, not all channels of probabilities."""
    transforms: list[Any] = postprocessing.get("transforms", []) if isinstance(postprocessing, dict) else []
    for transform in list(transforms):
        if _name(transform).startswith("AsDiscrete") and transform.get("argmax"):
            inversions = [k for k, other in enumerate(transforms) if _name(other).startswith("Invert")]
            if inversions and inversions[0] < transforms.index(transform):
                transforms.remove(transform)
                transforms.insert(inversions[0], transform)


def _drop_removed_arguments(content: dict[str, Any], allowed: Allowed, notes: list[str]) -> None:
    """Drop the arguments that a class no longer takes (SwinUNETR's img_size), and say so."""
    for component in _components(content):
        parameters = inspect.signature(allowed.resolve(component["_target_"], "config")).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        for key in [key for key in component if not key.startswith("_") and key not in parameters]:
            del component[key]
            notes.append(f"{_name(component)} no longer takes {key}: dropped")
