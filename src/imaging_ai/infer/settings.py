"""A bundle's inference configuration, cut down to what a result needs and adapted to run from memory.

Kept: the networks, preprocessing, inferer, postprocessing, and what they refer to. So the data lists, output
folders, loaders and handlers of a bundle are never evaluated.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from imaging_ai.errors import BundleInvalid
from imaging_ai.infer.config_file import imported_names, read_mapping
from imaging_ai.infer.expressions import PYRAMID, READER, Allowed
from imaging_ai.infer.retinanet import feature_pyramid
from imaging_ai.infer.sections import Member, components, detector, followed, members, name_of, section
from imaging_ai.infer.weights import file_reader

__all__ = ["InferenceConfig", "read_config"]

_REFERENCE = re.compile(r"@(\w+)")
_WHOLE_REFERENCE = re.compile(r"@\w+(?:(?:::|#)\w+)*")
_CUDA = re.compile(r"cuda(:\d+)?")
_DEVICE = "torch.device("
#: What MONAI builds by torchvision, and we by ourselves.
_PYRAMID = re.compile(r"(monai\.apps\.detection\.networks\.retinanet_network\.)?\bresnet_fpn_feature_extractor\(")
_ALWAYS = ("preprocessing", "inferer", "postprocessing")
#: What an evaluator does where its configuration does not say.
_USUAL: dict[str, Any] = {
    "inferer": {"_target_": "SimpleInferer"},
    "postprocessing": {"_target_": "Compose", "transforms": []},
}
#: Transforms that read or write files, or print what they see.
_LEFT_OUT = re.compile(
    r"(LoadImage|SaveImage|SaveClassification|DataStats|WriteFileMapping|TransformChain)(d|D|Dict)?"
    r"|scripts\.(\w+\.)*(Load|Save)\w*"
)
#: What MONAI has renamed: the new name, and what it wants besides.
_RENAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "AddChannel": ("EnsureChannelFirst", {"channel_dim": "no_channel"}),
    "AsChannelFirst": ("EnsureChannelFirst", {"channel_dim": -1}),
    "SplitChannel": ("SplitDim", {"dim": 0, "keepdim": True}),
}
_RENAMED_ARGUMENTS = {
    **{"dimensions": ("spatial_dims",), "pos_embed": ("proj_type",), "norm_name": ("norm",)},
    **{"n_classes": ("to_onehot",), "logit_thresh": ("threshold",), "threshold_values": ()},
    **{"num_classes": ("out_channels",), "out_classes": ("out_channels",)},
}


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    """The configuration to build, the names of the images that it loads, and what was changed in it.

    `content` has ``network_def`` and ``weights``, or of an ensemble ``networks``, ``weights`` and ``pred_keys`` as
    lists; `members` says how the weights are read. `names` is what its expressions may name. `detector` is the name
    of the detector of boxes, if it has one; then there are ``detector_calls`` and ``detector_windows``.
    """

    content: dict[str, Any]
    image_keys: tuple[str, ...]
    weights: str
    notes: tuple[str, ...]
    members: tuple[Member, ...]
    names: dict[str, Any]
    detector: str = ""


def read_config(
    file: Path,
    bundle: Path,
    device: str,
    allowed: Allowed,
    *,
    labels_first: bool = False,
    channels: bool = False,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> InferenceConfig:
    """Read an inference configuration and adapt it to `device`; `overrides` takes the place of entries of it.

    `labels_first` takes the label of each voxel before, not after, going back to the source grid. `channels` keeps
    channels that overlap apart where the configuration ends by merging them into one map of labels.

    Raises
    ------
    BundleInvalid
        If it is damaged, lacks a section, or asks for what is forbidden.
    """
    raw = {**_overridden(read_mapping(file), overrides, file), "bundle_root": str(bundle)}
    notes: list[str] = []
    networks, pred_keys = members(raw)
    if not networks or "network_def" in _references(networks[0].network) - raw.keys():
        raise BundleInvalid(f"{file}: has no network_def; a bundle needs network_def, {', '.join(_ALWAYS)}")
    default = str(bundle / "models" / "model.pt")
    weights = [followed(member.weights, raw) or default for member in networks]
    wanted = {name: _section(raw, name, file) for name in _ALWAYS}
    if pred_keys is None:
        wanted |= {"network_def": networks[0].network, "weights": weights[0]}
    else:
        wanted |= {"networks": [one.network for one in networks], "weights": weights, "pred_keys": pred_keys}
    boxes = detector(raw, file)
    if boxes:
        wanted |= {boxes.name: boxes.config, "inferer": _USUAL["inferer"]}
        wanted |= {"detector_calls": list(boxes.calls), "detector_windows": boxes.windows}
    whole = _closure(wanted, raw, file)
    image_keys = tuple(_image_keys(whole, raw)) or ("image",)
    content = {key: _adapted(value, device, notes) for key, value in whole.items()}
    _adapt_postprocessing(content, image_keys, notes, labels_first=labels_first, channels=channels)
    names = imported_names(raw)
    allowed.check(content, file.name, names)
    _fit_arguments(content, allowed, notes)
    values = {**allowed.values(names), READER: file_reader(bundle), PYRAMID: feature_pyramid}
    told, name = tuple(dict.fromkeys(notes)), boxes.name if boxes else ""
    return InferenceConfig(content, image_keys, "weights", told, tuple(networks), values, name)


def _overridden(raw: dict[str, Any], overrides: Mapping[str, Any], file: Path) -> dict[str, Any]:
    if unknown := [name for name in overrides if name not in raw]:
        raise BundleInvalid(f"{file}: has no {unknown[0]}, which dicom.toml, [run] overrides, gives a value")
    return {**raw, **overrides}


def _section(raw: dict[str, Any], name: str, file: Path) -> Any:
    found = section(raw, name)
    if found is None:
        found = copy.deepcopy(_USUAL.get(name))
    if found is None:
        raise BundleInvalid(f"{file}: has no {name}; a bundle needs network_def, {', '.join(_ALWAYS)}")
    return found


def _image_keys(content: dict[str, Any], raw: dict[str, Any]) -> list[str]:
    """List the keys that loaders of images fill, of all that the preprocessing consists of."""
    parts = [value for key, value in content.items() if key not in ("postprocessing", "weights")]
    found: list[Any] = []
    for component in components(parts):
        if name_of(component).startswith("Load") and component.get("_disabled_") is not True:
            keys = component.get("keys", [])
            for key in keys if isinstance(keys, list) else [keys]:
                value = followed(key, raw)
                found += value if isinstance(value, list) else [value]
    return list(dict.fromkeys(_constant(str(key)) for key in found if key))


def _constant(key: str) -> str:
    """Read MONAI's names of the usual keys: ``$monai.utils.CommonKeys.IMAGE`` is "image"."""
    return key.rsplit(".", 1)[-1].lower() if key.startswith("$monai.utils.") else key


