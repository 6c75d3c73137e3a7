"""What the settings say of models: where they lie, which are current, on which device they run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imaging_ai.catalog import ModelEntry
from imaging_ai.catalog.current import choose, go_back
from imaging_ai.config import Settings
from imaging_ai.install import install
from imaging_ai.shadow import Shadows
from imaging_ai.wiring.parts import make_archive, make_catalog, make_current_database, make_ledger

if TYPE_CHECKING:
    from imaging_ai.infer.familiar import Familiar
    from imaging_ai.infer.model import LoadedModel
    from imaging_ai.infer.registry import Registry

__all__ = [
    "fit_model",
    "install_model",
    "load_model",
    "make_registry",
    "make_shadows",
    "pull_model",
    "roll_back_model",
    "use_model",
]


def make_registry(settings: Settings) -> Registry:
    """Build the loaded models of this process, on its device."""
    from imaging_ai.infer.device import choose_device
    from imaging_ai.infer.registry import Registry

    device = choose_device(settings.worker.device, threads=settings.worker.threads)
    options = settings.models
    return Registry(make_catalog(settings), device, options.memory_mb << 20, allow_scripts=options.allow_scripts)


def load_model(settings: Settings, name: str) -> LoadedModel:
    """Load a model into this process."""
    return make_registry(settings).get(name)


def install_model(settings: Settings, source: Path, name: str | None) -> ModelEntry:
    """Copy a bundle (a folder or a ZIP file) into the data directory's models."""
    return install(source, settings.data_path / "models", name, taken=make_catalog(settings).names())


def pull_model(settings: Settings, name: str, *, digest: str = "", install_as: str = "", **source: Any) -> ModelEntry:
    """Fetch a bundle as MONAI does and install it; `source` is what `infer.zoo.fetch` takes."""
    from imaging_ai.infer.zoo import fetch

    models, taken = settings.data_path / "models", make_catalog(settings).names()
    with tempfile.TemporaryDirectory() as staging:
        bundle = fetch(name, Path(staging), **source)
        return install(bundle, models, install_as or name, taken=taken, digest=digest)


def use_model(settings: Settings, name: str) -> ModelEntry:
    """Let the plain name of a model mean the version that `name` (NAME@VERSION, or NAME for its plain folder) says."""
    plain, _, version = name.partition("@")
    catalog = make_catalog(settings)
    if version or plain not in catalog.folders():
        catalog.get(name)  # NotFound where it is not installed
    choose(settings.data_path / "models", plain, version)
    return catalog.get(plain)


def roll_back_model(settings: Settings, name: str) -> ModelEntry:
    """Let the name of a model mean what it meant before the last choice."""
    go_back(settings.data_path / "models", name)
    return make_catalog(settings).get(name)


def fit_model(settings: Settings, name: str, folder: Path, layer: str = "") -> tuple[ModelEntry, Familiar, list[str]]:
    """Make the statistics of what a model knows from the series in a folder, and keep them in its bundle."""
    from imaging_ai.infer.fitting import features_from, keep
    from imaging_ai.offline import accepted

    model = load_model(settings, name)
    series = (files for _, files in accepted(folder, model.entry))
    familiar, refused = features_from(model, series, layer)
    keep(familiar, model.entry.path)
    return make_catalog(settings).get(name), familiar, refused


def make_shadows(settings: Settings) -> Shadows:
    """Open what tells how versions in the shadow do."""
    database = make_current_database(settings)
    return Shadows(make_archive(settings, database), make_ledger(settings, database))
