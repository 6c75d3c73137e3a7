"""A log of small objects: many instances in one preallocated file, so that one sync covers all that arrive together.

Each record is a 64-byte header and the object. A record that a crash left half-written is known by its checksum.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imaging_ai.archive.linux import punch_hole

__all__ = ["HEADER_BYTES", "Record", "Segment", "checksum", "erase", "is_erased", "records"]

HEADER_BYTES = 64
_ALIGNMENT = 64
_MAGIC = b"IAIREC01"
_HEADER = struct.Struct("<8sIIQQ")
_LIVE, _PUT, _DEAD = 1, 2, 3


class Record(NamedTuple):
    """Where an object lies in its segment; `put` when its caller writes the index row itself."""

    offset: int
    length: int
    put: bool
    whole: bool


class Segment:
    """The segment that a process appends to."""

    def __init__(self, path: Path, capacity: int, *, sync: bool = True) -> None:
        self.path = path
        self.capacity = capacity
        self.used = 0
        self.is_lost = False
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(self._descriptor, 0, capacity)
            if sync:
                os.fsync(self._descriptor)
        except OSError:
            os.close(self._descriptor)
            path.unlink()
            raise

    def append(self, data: Sequence[bytes | memoryview], length: int, total: int, *, put: bool) -> int | None:
        """Write an object and return its offset; None when the segment has no room for it."""
        with self._lock:
            if (start := self._start(length)) is None:
                return None
            return self._write(start, data, length, total, put=put)

    def append_made(self, make: Callable[[int], memoryview], length: int, *, put: bool) -> int | None:
        """Write an object that is made for its offset; None when the segment has no room for it."""
        with self._lock:
            if (start := self._start(length)) is None:
                return None
            data = make(start + HEADER_BYTES)
            return self._write(start, [data], length, checksum(data), put=put)

    def _start(self, length: int) -> int | None:
        fits = self._descriptor >= 0 and self.used + HEADER_BYTES + length <= self.capacity
        return self.used if fits else None

    def _write(self, start: int, data: Sequence[bytes | memoryview], length: int, total: int, *, put: bool) -> int:
        header = _HEADER.pack(_MAGIC, _PUT if put else _LIVE, 0, length, total).ljust(HEADER_BYTES, b"\0")
        wanted = HEADER_BYTES + length
        if os.pwritev(self._descriptor, [header, *data], start) != wanted:
            raise OSError(errno.EIO, "short write")
        self.used = _aligned(start + wanted)
        return start + HEADER_BYTES

    def sync(self) -> None:
        """Make what was appended before this call durable."""
        with self._lock:
            if self.is_lost:
                raise OSError(errno.EIO, "an earlier sync failed")
            if self._descriptor < 0:
                return  # sealing has synced it
            descriptor = os.dup(self._descriptor)  # appending, and even sealing, go on meanwhile
        try:
            os.fdatasync(descriptor)
        except OSError:
            self.is_lost = True
            raise
        finally:
            os.close(descriptor)

    def seal(self, *, sync: bool = True) -> None:
        """Give back what was preallocated and not used; nothing can be appended any more."""
        with self._lock:
            if self._descriptor < 0:
                return
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.ftruncate(descriptor, self.used)
                if sync:
                    os.fsync(descriptor)
            except OSError:
                self.is_lost = True
                raise
            finally:
                os.close(descriptor)


def checksum(data: bytes | memoryview) -> int:
    """Return the sum of the 64-bit words: it sees every page that did not reach the disk, at memory speed."""
    words = len(data) // 8
    total = int(np.frombuffer(data, np.uint64, count=words).sum(dtype=np.uint64)) if words else 0
    return (total + int.from_bytes(data[words * 8 :], "little")) & 0xFFFFFFFFFFFFFFFF


def records(path: Path, *, verify: bool = False) -> Iterator[Record]:
    """Give the live records of a segment in their order, up to the first that was never begun.

    `whole` is what the checksum says when `verify` is on, else taken for granted.
    """
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        position = 0
        while position + HEADER_BYTES <= end:
            file.seek(position)
            magic, state, _, length, total = _HEADER.unpack(file.read(_HEADER.size))
            if magic != _MAGIC:
                return
            offset = position + HEADER_BYTES
            position = _aligned(offset + length)
            if state != _DEAD:
                whole = offset + length <= end
                if verify and whole:
                    file.seek(offset)
                    whole = checksum(file.read(length)) == total
                yield Record(offset, length, state == _PUT, whole)


def erase(path: Path, offset: int, length: int) -> None:
    """Mark a record as dead and give its blocks back to the file system."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        state_at = offset - HEADER_BYTES + len(_MAGIC)
        os.pwrite(descriptor, struct.pack("<I", _DEAD), state_at)
        punch_hole(descriptor, offset, length)
    finally:
        os.close(descriptor)


def is_erased(descriptor: int, offset: int) -> bool:
    """Say whether the record of the object at `offset` is marked as dead."""
    return os.pread(descriptor, 4, offset - HEADER_BYTES + len(_MAGIC)) == struct.pack("<I", _DEAD)


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT
