"""What is verified is what is run: a bundle is copied into a private folder, and the digest is that of the copy."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imaging_ai.catalog import ModelEntry
from imaging_ai.catalog.digest import copy_bundle
from imaging_ai.errors import BundleInvalid

__all__ = ["Home", "snapshot"]


def snapshot(entry: ModelEntry, wanted: str, folder: Path) -> Path:
    """Copy a bundle into `folder`, unless it is there, and return where it lies; `wanted` is the digest it must have.

    Byte code that Python left in the bundle is no part of it, and is not copied.

    Raises
    ------
    BundleInvalid
        If it has another, or cannot be read.
    """
    there = folder / wanted
    if there.is_dir():
        return there
    with tempfile.TemporaryDirectory(dir=folder) as made:
        copied = Path(made) / "bundle"
        try:
            found = copy_bundle(entry.path, copied)
        except OSError as error:
            raise BundleInvalid(f"{entry.name}: the bundle cannot be read: {error.strerror}") from error
        if found != wanted:
            raise BundleInvalid(
                f"{entry.name}: the bundle has the digest {found[:12]}, the job wants {wanted[:12]}: its files were "
                "changed; retry the job to run the bundle as it is now"
            )
        copied.rename(there)
    return there


class Home:
    """A private folder for one process, below `parent` or where temporary files lie; those of dead ones are removed."""

    def __init__(self, parent: Path) -> None:
        with _alone(_made(parent)) as folder:
            _sweep(folder)
            self.path = Path(tempfile.mkdtemp(dir=folder))
            self._lock = _locked(self.path)
        self.bundles, self.scratch = self.path / "bundles", self.path / "scratch"
        for one in (self.bundles, self.scratch):
            one.mkdir(mode=0o700)

    def leave(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="imaging-ai-"))


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)


def _locked(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sweep(parent: Path) -> None:
    """Remove the folders whose processes are gone: nobody holds their lock any more."""
    for folder in parent.iterdir():
        try:
            lock = _locked(folder)
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
