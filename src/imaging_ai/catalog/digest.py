"""What pins a model: the digest of all its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["Signature", "bundle_digest", "files_of", "signature_of"]


def bundle_digest(path: Path) -> str:
    """Return the SHA-256 over the names and bytes of all files of a bundle, in the order of their paths."""
    digest = hashlib.sha256()
    for name, file in files_of(path):
        digest.update(f"{len(name)}:{name}:{file.stat().st_size}:".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


#: Names, times and sizes of all files: it changes when one does, mostly.
Signature = tuple[tuple[str, int, int], ...]


def signature_of(path: Path) -> Signature:
    return tuple((name, s.st_mtime_ns, s.st_size) for name, file in files_of(path) for s in (file.stat(),))


def files_of(path: Path) -> list[tuple[str, Path]]:
    """List the files of a bundle by relative path; byte code that Python left behind is not part of it."""
    files = (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return sorted((file.relative_to(path).as_posix(), file) for file in files)
