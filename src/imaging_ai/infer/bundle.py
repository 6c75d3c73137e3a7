"""MONAI bundles, loaded to run from memory.

The inference configuration is built as it stands (`settings.py` says what is adapted, `expressions.py` what is
refused), its networks are filled (`weights.py`), and `model.py` runs what was built.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from monai.bundle.config_item import ComponentLocator
from monai.bundle.config_parser import ConfigParser
from monai.utils.module import OptionalImportError

from imaging_ai.catalog import ModelEntry
from imaging_ai.catalog.entry import CONFIGS
from imaging_ai.catalog.metadata import read_metadata
from imaging_ai.errors import BundleInvalid, ImagingAiError, ModelOutOfMemory
from imaging_ai.infer.ensemble import Ensemble
from imaging_ai.infer.expressions import Allowed
from imaging_ai.infer.memory import is_out_of_memory
from imaging_ai.infer.model import LoadedModel, Parts, first_cause, in_a_line
from imaging_ai.infer.retinanet import Retina
from imaging_ai.infer.sections import components, name_of
from imaging_ai.infer.settings import InferenceConfig, read_config
from imaging_ai.infer.weights import fill

__all__ = ["build_parser", "load_bundle"]

#: What bundles name and a result does not need: readers and writers of files, engines, tables, logs.
_NOT_NEEDED = frozenset({"nibabel", "pytorch-ignite", "itk", "pandas", "pillow", "tensorboard", "fire", "tqdm"})


def load_bundle(entry: ModelEntry, device: torch.device | str = "cpu", *, allow_scripts: bool = False) -> LoadedModel:
    """Build the networks, transforms and inferer of a model, and load its weights.

    `allow_scripts` lets the bundle's own Python code run; only for bundles that somebody has read.

    Raises
    ------
    BundleInvalid
        If something is missing, damaged, unknown, or forbidden; the message names it.
    """
    device = torch.device(device)
    with importable(entry.path.resolve(), allow_scripts):
        try:
            config, parser = build_parser(entry, str(device), allow_scripts=allow_scripts)
            parts, notes = _parts(parser, config, entry, device)
            return LoadedModel(entry, device, dataclasses.replace(config, notes=(*config.notes, *notes)), parts)
        except BundleInvalid as error:
            raise BundleInvalid(f"{entry.name}: {error.message}{_absent_packages(entry)}") from error
        except ImagingAiError:
            raise
        except Exception as error:  # the edge to the bundle: what it builds may raise anything
            if is_out_of_memory(error):
                raise ModelOutOfMemory(f"{entry.name} does not fit on {device}") from error
            raise BundleInvalid(
                f"{entry.name} cannot be built: {_cause(first_cause(error))}{_absent_packages(entry)}"
            ) from error


def build_parser(
    entry: ModelEntry, device: str = "cpu", *, allow_scripts: bool = False
) -> tuple[InferenceConfig, ConfigParser]:
    """Read a model's inference configuration, ready to be built part by part."""
    path = entry.path.resolve()
    wanted = (entry.run.config,) if entry.run.config else CONFIGS
    file = next((path / name for name in wanted if (path / name).is_file()), path / wanted[0])
    if not file.resolve().is_relative_to(path):
        raise BundleInvalid(f"{entry.run.config} is outside of the bundle")
    locator = ComponentLocator()
    config = read_config(
        file,
        path,
        device,
        Allowed(locator, scripts=allow_scripts),
        labels_first=entry.run.labels_first,
        channels=0 in entry.segment_values,
        overrides=entry.run.overrides,
    )
    if entry.run.weights:
        config.content["weights"] = str(path / entry.run.weights)
    parser = ConfigParser(config.content, globals=config.names)
    parser.locator = locator
    return config, parser


