"""Where a bundle's configuration keeps what a result needs: its networks, their weights, and what is around them.

Most bundles name the sections as MONAI's bundle specification does. Where one does not, the evaluator and the data
set of the configuration say which part is which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from imaging_ai.errors import BundleInvalid

__all__ = ["DetectorSection", "Member", "components", "detector", "followed", "members", "name_of", "section"]


@dataclass(frozen=True, slots=True)
class Member:
    """A network of the configuration, alone or in an ensemble.

    `weights` is the path that its checkpoint loader reads ("" when it says none), `within` the keys under which that
    looks for them.
    """

    network: Any
    weights: Any = ""
    within: tuple[str, ...] = ()
    strict: bool = True


@dataclass(frozen=True, slots=True)
class DetectorSection:
    """A detector of boxes: its name in the configuration, what it is made of, the calls that set it up.

    `windows` says whether it reads window by window whatever the size of the image.
    """

    name: str
    config: Any
    calls: tuple[str, ...]
    windows: Any = False


#: What sets a detector up to answer; what else is called on it is for its training.
_SETTERS = (
    "set_target_keys",
    "set_box_coder_weights",
    "set_box_selector_parameters",
    "set_sliding_window_inferer",
)


def name_of(config: Any) -> str:
    """Return the class name of a component, "" for anything else."""
    return str(config.get("_target_", "")).rsplit(".", 1)[-1] if isinstance(config, dict) else ""


def components(config: Any) -> list[dict[str, Any]]:
    """List the components in a part of a configuration, outer ones first."""
    if isinstance(config, dict):
        inner = [found for value in config.values() for found in components(value)]
        return ([config] if "_target_" in config else []) + inner
    if isinstance(config, list):
        return [found for value in config for found in components(value)]
    return []


def followed(value: Any, raw: Mapping[str, Any]) -> Any:
    """Return what a value stands for that is nothing but a reference (``@a``, ``$@a::b``)."""
    seen = 0
    while isinstance(value, str) and value.lstrip("$").startswith("@") and seen < len(raw):
        seen += 1
        found: Any = raw
        for key in value.lstrip("$@").strip().split("::"):
            if isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, Mapping) and key in found:
                found = found[key]
            else:
                return value
        value = found
    return value


def section(raw: Mapping[str, Any], name: str) -> Any:
    """Return a section by its name, or as the evaluator (for `preprocessing`, the data set) refers to it."""
    if name in raw:
        return raw[name]
    suffix, key = ("Dataset", "transform") if name == "preprocessing" else ("Evaluator", name)
    return next((one[key] for one in components(dict(raw)) if name_of(one).endswith(suffix) and key in one), None)


def members(raw: Mapping[str, Any]) -> tuple[list[Member], Any]:
    """List the networks of a configuration, and the names of their answers where they are an ensemble (else None)."""
    loaders = [one for one in components(dict(raw)) if name_of(one) == "CheckpointLoader"]
    ensemble = next((one for one in components(dict(raw)) if name_of(one) == "EnsembleEvaluator"), None)
    networks = followed(ensemble.get("networks"), raw) if ensemble else None
    if not ensemble or not isinstance(networks, list):
        alone = next((raw[key] for key in ("network_def", "network") if key in raw), section(raw, "network"))
        return ([_member(alone, loaders[-1:])] if alone is not None else []), None
    in_order = len(loaders) == len(networks)
    found = []
    for index, network in enumerate(networks):
        own = [loader for loader in loaders if network in _targets(loader)]
        found.append(_member(network, own or (loaders[index : index + 1] if in_order else [])))
    keys = followed(ensemble.get("pred_keys"), raw) or [f"pred_{index}" for index in range(len(networks))]
    return found, keys


def detector(raw: Mapping[str, Any], file: object) -> DetectorSection | None:
    """Find the detector that a bundle's own `RetinaNetInferer` would run; None where the inferer is another.

    Raises
    ------
    BundleInvalid
        If it is not MONAI's.
    """
    inferer = section(raw, "inferer")
    if name_of(inferer) != "RetinaNetInferer":
        return None
    given = inferer.get("detector")
    config = followed(given, raw)
    if name_of(config) != "RetinaNetDetector":
        raise BundleInvalid(f"{file}: the detector of RetinaNetInferer is no RetinaNetDetector of MONAI")
    name = given.lstrip("$@").strip() if isinstance(given, str) else "detector"
    call = re.compile(rf"\$\s*@{re.escape(name)}\.({'|'.join(_SETTERS)})\(")
    calls = dict.fromkeys(text for text in _texts(dict(raw)) if call.match(text))
    return DetectorSection(name, config, tuple(calls), inferer.get("force_sliding_window", False))


def _texts(config: Any) -> Iterator[str]:
    inner = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    yield from (config,) if isinstance(config, str) else ()
    for value in inner:
        yield from _texts(value)


def _member(network: Any, loaders: list[dict[str, Any]]) -> Member:
    if not loaders:
        return Member(network)
    [loader] = loaders
    within = loader.get("load_dict")
    named = tuple(within) if isinstance(within, Mapping) else ()
    strict = str(loader.get("strict", True)).lower() != "false"
    return Member(network, loader.get("load_path", ""), named, strict)


def _targets(loader: Mapping[str, Any]) -> Iterator[Any]:
    into = loader.get("load_dict")
    yield from into.values() if isinstance(into, Mapping) else ()
