"""What the settings say of models: where they lie, which are current, on which device they run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imaging_ai.catalog import ModelEntry
from imaging_ai.catalog.current import choose, go_back
from imaging_ai.config import Settings
from imaging_ai.errors import SeriesRefused
from imaging_ai.install import install
from imaging_ai.sandbox.client import Sandbox
from imaging_ai.sandbox.forked import Zygote
from imaging_ai.sandbox.messages import Checked, Spec
from imaging_ai.shadow import Shadows
from imaging_ai.wiring.parts import make_archive, make_catalog, make_current_database, make_ledger

if TYPE_CHECKING:
    from imaging_ai.infer.familiar import Familiar

__all__ = [
    "check_model",
    "fit_model",
    "install_model",
    "make_sandbox",
    "make_shadows",
    "pull_model",
    "roll_back_model",
    "use_model",
]


def make_sandbox(settings: Settings, zygote: Zygote | None = None) -> Sandbox:
    """Plan the processes that run models, which start when they are needed; `zygote` is that of another process."""
    worker, models = settings.worker, settings.models
    return Sandbox(
        Spec(worker.device, worker.threads, models.memory_mb << 20, models.allow_scripts),
        settings.run_path / "sandbox",
        mode=worker.sandbox,
        memory_bytes=worker.memory_limit_mb << 20,
        zygote=zygote,
    )


def check_model(settings: Settings, name: str, *, trial: bool) -> Checked:
    """Load a model in the process for that, and run it on a phantom where that is wanted."""
    return make_sandbox(settings).check(make_catalog(settings).get(name), trial=trial)


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
    from imaging_ai.infer.familiar import fit
    from imaging_ai.infer.fitting import keep
    from imaging_ai.offline import accepted

    entry, sandbox = make_catalog(settings).get(name), make_sandbox(settings)
    features, refused = [], []
    for _, series in accepted(folder, entry):
        try:
            layer, of_this = sandbox.features(entry, series, layer)
        except SeriesRefused as refusal:
            refused.append(refusal.message)
        else:
            features.append(np.array(of_this))
    familiar = fit(layer, features)
    keep(familiar, entry.path)
    return make_catalog(settings).get(name), familiar, refused


def make_shadows(settings: Settings) -> Shadows:
    """Open what tells how versions in the shadow do."""
    database = make_current_database(settings)
    return Shadows(make_archive(settings, database), make_ledger(settings, database))
