"""A folder of encrypted objects, among which there may be plain ones: each says by its name which it is.

    objects/ab/ab….sealed.dcm     logs/ab/ab….sealed.log     keys/ab/ab….key

All else is as in the folder of plain objects: what is written is synced as it is, encrypted.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from imaging_ai.archive import log
from imaging_ai.archive.folder import FolderStore, range_of, require_live
from imaging_ai.archive.folder_writer import SMALL_BYTES, FolderWriter, storage_errors
from imaging_ai.archive.opener import Opener, place_of, whole_chunks
from imaging_ai.archive.sealed import HEADER_BYTES, SEALED_CHUNK_BYTES, Sealing, plain_bytes, seal, sealed_bytes
from imaging_ai.core.blob import SEALED, BlobRef
from imaging_ai.errors import NotFound, StorageCorrupted, StorageUnavailable
from imaging_ai.keys.ring import DataKey, KeyRing

__all__ = ["SealedFolderStore"]

#: A small object when it is encrypted.
_LARGEST = sealed_bytes(SMALL_BYTES)
_NAME = re.compile(r"objects/([0-9a-f]{2})/\1[0-9a-f]{30}\.sealed\.dcm|logs/([0-9a-f]{2})/\2[0-9a-f]{30}\.sealed\.log")


class SealedFolderStore(FolderStore):
    """A `FolderStore` that reads encrypted and plain objects; `seals` says which kind new ones are."""

    def __init__(self, root: Path, ring: KeyRing, *, seals: bool = True, **options: Any) -> None:
        super().__init__(root, **options)
        self.ring, self._seals = ring, seals
        self._opener = Opener(ring)
        self._buffers: list[bytearray] = []

    # -- writing

    def begin(self, size_hint: int | None = None) -> FolderWriter:
        """Open a new object. Raises `KeyUnavailable` when there is no key to encrypt it with."""
        if self._seals:
            self.ring.current()
        return super().begin(size_hint)

    def _writer(self, buffer: bytearray) -> FolderWriter:
        return _SealedWriter(self, buffer, self.ring.current()) if self._seals else super()._writer(buffer)

    def append(self, data: memoryview, *, put: bool) -> BlobRef:
        """Encrypt a small object for its place in the log, and write it there."""
        if not self._seals:
            return super().append(data, put=put)
        key, buffer = self.ring.current(), self._buffers.pop() if self._buffers else bytearray(_LARGEST)

        def write(segment: log.Segment) -> int | None:
            name = self.key_of("logs", segment.path)
            return segment.append_made(
                lambda offset: seal(key, place_of(name, offset), data, buffer), sealed_bytes(len(data)), put=put
            )

        try:
            return self._append(len(data), write)
        finally:
            self._buffers.append(buffer)

    def new_name(self) -> str:
        """Choose the name of a new object, which says what kind it is."""
        return super().new_name() + (SEALED if self._seals else "")

    # -- reading

    def read(self, ref: BlobRef, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of an object."""
        if not ref.is_sealed:
            return super().read(ref, start, length)
        begin, wanted = range_of(ref, start, length)
        with self.open(ref) as descriptor:
            return self._read(descriptor, ref, begin - ref.offset, wanted)

    def stream(self, ref: BlobRef, chunk_size: int = 1 << 20) -> Iterator[bytes]:
        """Give an object in pieces."""
        if not ref.is_sealed:
            yield from super().stream(ref, chunk_size)
            return
        size = whole_chunks(chunk_size)
        with self.open(ref) as descriptor:
            for start in range(0, ref.length, size):
                yield self._read(descriptor, ref, start, min(size, ref.length - start))

    def fill_at_once(self, ref: BlobRef, start: int, into: memoryview) -> bool:
        """Read a range of an object if it is in memory, and its key."""
        if not ref.is_sealed:
            return super().fill_at_once(ref, start, into)
        if start < 0 or start + len(into) > ref.length or not len(into):
            return False
        try:
            with self.open(ref) as descriptor:
                return self._fill(descriptor, ref, start, into)
        except (NotFound, StorageUnavailable):
            return False  # who reads it in earnest is told why

    def path(self, ref: BlobRef) -> Path:
        """Return the file that an object lies in."""
        return self.root / ref.key if _NAME.fullmatch(ref.key) else super().path(ref)

    def ref(self, key: str, offset: int, stored_bytes: int) -> BlobRef:
        """Return what names an object that takes so many bytes here."""
        return BlobRef(key, offset, plain_bytes(stored_bytes) if SEALED in key else stored_bytes)

    def stored_bytes(self, ref: BlobRef) -> int:
        """Return how many bytes an object takes here."""
        return sealed_bytes(ref.length) if ref.is_sealed else ref.length

    def _read(self, descriptor: int, ref: BlobRef, start: int, wanted: int) -> bytes:
        fetch = _reader(descriptor, ref)
        try:
            return self._opener.open(ref, lambda: fetch(0, HEADER_BYTES)).read(start, wanted, fetch)
        except StorageCorrupted:
            require_live(descriptor, ref)  # a small object that was erased reads as zeros
            raise

    def _fill(self, descriptor: int, ref: BlobRef, start: int, into: memoryview) -> bool:
        fetch = _reader_at_once(descriptor, ref)
        if (opened := self._opener.at_hand(ref)) is None and (header := fetch(0, HEADER_BYTES)) is not None:
            opened = self._opener.open_at_once(ref, bytes(header))
        filled = opened is not None and opened.fill(start, into, fetch)
        return filled and not (ref.key.startswith("logs/") and log.is_erased(descriptor, ref.offset))


class _SealedWriter(FolderWriter):
    """One object on its way; its beginning is held plain in memory, and nothing of it on disk."""

    def __init__(self, store: SealedFolderStore, buffer: bytearray, key: DataKey) -> None:
        super().__init__(store, buffer)
        self._key = key
        self._sealing: Sealing | None = None

    def _write_all(self, data: memoryview) -> None:
        if self._sealing is None:
            assert self._part is not None
            name = self._store.key_of("objects", self._part.with_suffix(".dcm"))
            self._sealing = Sealing(self._key, place_of(name, 0))
            super()._write_all(memoryview(self._sealing.header))
        for piece in self._sealing.update(data):
            super()._write_all(memoryview(piece))

    def _finish(self) -> None:
        assert self._sealing is not None
        super()._write_all(memoryview(self._sealing.finish()))


def _reader(descriptor: int, ref: BlobRef) -> Callable[[int, int], memoryview]:
    """Return what reads the chunks of an object, one after the other, into the same memory."""
    buffer = memoryview(bytearray(SEALED_CHUNK_BYTES))

    def fetch(begin: int, length: int) -> memoryview:
        with storage_errors():
            if os.preadv(descriptor, [chunk := buffer[:length]], ref.offset + begin) != length:
                raise OSError(errno.EIO, "the file is shorter than what was stored")
        return chunk

    return fetch


def _reader_at_once(descriptor: int, ref: BlobRef) -> Callable[[int, int], memoryview | None]:
    """Return the same, of what the system holds in memory."""
    buffer = memoryview(bytearray(SEALED_CHUNK_BYTES))

    def fetch(begin: int, length: int) -> memoryview | None:
        chunk = buffer[:length]
        try:
            return chunk if os.preadv(descriptor, [chunk], ref.offset + begin, os.RWF_NOWAIT) == length else None
        except (AttributeError, OSError):  # not this system, not this file system, not in memory
            return None

    return fetch
