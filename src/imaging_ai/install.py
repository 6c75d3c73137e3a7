"""Installing a model: a folder or a ZIP file becomes a folder among the models, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.errors import BundleInvalid, WrongState

__all__ = ["install"]

_LARGEST = 8 << 30


def install(source: Path, models: Path, name: str | None = None) -> ModelEntry:
    """Copy the bundle at `source` to `models`/`name` (default: its own name).

    Raises
    ------
    BundleInvalid
        If it is no bundle, or an archive that reaches outside itself or is absurdly large.
    WrongState
        If a model of that name is there already.
    ConfigError
        If its `dicom.toml` cannot be used.
    """
    name = name or source.name.removesuffix(".zip")
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise BundleInvalid(f"{name!r} is no name for a model")
    target = models / name
    if target.exists():
        raise WrongState(f"the model {name} is installed already in {target}; remove it or give --name")
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".installing-") as staging:
        bundle = _unpack(source, Path(staging)) if source.is_file() else _copy(source, Path(staging))
        if not any((bundle / "configs").glob("inference.*")):
            raise BundleInvalid(f"{source} is no MONAI bundle: it has no configs/inference.json or .yaml")
        read_model(bundle)
        bundle.rename(target)
    return read_model(target)


def _copy(source: Path, staging: Path) -> Path:
    return Path(shutil.copytree(source, staging / "bundle", ignore=shutil.ignore_patterns("__pycache__")))


def _unpack(source: Path, staging: Path) -> Path:
    target = staging / "bundle"
    try:
        with zipfile.ZipFile(source) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise BundleInvalid(f"{source} unpacks to more than {_LARGEST >> 30} GB")
            archive.extractall(target)
    except zipfile.BadZipFile:
        raise BundleInvalid(f"{source} is no ZIP file") from None
    inside = [entry for entry in target.iterdir() if entry.is_dir()]
    return inside[0] if not (target / "configs").is_dir() and len(inside) == 1 else target
