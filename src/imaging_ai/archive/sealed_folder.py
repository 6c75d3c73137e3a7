"""A folder of encrypted objects, among which there may be plain ones: each says by its name which it is.

    objects/ab/ab….sealed.dcm     logs/ab/ab….sealed.log     keys/ab/ab….key

All else is as in the folder of plain objects: what is written is synced as it is, encrypted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imaging_ai.archive import log
from imaging_ai.archive.folder import FolderStore, range_of, read_all, require_live
from imaging_ai.archive.folder_writer import FolderWriter
from imaging_ai.archive.opener import Opener, place_of, whole_chunks
from imaging_ai.archive.sealed import HEADER_BYTES, OpenObject, Sealing, plain_bytes, seal, sealed_bytes
from imaging_ai.core.blob import SEALED, BlobRef
from imaging_ai.errors import NotFound, StorageCorrupted, StorageUnavailable
from imaging_ai.keys.ring import DataKey, KeyRing

__all__ = ["SealedFolderStore"]

_NAME = re.compile(r"objects/([0-9a-f]{2})/\1[0-9a-f]{30}\.sealed\.dcm|logs/([0-9a-f]{2})/\2[0-9a-f]{30}\.sealed\.log")


class SealedFolderStore(FolderStore):
    """A `FolderStore` that reads encrypted and plain objects; `seals` says which kind new ones are."""

    def __init__(self, root: Path, ring: KeyRing, *, seals: bool = True, **options: Any) -> None:
        super().__init__(root, **options)
        self.ring, self._seals = ring, seals
        self._opener = Opener(ring)

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
        key = self.ring.current()

        def write(segment: log.Segment) -> int | None:
            name = self.key_of("logs", segment.path)
            return segment.append_made(
                lambda offset: seal(key, place_of(name, offset), data), sealed_bytes(len(data)), put=put
            )

        return self._append(len(data), write)

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
        try:
            return self._opener.read(
                ref, start, wanted, lambda begin, length: read_all(descriptor, length, ref.offset + begin)
            )
        except StorageCorrupted:
            require_live(descriptor, ref)  # a small object that was erased reads as zeros
            raise

    def _fill(self, descriptor: int, ref: BlobRef, start: int, into: memoryview) -> bool:
        opened = self._opener.at_hand(ref) or self._open_at_once(descriptor, ref)
        if opened is None:
            return False
        begin, length = opened.extent(start, len(into))
        if (sealed := _at_once(descriptor, ref.offset + begin, length)) is None:
            return False
        position = 0
        for piece in opened.opened(start, len(into), memoryview(sealed)):
            into[position : position + len(piece)] = piece
            position += len(piece)
        return not (ref.key.startswith("logs/") and log.is_erased(descriptor, ref.offset))

    def _open_at_once(self, descriptor: int, ref: BlobRef) -> OpenObject | None:
        header = _at_once(descriptor, ref.offset, HEADER_BYTES)
        return None if header is None else self._opener.open_at_once(ref, bytes(header))


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


def _at_once(descriptor: int, begin: int, length: int) -> bytearray | None:
    """Return a range of a file if the system holds it in memory."""
    buffer = bytearray(length)
    try:
        return buffer if os.preadv(descriptor, [buffer], begin, os.RWF_NOWAIT) == length else None
    except (AttributeError, OSError):  # not this system, not this file system, not in memory
        return None
