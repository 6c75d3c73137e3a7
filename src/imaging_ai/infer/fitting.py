"""Making the statistics of what a model knows, from series that it should know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaging_ai.core.volume import Volume
from imaging_ai.errors import BundleInvalid, SeriesRefused
from imaging_ai.infer.classify import scores
from imaging_ai.infer.detect import detect
from imaging_ai.infer.familiar import Familiar, deepest_layer, fit, listening, write_familiar
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.volume import read_volume

__all__ = ["STATISTICS", "features_from", "features_of", "keep"]

STATISTICS = "models/features.npz"
_TABLE = '\n[out_of_distribution]\nstatistics = "models/features.npz"\n'


def features_from(
    model: LoadedModel, series: Iterable[Mapping[str, Iterable[bytes]]], layer: str = ""
) -> tuple[Familiar, list[str]]:
    """Run a model over the files of some series and describe its features; also say which series it refused, and why.

    `layer` is the deepest when it is not named.

    Raises
    ------
    InputError
        If too few are left.
    BundleInvalid
        If there is no such layer.
    """
    features, refused = [], []
    for files in series:
        try:
            layer, found = features_of(model, files, layer)
        except SeriesRefused as refusal:
            refused.append(refusal.message)
            continue
        features.append(found)
    return fit(layer, features), refused


def features_of(
    model: LoadedModel, files: Mapping[str, Iterable[bytes]], layer: str = ""
) -> tuple[str, NDArray[np.float64]]:
    """Run a model over the files of a series; return the layer that was asked, and what it answers of it.

    Raises
    ------
    SeriesRefused
        If the model does not read it, or the layer has nothing to say of it.
    BundleInvalid
        If there is no such layer.
    """
    volumes = {name: read_volume(some) for name, some in files.items()}
    if not layer:
        layer = _deepest(model, volumes)
    with listening(model.network, layer) as heard:
        _run(model, volumes)
    if (found := heard.features) is None:
        raise SeriesRefused("no-features", f"the layer {layer} answers nothing to this series")
    return layer, found


def keep(familiar: Familiar, bundle: Path) -> Path:
    """Write the statistics into a bundle, and name them in its `dicom.toml`; that makes it another model."""
    file, toml = bundle / STATISTICS, bundle / "dicom.toml"
    write_familiar(familiar, file)
    text = toml.read_text("utf-8") if toml.is_file() else ""
    if "[out_of_distribution]" not in text:
        toml.write_text(text + _TABLE, "utf-8")
    return file


def _deepest(model: LoadedModel, volumes: Mapping[str, Volume]) -> str:
    with deepest_layer(model.network) as found:
        _run(model, volumes)
    if not found:
        raise BundleInvalid(f"{model.entry.name}: none of its layers answers features; name one by --layer")
    return found[0]


def _run(model: LoadedModel, volumes: Mapping[str, Volume]) -> None:
    given = volumes if model.entry.inputs else next(iter(volumes.values()))
    if model.entry.classifier and not model.entry.segments:
        scores(model, given)
    elif model.entry.detector:
        detect(model, given, "features")
    else:
        model.predict(given)