def _parts(
    parser: ConfigParser, config: InferenceConfig, entry: ModelEntry, device: torch.device
) -> tuple[Parts, list[str]]:
    before, after = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing")
    network, notes = _network(parser, config, entry)
    network.requires_grad_(False)
    network.to(device).eval()
    inferer, retina = parser.get_parsed_content("inferer"), _retina(parser, config, entry)
    return Parts(network, before, inferer, after, retina), notes + _switched_off(config, before)


def _retina(parser: ConfigParser, config: InferenceConfig, entry: ModelEntry) -> Retina | None:
    if entry.detector and not config.detector:
        raise BundleInvalid("[detect] is of a bundle whose inferer is RetinaNetInferer, and this one has another")
    if not config.detector:
        return None
    if not entry.detector:
        raise BundleInvalid("it answers boxes: name their labels by [detect] and [[classes]] of dicom.toml")
    detector = parser.get_parsed_content(config.detector)
    parser.get_parsed_content("detector_calls")
    return Retina(detector, always_windows=bool(parser.get_parsed_content("detector_windows")))


def _switched_off(config: InferenceConfig, before: Any) -> list[str]:
    """Tell of resampling that the configuration has and does not run: the network may need it."""
    configured = [one for one in components(config.content["preprocessing"]) if name_of(one) in ("Spacing", "Spacingd")]
    built = [step for step in getattr(before, "transforms", [before]) if type(step).__name__ in ("Spacing", "Spacingd")]
    off = len(configured) - len(built)
    return ["Spacing is switched off in the configuration: images are read as they are spaced"] if off > 0 else []


def _network(parser: ConfigParser, config: InferenceConfig, entry: ModelEntry) -> tuple[torch.nn.Module, list[str]]:
    ensemble = "networks" in config.content
    networks = parser.get_parsed_content("networks") if ensemble else [parser.get_parsed_content("network_def")]
    files = parser.get_parsed_content("weights")
    paths = [Path(str(file)) for file in (files if isinstance(files, list) else [files])]
    if not isinstance(networks, Sequence) or not all(isinstance(one, torch.nn.Module) for one in networks):
        raise BundleInvalid(f"{'networks' if ensemble else 'network_def'} is not a network")
    if len(paths) != len(networks):
        raise BundleInvalid(f"{len(networks)} networks, and weights for {len(paths)}")
    root = entry.path.resolve()
    notes = [
        fill(network, path, root, member.within, strict=member.strict)
        for network, path, member in zip(networks, paths, config.members, strict=True)
    ]
    if not ensemble:
        return networks[0], [note for note in notes if note]
    keys = parser.get_parsed_content("pred_keys")
    return Ensemble(networks, [str(key) for key in keys]), [note for note in notes if note]


def _cause(error: BaseException) -> str:
    """Say what went wrong in a line, and when it is a package, which."""
    absent = error.name if isinstance(error, ModuleNotFoundError) else None
    if isinstance(error, OptionalImportError):
        named = re.search(r"No module named '([\w.]+)'", str(error))
        absent = named[1] if named else None
    return f"it needs the package {absent.split('.')[0]}" if absent else in_a_line(error)


def _absent_packages(entry: ModelEntry) -> str:
    """Name the packages that the metadata asks for and this Python lacks, with the command that brings them."""
    metadata = read_metadata(entry.path / "configs" / "metadata.json")
    wanted: dict[str, Any] = {}
    for key in ("optional_packages_version", "required_packages_version"):
        named = metadata.get(key)
        wanted |= named if isinstance(named, dict) else {}
    needless = _NOT_NEEDED | ({"torchvision"} if entry.detector else set())
    absent = [
        f"{name}=={version}"
        for name, version in wanted.items()
        if name.lower() not in needless and not _is_installed(name)
    ]
    return f"; its metadata.json asks for what is not installed: pip install {' '.join(absent)}" if absent else ""


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except (PackageNotFoundError, ValueError):
        return False
    return True


@contextmanager
def importable(path: Path, allowed: bool) -> Iterator[None]:
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
