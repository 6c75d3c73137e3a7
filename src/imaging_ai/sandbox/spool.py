"""Objects as a model's process hands them over: small ones in memory, large ones in files that have no name.

So what a model makes, or pretends to make, fills no memory of the process that registers it: the kernel writes such a
file out where memory is wanted elsewhere.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from imaging_ai.errors import StorageUnavailable

__all__ = ["received", "sent"]

_SMALL, _CHUNK = 16 << 20, 1 << 20


def sent(descriptor: int, part: bytes | memoryview) -> None:
    """Write all of it."""
    rest = memoryview(part)
    while len(rest):
        rest = rest[os.write(descriptor, rest) :]


def received(descriptor: int, length: int, spool: Path) -> bytes | memoryview:
    """Read an object of so many bytes; one that is large lies in a file in `spool`, which is gone when nobody holds it.

    Raises
    ------
    EOFError
        If the other side has gone.
    StorageUnavailable
        If the disk has no room for it.
    """
    if length <= _SMALL:
        return b"".join(_chunks(descriptor, length))
    with tempfile.TemporaryFile(dir=spool) as file:
        for chunk in _chunks(descriptor, length):
            try:
                sent(file.fileno(), chunk)
            except OSError as error:
                raise StorageUnavailable(f"no room for what the model made: {error.strerror}") from error
        return memoryview(mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ))


def _chunks(descriptor: int, length: int) -> Iterator[bytes]:
    while length:
        chunk = os.read(descriptor, min(length, _CHUNK))
        if not chunk:
            raise EOFError
        length -= len(chunk)
        yield chunk
