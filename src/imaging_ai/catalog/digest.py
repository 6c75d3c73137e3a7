"""What pins a model: the digest of all its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["Signature", "bundle_digest", "copy_bundle", "files_of", "signature_of"]


def bundle_digest(path: Path) -> str:
    """Return the SHA-256 over the names and bytes of all files of a bundle, in the order of their paths."""
    digest = hashlib.sha256()
    for name, file in files_of(path):
        with file.open("rb") as stream:
            for block in _told(name, stream):
                digest.update(block)
    return digest.hexdigest()


def copy_bundle(path: Path, target: Path) -> str:
    """Copy the files of a bundle into `target`, which is made, and return the digest of the bytes that were copied."""
    digest = hashlib.sha256()
    target.mkdir(mode=0o700)
    for name, file in files_of(path):
        copied = target / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as stream, copied.open("xb") as copy:
            blocks = _told(name, stream)
            digest.update(next(blocks))
            for block in blocks:
                digest.update(block)
                copy.write(block)
    return digest.hexdigest()


def _told(name: str, stream: BinaryIO) -> Iterator[bytes]:
    """Yield what the digest is told of a file: its name and size, then its bytes."""
    yield f"{len(name)}:{name}:{os.fstat(stream.fileno()).st_size}:".encode()
    while block := stream.read(1 << 20):
        yield block


#: Names, times and sizes of all files: it changes when one does, mostly.
Signature = tuple[tuple[str, int, int], ...]


def signature_of(path: Path) -> Signature:
    return tuple((name, s.st_mtime_ns, s.st_size) for name, file in files_of(path) for s in (file.stat(),))


def files_of(path: Path) -> list[tuple[str, Path]]:
    """List the files of a bundle by relative path; byte code that Python left behind is not part of it."""
    files = (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return sorted((file.relative_to(path).as_posix(), file) for file in files)
