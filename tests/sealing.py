"""Encrypted storage in tests: keys, and folders that use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imaging_ai.archive.folder import FolderStore
from imaging_ai.archive.sealed_folder import SealedFolderStore
from imaging_ai.keys.cabinet import FolderCabinet
from imaging_ai.keys.file import FileKeys, add_key
from imaging_ai.keys.ring import KeyRing

KINDS = ("plain", "sealed")


def key_file(folder: Path, *names: str) -> Path:
    """A file of keys, the last name first; made where there is none."""
    path = folder / "storage.keys"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in names or ("first",):
            add_key(path, name)
    return path


def sealed_folder(root: Path, keys: Path, **options: Any) -> SealedFolderStore:
    """An encrypted store in a folder, with the keys of a file."""
    return SealedFolderStore(root, KeyRing(FolderCabinet(root / "keys"), FileKeys(keys)), **options)


def open_folder(kind: str, root: Path, **options: Any) -> FolderStore:
    """A store of a kind in a folder; its keys lie beside it."""
    if kind == "plain":
        return FolderStore(root, **options)
    return sealed_folder(root, key_file(root.parent / f"{root.name}-keys"), **options)


def found_in(folder: Path, *marks: bytes) -> list[str]:
    """The files that hold one of some bytes."""
    held = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            held += [f"{path.relative_to(folder)}: {mark!r}" for mark in marks if mark in data]
    return held


def swap(first: Path, second: Path) -> None:
    """Give two files each other's bytes."""
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
