"""The files of a series, from the process that may read the archive to the one that may not.

They lie one behind the other in memory that has no name, whose descriptor is handed over; it cannot be changed or made
larger by the one that gets it (memfd_create(2), seals).
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable, Mapping

__all__ = ["Lengths", "pack", "unpack"]

#: The length of each file of each input.
Lengths = dict[str, list[int]]


def pack(series: Mapping[str, Iterable[bytes]]) -> tuple[int, Lengths]:
    """Write files into memory, one at a time; return its descriptor, which the caller closes, and their lengths."""
    descriptor = _memory()
    lengths: Lengths = {}
    try:
        for name, files in series.items():
            lengths[name] = [_write(descriptor, file) for file in files]
        _seal(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, lengths


def unpack(descriptor: int, lengths: Lengths) -> dict[str, list[bytes]]:
    """Read the files back; the descriptor is closed."""
    series: dict[str, list[bytes]] = {}
    offset = 0
    try:
        for name, sizes in lengths.items():
            series[name] = []
            for size in sizes:
                series[name].append(_read(descriptor, offset, size))
                offset += size
    finally:
        os.close(descriptor)
    return series


def _memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("series", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _write(descriptor: int, file: bytes) -> int:
    rest = memoryview(file)
    while len(rest):
        rest = rest[os.write(descriptor, rest) :]
    return len(file)


def _seal(descriptor: int) -> None:
    if hasattr(os, "memfd_create"):
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)


def _read(descriptor: int, offset: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = os.pread(descriptor, size, offset)
        if not part:
            raise EOFError("the series is shorter than was said")
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
