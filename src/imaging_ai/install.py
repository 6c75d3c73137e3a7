"""Installing a model: a folder or a ZIP file becomes a folder among the models, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Collection
from pathlib import Path

from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.catalog.current import choose, folder_of
from imaging_ai.errors import BundleInvalid, ConfigError, WrongState

__all__ = ["install"]

_LARGEST = 8 << 30


def install(
    source: Path, models: Path, name: str | None = None, *, taken: Collection[str] = (), digest: str = ""
) -> ModelEntry:
    """Copy the bundle at `source` to `models`/`name` (default: its own name).

    Where the name is `taken`, or there already, the bundle becomes another version of that model, `NAME@VERSION`, and
    the one that the name means from now on; the others stay for jobs that are pinned to them, and to go back.
    `digest`, when given, is what the bundle must have.

    Raises
    ------
    BundleInvalid
        If it is no bundle, has another digest, or is an archive that reaches outside itself or is absurdly large.
    WrongState
        If that version of the model is there already.
    ConfigError
        If its `dicom.toml` cannot be used.
    """
    name = name or source.name.removesuffix(".zip")
    if not name or name.startswith(".") or {"/", "\\", "@"} & set(name):
        raise BundleInvalid(f"{name!r} is no name for a model")
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".installing-") as staging:
        bundle = _unpack(source, Path(staging)) if source.is_file() else _copy(source, Path(staging))
        if not any((bundle / "configs").glob("inference.*")):
            raise BundleInvalid(f"{source} is no MONAI bundle: it has no configs/inference.json or .yaml")
        entry = read_model(bundle, name)
        if digest and not entry.digest.startswith(digest.lower()):
            raise BundleInvalid(f"{source} has the digest {entry.digest}, and {digest} was wanted: it is not installed")
        version = _version_beside(entry, models, taken)
        bundle.rename(models / folder_of(name, version))
    if version:
        choose(models, name, version)
    return read_model(models / folder_of(name, version), name)


def _version_beside(entry: ModelEntry, models: Path, taken: Collection[str]) -> str:
    """Return the version to install beside others, "" for the first of its name."""
    if entry.name not in taken and not (models / entry.name).exists():
        return ""
    if "/" in entry.version or entry.version in ("", ".", ".."):
        raise BundleInvalid(f"{entry.name}: {entry.version!r} is no version; give one in dicom.toml or metadata.json")
    if (models / folder_of(entry.name, entry.version)).exists() or _is_plain(entry, models):
        raise WrongState(
            f"version {entry.version} of the model {entry.name} is installed already; give the bundle another version "
            "in dicom.toml, or install it under another --name"
        )
    return entry.version


def _is_plain(entry: ModelEntry, models: Path) -> bool:
    """Say whether the folder that has the plain name holds this very version."""
    plain = models / entry.name
    try:
        return plain.is_dir() and read_model(plain).version == entry.version
    except ConfigError:  # it is broken, and no reason not to install a better one
        return False


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
