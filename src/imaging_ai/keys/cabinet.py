"""Where wrapped data keys lie: beside the objects that they encrypt, each a small file of its own."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from imaging_ai.errors import StorageUnavailable

__all__ = ["Cabinet", "FolderCabinet"]

_NAME = re.compile(r"[0-9a-f]{32}")


class Cabinet(Protocol):
    """Keeps small texts by name (32 hexadecimal digits). Raises `StorageUnavailable`."""

    def names(self) -> Iterator[str]:
        """Give the names of all that it keeps."""

    def load(self, name: str) -> bytes | None:
        """Return what is kept under a name."""

    def save(self, name: str, text: bytes) -> None:
        """Keep a text in the place of what was there, durably: at any moment there is the one or the other, whole."""


class FolderCabinet:
    """A cabinet in a folder, which comes to be with the first text: ``ab/ab….key``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> Iterator[str]:
        """Give the names of all that it keeps."""
        for path in sorted(self._folder.glob("??/*.key")):
            if _NAME.fullmatch(path.stem):
                yield path.stem

    def load(self, name: str) -> bytes | None:
        """Return what is kept under a name."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageUnavailable(f"a data key cannot be read: {type(error).__name__}") from error

    def save(self, name: str, text: bytes) -> None:
        """Keep a text in the place of what was there."""
        path = self._path(name)
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            for folder in (path.parent, self._folder, self._folder.parent):
                _sync(folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StorageUnavailable(f"a data key cannot be kept: {type(error).__name__}") from error

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / f"{name}.key"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
