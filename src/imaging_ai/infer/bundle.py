"""MONAI bundles, loaded to run from memory.

The inference configuration is built as it stands (`settings.py` says what is adapted, `expressions.py` what is
refused), and `model.py` runs what was built.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from monai.bundle.config_item import ComponentLocator
from monai.bundle.config_parser import ConfigParser

from imaging_ai.catalog import ModelEntry
from imaging_ai.errors import BundleInvalid, ImagingAiError, ModelOutOfMemory
from imaging_ai.infer.expressions import GLOBALS, Allowed
from imaging_ai.infer.model import LoadedModel, Parts, first_cause, in_a_line
from imaging_ai.infer.settings import read_config
from imaging_ai.infer.windows import is_out_of_memory

__all__ = ["load_bundle"]

_CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")


def load_bundle(entry: ModelEntry, device: torch.device | str = "cpu", *, allow_scripts: bool = False) -> LoadedModel:
    """Build the network, transforms and inferer of a model, and load its weights.

    `allow_scripts` lets the bundle's own Python code run; only for bundles that somebody has read.

    Raises
    ------
    BundleInvalid
        If something is missing, damaged, unknown, or forbidden; the message names it.
    """
    device = torch.device(device)
    path = entry.path.resolve()
    wanted = (entry.run.config,) if entry.run.config else _CONFIGS
    file = next((path / name for name in wanted if (path / name).is_file()), path / wanted[0])
    if not file.resolve().is_relative_to(path):
        raise BundleInvalid(f"{entry.name}: {entry.run.config} is outside of the bundle")
    with _importable(path, allow_scripts):
        locator = ComponentLocator()
        config = read_config(
            file, path, str(device), Allowed(locator, scripts=allow_scripts), labels_first=entry.run.labels_first
        )
        if entry.run.weights:
            config.content["weights"] = str(path / entry.run.weights)
        parser = ConfigParser(config.content, globals=GLOBALS)
        parser.locator = locator
        try:
            return LoadedModel(entry, device, config, _parts(parser, entry, device))
        except ImagingAiError:
            raise
        except Exception as error:  # the edge to the bundle: what it builds may raise anything
            if is_out_of_memory(error):
                raise ModelOutOfMemory(f"{entry.name} does not fit on {device}") from error
            raise BundleInvalid(f"{entry.name} cannot be built: {in_a_line(first_cause(error))}") from error


def _parts(parser: ConfigParser, entry: ModelEntry, device: torch.device) -> Parts:
    before, after = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing")
    network = _network(parser, Path(parser.get_parsed_content("weights")), entry, device)
    return Parts(network, before, parser.get_parsed_content("inferer"), after)


def _network(parser: ConfigParser, weights: Path, entry: ModelEntry, device: torch.device) -> torch.nn.Module:
    network = parser.get_parsed_content("network_def")
    if not isinstance(network, torch.nn.Module):
        raise BundleInvalid(f"{entry.name}: network_def is not a network")
    if not weights.resolve().is_relative_to(entry.path.resolve()):
        raise BundleInvalid(f"{entry.name}: its weights lie outside of the bundle")
    state = _state(weights, entry)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise BundleInvalid(f"{entry.name}: {weights.name} is not of this network: {str(error)[:400]}") from error
    network.requires_grad_(False)
    network.to(device).eval()
    if entry.run.channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network


def _state(weights: Path, entry: ModelEntry) -> dict[str, torch.Tensor]:
    """Read a state_dict, alone or in a checkpoint; nothing in the file is executed."""
    name = f"{entry.name}: {weights.name}"
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BundleInvalid(f"{name} is missing; the weights belong into {weights.parent.name}/") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise BundleInvalid(f"{name} is not a plain state_dict: {str(error).splitlines()[0][:200]}") from error
    for key in ("model", "state_dict", "network"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BundleInvalid(f"{name} is not a state_dict")
    broken = [key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise BundleInvalid(f"{name} has values that are not numbers in {broken[0]}")
    return {key.removeprefix("module."): value for key, value in state.items()}


@contextmanager
def _importable(path: Path, allowed: bool) -> Iterator[None]:
    """Make the bundle's own `scripts` importable while it is built; each bundle has a package of that name."""
    if not allowed:
        yield
        return
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))
        for name in [name for name in sys.modules if name == "scripts" or name.startswith("scripts.")]:
            del sys.modules[name]
