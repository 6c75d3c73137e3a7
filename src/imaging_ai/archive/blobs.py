"""Where bytes are kept: the port that every store implements, and the choice of one by URL.

A store gives its own names to objects; nothing a peer sent becomes part of a path.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from imaging_ai.archive.folder import FolderStore, Known
from imaging_ai.core.blob import BlobRef
from imaging_ai.errors import ConfigError
from imaging_ai.keys.cabinet import FolderCabinet
from imaging_ai.keys.ring import KeyRing
from imaging_ai.keys.service import KeyService, KeyServices

__all__ = [
    "BlobStore",
    "BlobWriter",
    "FolderStore",
    "JournaledStore",
    "NearStore",
    "SealedStore",
    "StagedWriter",
    "open_store",
]


class BlobWriter(Protocol):
    """One object on its way in. Nothing of it is visible before `commit`, and nothing remains after `discard`."""

    @property
    def size(self) -> int:
        """How many bytes were written."""

    @property
    def head(self) -> bytes | memoryview:
        """The beginning of the object, up to a megabyte; valid until `commit`."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`, which may be reused at once. Raises `StorageUnavailable`."""

    def commit(self) -> BlobRef:
        """Make the object durable and visible, and say where it is."""

    def discard(self) -> None:
        """Forget the object; harmless after `commit` or a second time."""


class BlobStore(Protocol):
    """Keeps immutable objects."""

    def begin(self, size_hint: int | None = None) -> BlobWriter:
        """Open a new object for writing."""

    def put(self, data: bytes | memoryview) -> BlobRef:
        """Store one object, durable on return."""

    def read(self, ref: BlobRef, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of the object; all of it by default. Raises `NotFound`."""

    def stream(self, ref: BlobRef, chunk_size: int = 1 << 20) -> Iterator[bytes]:
        """Give the object in pieces."""

    def delete(self, ref: BlobRef) -> None:
        """Remove the object; harmless when it is gone."""


@runtime_checkable
class StagedWriter(Protocol):
    """A writer whose durability can be shared: many are staged, then one `JournaledStore.sync` covers all."""

    def stage(self, *, put: bool = False) -> BlobRef:
        """Put all bytes in place; they are durable only after the store's next `sync`.

        With `put` the caller writes the index row itself: what a crash leaves without one is nobody's.
        """


@runtime_checkable
class JournaledStore(Protocol):
    """A store that can name, after a crash, the objects that the index may have missed.

    So the index need not be synced for each instance: what a power cut takes from it is rebuilt from the objects.
    """

    def sync(self, refs: Sequence[BlobRef]) -> None:
        """Make staged objects durable."""

    def unsettled_bytes(self) -> int:
        """Say how much was stored since the last `settle`."""

    def settle(self, known: Known) -> None:
        """Forget the names of objects that the index has durably."""

    def recover(self, known: Known, flush: Callable[[], None]) -> Generator[BlobRef]:
        """Give the whole objects of dead processes that the index lacks, to be indexed or deleted by the caller.

        `flush` makes durable what the caller has indexed, before its names are forgotten.
        """

    def close(self, known: Known) -> None:
        """End this process's use of the store, settling what `known` has."""


@runtime_checkable
class NearStore(Protocol):
    """A store that may have bytes in memory, and can tell."""

    def fill_at_once(self, ref: BlobRef, start: int, into: memoryview) -> bool:
        """Read a range of an object, as long as `into`, if nothing waits for it; say whether it did."""


@runtime_checkable
class SealedStore(Protocol):
    """A store that encrypts, and has a ring of data keys."""

    ring: KeyRing


def open_store(
    url: str, *, sync: bool = True, min_free_bytes: int = 64 << 20, keys: KeyService | None = None, seals: bool = True
) -> BlobStore:
    """Open the store of a URL: ``file:///…`` or a path, or ``s3://bucket/prefix``.

    With `keys` it reads encrypted objects, and where it `seals` encrypts new ones. Where none ever were, all is plain.
    """
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        root = Path(unquote(parts.path))
        cabinet = FolderCabinet(root / "keys")
        if keys is None and not any(cabinet.names()):
            return FolderStore(root, sync=sync, min_free_bytes=min_free_bytes)
        from imaging_ai.archive.sealed_folder import SealedFolderStore  # encryption is loaded only where it is used

        ring, seals = KeyRing(cabinet, keys or KeyServices(())), seals and keys is not None
        return SealedFolderStore(root, ring, seals=seals, sync=sync, min_free_bytes=min_free_bytes)
    if parts.scheme == "s3":
        from imaging_ai.archive.s3 import open_s3_store  # the S3 client is loaded only where it is used

        if keys is None:
            return open_s3_store(url)
        from imaging_ai.archive.sealed_s3 import S3Cabinet, SealedS3Store

        bucket = open_s3_store(url)
        return SealedS3Store(bucket, KeyRing(S3Cabinet(bucket), keys), seals=seals)
    raise ConfigError(f"storage URL {parts.scheme}: is not known; use a folder, file:// or s3://")