def _adapted(config: Any, device: str, notes: list[str]) -> Any:
    """Copy a part of a configuration: no file transforms, our device, no downloads of weights, new names."""
    if isinstance(config, dict):
        if _is_left_out(config):
            return {"_target_": "Compose", "transforms": []}
        kept = {key: value for key, value in _renamed(config, notes).items() if key not in ("_requires_", "_desc_")}
        if config.get("pretrained"):
            kept["pretrained"] = False
        return {key: _adapted(value, device, notes) for key, value in kept.items()}
    if isinstance(config, list):
        return [_adapted(value, device, notes) for value in config if not _is_left_out(value)]
    if isinstance(config, str):
        if _CUDA.fullmatch(config):
            return device
        if config.startswith("$"):
            ours = _on_device(config, device).replace("torch.load(", f"{READER}(")
            return _PYRAMID.sub(f"{PYRAMID}(", ours)
    return copy.copy(config)


def _is_left_out(config: Any) -> bool:
    target = str(config.get("_target_", "")) if isinstance(config, dict) else ""
    return bool(_LEFT_OUT.fullmatch(target) or _LEFT_OUT.fullmatch(target.rsplit(".", 1)[-1]))


def _renamed(config: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    old = name_of(config)
    base = re.sub(r"(d|D|Dict)$", "", old)
    if base not in _RENAMED:
        return config
    new, arguments = _RENAMED[base]
    notes.append(f"{base} is {new} now")
    return {**config, **arguments, "_target_": new + ("d" if old != base else "")}


def _on_device(expression: str, device: str) -> str:
    """Write our device for each ``torch.device(…)``, whatever stands in the parentheses."""
    start = expression.find(_DEVICE)
    while start >= 0:
        end, depth = start + len(_DEVICE), 1
        while depth and end < len(expression):
            depth += {"(": 1, ")": -1}.get(expression[end], 0)
            end += 1
        ours = f"{_DEVICE}'{device}')"
        expression = expression[:start] + ours + expression[end:]
        start = expression.find(_DEVICE, start + len(ours))
    return expression


def _closure(wanted: dict[str, Any], raw: dict[str, Any], file: Path) -> dict[str, Any]:
    """Add what the wanted parts refer to, and what that refers to."""
    content = dict(wanted)
    waiting = list(wanted.values())
    while waiting:
        for key in _references(waiting.pop()):
            if key not in content:
                if key not in raw:
                    raise BundleInvalid(f"{file}: @{key} is not defined")
                content[key] = raw[key]
                waiting.append(raw[key])
    return content


def _references(config: Any) -> set[str]:
    if isinstance(config, dict):
        return {key for name, value in config.items() if name != "_requires_" for key in _references(value)}
    if isinstance(config, list):
        return {key for value in config if not _is_left_out(value) for key in _references(value)}
    if isinstance(config, str) and (config.startswith("$") or _WHOLE_REFERENCE.fullmatch(config)):
        return set(_REFERENCE.findall(config))
    return set()


def _adapt_postprocessing(
    content: dict[str, Any], image_keys: tuple[str, ...], notes: list[str], *, labels_first: bool, channels: bool
) -> None:
    postprocessing = content["postprocessing"]
    transforms = postprocessing.get("transforms") if isinstance(postprocessing, dict) else None
    if isinstance(transforms, list):
        _invert_once(transforms, image_keys, notes)
        if channels:
            _keep_channels(transforms, notes)
        if labels_first:
            _label_before_inversion(transforms)
    _invert_labels_by_nearest(postprocessing)


def _invert_once(transforms: list[Any], image_keys: tuple[str, ...], notes: list[str]) -> None:
    """Leave out inversions by an image that was only put together, where one by a loaded image stands there too."""

    def by_loaded(transform: Any) -> bool:
        keys = transform.get("orig_keys")
        return any(key in image_keys for key in (keys if isinstance(keys, list) else [keys]))

    inversions = [transform for transform in transforms if name_of(transform).startswith("Invert")]
    if any(by_loaded(one) for one in inversions):
        for transform in inversions:
            keys = transform.get("orig_keys")
            if isinstance(keys, str) and not keys.startswith(("@", "$")) and not by_loaded(transform):
                transforms.remove(transform)
                notes.append(f"the second inversion, by {keys}, is left out: the answer is back by then")


def _keep_channels(transforms: list[Any], notes: list[str]) -> None:
    """Leave out what follows the last threshold: there overlapping channels become one map of labels."""
    thresholds = [k for k, one in enumerate(transforms) if name_of(one).startswith("AsDiscrete") and "threshold" in one]
    merging = transforms[thresholds[-1] + 1 :] if thresholds else []
    for transform in merging:
        if name_of(transform) in ("Lambda", "Lambdad"):
            transforms.remove(transform)
            notes.append("channels overlap and are kept apart: the merging into one map of labels is left out")


def _invert_labels_by_nearest(postprocessing: Any) -> None:
    """Labels have no values in between: what is inverted after it was made discrete is not interpolated."""
    discrete = False
    for component in components(postprocessing):
        discrete = discrete or name_of(component).startswith("AsDiscrete")
        if discrete and name_of(component).startswith("Invert"):
            component["nearest_interp"] = True


def _label_before_inversion(transforms: list[Any]) -> None:
    """Move the argmax before the inversion: one channel of labels goes back, not all channels of probabilities."""
    for transform in list(transforms):
        if name_of(transform).startswith("AsDiscrete") and transform.get("argmax"):
            inversions = [k for k, other in enumerate(transforms) if name_of(other).startswith("Invert")]
            if inversions and inversions[0] < transforms.index(transform):
                transforms.remove(transform)
                transforms.insert(inversions[0], transform)


def _fit_arguments(content: dict[str, Any], allowed: Allowed, notes: list[str]) -> None:
    """Rename and drop the arguments that a class no longer takes (SwinUNETR's img_size), and say so."""
    for component in components(content):
        parameters = _parameters(allowed.resolve(component["_target_"], "config"))
        if "pretrained" in parameters:
            component["pretrained"] = False
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        for key in [key for key in component if not key.startswith("_") and key not in parameters]:
            new = next((name for name in _RENAMED_ARGUMENTS.get(key, ()) if name in parameters), "")
            if takes_any and not new and _RENAMED_ARGUMENTS.get(key) != ():
                continue
            value = component.pop(key)
            if new and component.get(new, True) is True:  # True: a switch of old, where now the value stands
                component[new] = value
                notes.append(f"{name_of(component)} calls {key} {new} now")
            else:
                notes.append(f"{name_of(component)} no longer takes {key}: dropped")


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(target).parameters)
