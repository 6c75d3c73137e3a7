"""A bucket of encrypted objects, among which there may be plain ones: each says by its key which it is.

    ab/ab….sealed     keys/…     (without the suffix: a plain object)

What is spooled on the way up is encrypted as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import obstore

from imaging_ai.archive.opener import Opener, place_of, whole_chunks
from imaging_ai.archive.orphans import Listed
from imaging_ai.archive.s3 import S3Store, SpooledWriter, s3_errors
from imaging_ai.archive.sealed import HEADER_BYTES, Sealing, seal
from imaging_ai.core.blob import SEALED, BlobRef
from imaging_ai.errors import NotFound
from imaging_ai.keys.ring import DataKey, KeyRing

__all__ = ["S3Cabinet", "SealedS3Store"]

_HEAD_BYTES = 1 << 20
#: A stream asks for so much at once.
_ASKED_BYTES = 4 << 20
_FOLDER = "keys/"


class SealedS3Store:
    """A `BlobStore` that reads encrypted and plain objects of a bucket; `seals` says which kind new ones are."""

    def __init__(self, store: S3Store, ring: KeyRing, *, seals: bool = True) -> None:
        self._store, self.ring, self._seals = store, ring, seals
        self._opener = Opener(ring)

    def begin(self, size_hint: int | None = None) -> SpooledWriter | _SealedWriter:
        """Open a new object for writing. Raises `KeyUnavailable` when there is no key to encrypt it with."""
        if not self._seals:
            return self._store.begin(size_hint)
        key = self.ring.current()
        return _SealedWriter(self._store.begin(size_hint, self._store.new_key() + SEALED), key)

    def put(self, data: bytes | memoryview) -> BlobRef:
        """Store one object, durable on return."""
        if not self._seals:
            return self._store.put(data)
        name = self._store.new_key() + SEALED
        sealed = seal(self.ring.current(), place_of(name, 0), memoryview(data))
        self._store.upload(name, sealed, len(sealed))
        return BlobRef(name, 0, len(data))

    def read(self, ref: BlobRef, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of the object. Raises `NotFound`, `StorageUnavailable`."""
        if not ref.is_sealed:
            return self._store.read(ref, start, length)
        rest = max(ref.length - start, 0)
        wanted = rest if length is None else min(length, rest)
        if wanted <= 0:
            return b""
        opened = self._opener.open(ref, lambda: self._store.fetch(ref.key, 0, HEADER_BYTES))
        first, length = opened.extent(start, wanted)
        sealed = memoryview(self._store.fetch(ref.key, first, length))
        return opened.read(start, wanted, lambda begin, size: sealed[begin - first : begin - first + size])

    def stream(self, ref: BlobRef, chunk_size: int = 1 << 20) -> Iterator[bytes]:
        """Give the object in pieces."""
        if not ref.is_sealed:
            yield from self._store.stream(ref, chunk_size)
            return
        size = whole_chunks(chunk_size)
        asked = max(_ASKED_BYTES // size, 1) * size
        for start in range(0, ref.length, asked):
            data = self.read(ref, start, asked)
            for piece in range(0, len(data), size):
                yield data[piece : piece + size]

    def page(self, after: str, most: int) -> tuple[list[Listed], str]:
        """List our objects among the next `most` of the bucket, as `S3Store.page`."""
        return self._store.page(after, most)

    def delete(self, ref: BlobRef) -> None:
        """Remove the object; harmless when it is gone."""
        self._store.delete(ref)


class _SealedWriter:
    """One object on its way to S3, encrypted before it is spooled."""

    def __init__(self, spooled: SpooledWriter, key: DataKey) -> None:
        self._spooled = spooled
        self._sealing: Sealing | None = Sealing(key, place_of(spooled.key, 0))
        self._head = bytearray()
        self.size = 0
        spooled.write(self._sealing.header)

    @property
    def head(self) -> bytes:
        """The beginning of the object, up to a megabyte."""
        return bytes(self._head)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`, which may be reused at once. Raises `StorageUnavailable`."""
        assert self._sealing is not None
        self._head += data[: max(_HEAD_BYTES - self.size, 0)]
        for piece in self._sealing.update(memoryview(data)):
            self._spooled.write(piece)
        self.size += len(data)

    def commit(self) -> BlobRef:
        """Upload the object, and say where it is; may be tried again."""
        if self._sealing is not None:
            self._spooled.write(self._sealing.finish())
            self._sealing = None
        return BlobRef(self._spooled.commit().key, 0, self.size)

    def discard(self) -> None:
        """Forget the object; harmless after `commit` or a second time."""
        self._spooled.discard()


class S3Cabinet:
    """A cabinet in the bucket whose objects its keys encrypt."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    def names(self) -> Iterator[str]:
        """Give the names of all that it keeps."""
        with s3_errors():
            for page in obstore.list(self._store.client, prefix=_FOLDER):
                for entry in page:
                    yield entry["path"].rpartition("/")[2]

    def load(self, name: str) -> bytes | None:
        """Return what is kept under a name."""
        try:
            with s3_errors():
                return bytes(obstore.get(self._store.client, _FOLDER + name).bytes())
        except NotFound:
            return None

    def save(self, name: str, text: bytes) -> None:
        """Keep a text in the place of what was there."""
        self._store.upload(_FOLDER + name, text, len(text))
