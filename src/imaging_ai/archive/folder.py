"""Objects in a local folder: large ones as files of their own, small ones together in logs.

    objects/ab/ab….dcm   one large object          owners/…   what is not settled yet, see `owner`
    logs/ab/ab….log      many small objects

Names are random, so nothing a peer sent is in a path. An object has its name only once it is whole and synced.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from imaging_ai.archive import log
from imaging_ai.archive.folder_writer import SMALL_BYTES, FolderWriter, storage_errors
from imaging_ai.archive.owner import OwnerArea, dead_areas, sync_folder
from imaging_ai.core.blob import BlobRef
from imaging_ai.errors import KeyUnavailable, NotFound

__all__ = ["SMALL_BYTES", "FolderStore", "FolderWriter", "Known", "no_key", "range_of", "require_live"]

_SPARE_BUFFERS = 8
_KEY = re.compile(r"(objects/([0-9a-f]{2})/\2[0-9a-f]{30}\.dcm|logs/([0-9a-f]{2})/\3[0-9a-f]{30}\.log)")

#: Which of these objects the index has, durably.
Known = Callable[[Sequence[BlobRef]], set[BlobRef]]


class FolderStore:
    """A blob store in a folder that any number of processes share.

    With `sync` off objects survive the end of the process but not a power cut. `min_free_bytes` is kept free:
    the database beside it needs room too.
    """

    def __init__(
        self, root: Path, *, sync: bool = True, min_free_bytes: int = 64 << 20, segment_bytes: int = 64 << 20
    ) -> None:
        self.root = root
        self.is_synced = sync
        self._min_free_bytes = min_free_bytes
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._area: OwnerArea | None = None
        self._segment: log.Segment | None = None
        self._lost: set[str] = set()
        self._spare: list[bytearray] = []
        self._unsettled_bytes = 0
        with storage_errors():
            for folder in ("objects", "logs", "owners"):
                (root / folder).mkdir(parents=True, exist_ok=True)

    # -- writing

    def begin(self, size_hint: int | None = None) -> FolderWriter:
        """Open a new object."""
        with storage_errors():
            room = os.statvfs(self.root)
            if room.f_bavail * room.f_frsize < self._min_free_bytes + (size_hint or 0):
                raise OSError(errno.ENOSPC, "below the free space to be kept")
            with self._lock:
                if self._area is None:
                    self._area = OwnerArea.create(self.root / "owners")
                buffer = self._spare.pop() if self._spare else bytearray(SMALL_BYTES)
        return self._writer(buffer)

    def _writer(self, buffer: bytearray) -> FolderWriter:
        return FolderWriter(self, buffer)

    def put(self, data: bytes | memoryview) -> BlobRef:
        """Store one object, durable on return."""
        writer = self.begin(len(data))
        try:
            writer.write(data)
            return writer.commit()
        finally:
            writer.discard()

    def append(self, data: memoryview, *, put: bool) -> BlobRef:
        """Write a small object into the log."""
        total = log.checksum(data)
        return self._append(len(data), lambda segment: segment.append([data], len(data), total, put=put))

    def _append(self, length: int, write: Callable[[log.Segment], int | None]) -> BlobRef:
        with storage_errors():
            while True:
                segment = self._segment or self._next_segment(None)
                try:
                    offset = write(segment)
                except OSError:
                    self._next_segment(segment)  # what could not be written to once is not trusted again
                    raise
                if offset is not None:
                    self._unsettled_bytes += length
                    return BlobRef(self.key_of("logs", segment.path), offset, length)
                self._next_segment(segment)

    def _next_segment(self, full: log.Segment | None) -> log.Segment:
        with self._lock:
            if self._segment is full:
                self._segment = None
                if full is not None:
                    self._seal(full)
                path = self.new_path("logs", ".log")
                segment = log.Segment(path, self._segment_bytes, sync=self.is_synced)
                os.link(path, self.area().path / path.name)
                if self.is_synced:
                    sync_folder(path.parent)
                    sync_folder(self.area().path)
                self._segment = segment
            assert self._segment is not None
            return self._segment

    def _seal(self, segment: log.Segment) -> None:
        try:
            segment.seal(sync=self.is_synced)
        finally:
            if segment.is_lost:
                self._lost.add(self.key_of("logs", segment.path))

    def sync(self, refs: Sequence[BlobRef]) -> None:
        """Make staged objects durable: large ones are already, small ones by one sync of the log."""
        if not self.is_synced:
            return
        with storage_errors():
            with self._lock:  # waits for a segment that is being sealed, which syncs it
                segment = self._segment
            key = self.key_of("logs", segment.path) if segment else ""
            if segment and any(ref.key == key for ref in refs):
                try:
                    segment.sync()
                except OSError:
                    self._next_segment(segment)  # after a failed sync its pages may be lost without another error
                    raise
            if any(ref.key in self._lost for ref in refs):
                raise OSError(errno.EIO, "a sync failed")

    def area(self) -> OwnerArea:
        """Return our area, made by the first `begin`."""
        assert self._area is not None
        return self._area

    def new_name(self) -> str:
        """Choose the name of a new object."""
        return secrets.token_hex(16)

    def new_path(self, kind: str, suffix: str) -> Path:
        """Choose the place of a new object."""
        name = self.new_name()
        folder = self.root / kind / name[:2]
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            if self.is_synced:
                sync_folder(folder.parent)
        return folder / f"{name}{suffix}"

    def give_back(self, buffer: bytearray) -> None:
        """Keep a buffer for the next object."""
        with self._lock:
            if len(self._spare) < _SPARE_BUFFERS:
                self._spare.append(buffer)

    def count(self, length: int) -> None:
        """Note that a large object was stored."""
        self._unsettled_bytes += length

    # -- reading

    def read(self, ref: BlobRef, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of an object."""
        begin, wanted = range_of(ref, start, length)
        with self.open(ref) as descriptor:
            data = _read_all(descriptor, wanted, begin)
            require_live(descriptor, ref)
            return data

    def fill_at_once(self, ref: BlobRef, start: int, into: memoryview) -> bool:
        """Read a range of an object if the system holds it in memory, so that nothing waits for a disk; say whether."""
        if start < 0 or start + len(into) > ref.length or _KEY.fullmatch(ref.key) is None:
            return False
        try:
            descriptor = os.open(f"{self.root}/{ref.key}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            filled = os.preadv(descriptor, [into], ref.offset + start, os.RWF_NOWAIT) == len(into)
            return filled and not (ref.key.startswith("logs/") and log.is_erased(descriptor, ref.offset))
        except (AttributeError, OSError):  # not this system, not this file system, not in memory
            return False
        finally:
            os.close(descriptor)

    def stream(self, ref: BlobRef, chunk_size: int = 1 << 20) -> Iterator[bytes]:
        """Give an object in pieces."""
        with self.open(ref) as descriptor:
            for start in range(0, ref.length, chunk_size):
                begin, wanted = range_of(ref, start, chunk_size)
                data = _read_all(descriptor, wanted, begin)
                require_live(descriptor, ref)
                yield data

    @contextmanager
    def open(self, ref: BlobRef) -> Iterator[int]:
        """Open the file that an object lies in."""
        with storage_errors():
            try:
                descriptor = os.open(self.path(ref), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise NotFound("the stored object is gone") from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def path(self, ref: BlobRef) -> Path:
        """Return the file that an object lies in."""
        if _KEY.fullmatch(ref.key) is None:
            raise no_key(ref)
        return self.root / ref.key

    def ref(self, key: str, offset: int, stored_bytes: int) -> BlobRef:
        """Return what names an object that takes so many bytes here."""
        return BlobRef(key, offset, stored_bytes)

    def stored_bytes(self, ref: BlobRef) -> int:
        """Return how many bytes an object takes here."""
        return ref.length

    def delete(self, ref: BlobRef) -> None:
        """Remove an object."""
        path = self.path(ref)
        with storage_errors():
            try:
                if ref.key.startswith("logs/"):
                    log.erase(path, ref.offset, self.stored_bytes(ref))
                    return
                path.unlink()
            except FileNotFoundError:
                return
            if self._area is not None:
                for suffix in (".dcm", ".put"):
                    (self._area.path / path.with_suffix(suffix).name).unlink(missing_ok=True)

    # -- what a crash leaves

    def unsettled_bytes(self) -> int:
        """Say how much was stored since the last `settle`."""
        return self._unsettled_bytes

    def settle(self, known: Known) -> None:
        """Forget the names of objects that the index has durably."""
        self._unsettled_bytes = 0
        if self._area is None:
            return
        with storage_errors():
            segments = self._area.entries(".log")
            with self._lock:  # asked for after the listing: a segment that begins now is not in it
                active = self._segment.path.name if self._segment else ""
            for entry in segments:
                refs = [self.ref(self.key_of("logs", entry), one.offset, one.length) for one in log.records(entry)]
                if entry.name != active and known(refs).issuperset(refs):
                    if not refs:  # all that it held was deleted
                        (self.root / self.key_of("logs", entry)).unlink(missing_ok=True)
                    entry.unlink()
            for suffix in (".dcm", ".put"):
                entries = {self._object(entry): entry for entry in self._area.entries(suffix)}
                for ref in known(list(entries)):
                    entries[ref].unlink()

    def recover(self, known: Known, flush: Callable[[], None] = lambda: None) -> Generator[BlobRef]:
        """Give the whole objects of dead processes that the index lacks, to be indexed or deleted by the caller.

        What is not whole, or belongs to a result that was never registered, is removed here. `flush` makes durable what
        the caller has indexed, before its names are forgotten.
        """
        for area in dead_areas(self.root / "owners"):
            try:
                with storage_errors():
                    for entry in area.entries(".log"):
                        yield from self._recover_segment(entry, known)
                    for suffix in (".dcm", ".put"):
                        yield from self._recover_objects(area.entries(suffix), known)
                    flush()
                    area.remove()
            finally:
                area.release()  # whoever tries next must find it free

    def _recover_objects(self, entries: Sequence[Path], known: Known) -> Iterator[BlobRef]:
        refs = {self._object(entry): entry for entry in entries}
        found = known(list(refs))
        for ref, entry in refs.items():
            if ref not in found and (self.root / ref.key).exists():
                if entry.suffix == ".dcm":
                    yield ref
                else:
                    self.delete(ref)

    def _recover_segment(self, entry: Path, known: Known) -> Iterator[BlobRef]:
        key, end = self.key_of("logs", entry), 0
        with entry.open("rb") as file:
            os.fsync(file.fileno())  # what was whole but not synced yet is about to be indexed
        records = {self.ref(key, one.offset, one.length): one for one in log.records(entry, verify=True)}
        found = known(list(records))
        for ref, record in records.items():
            if ref not in found:
                if record.whole and not record.put:
                    yield ref
                else:
                    self.delete(ref)
            end = record.offset + record.length
        path = self.root / key
        if any(log.records(entry)):
            os.truncate(path, end)
        else:
            path.unlink(missing_ok=True)

    def close(self, known: Known | None = None) -> None:
        """Seal our log; what `known` has leaves nothing behind, the rest waits for the next recovery."""
        with self._lock, storage_errors():
            segment, self._segment = self._segment, None
            if segment is not None:
                self._seal(segment)
        if known is not None:
            self.settle(known)
        with self._lock:
            area, self._area = self._area, None
        if area is None:
            return
        if any(entry.name != "lock" for entry in area.path.iterdir()):
            area.release()
        else:
            area.remove()

    def _object(self, entry: Path) -> BlobRef:
        return self.ref(self.key_of("objects", entry.with_suffix(".dcm")), 0, entry.stat().st_size)

    @staticmethod
    def key_of(kind: str, path: Path) -> str:
        """Return the key of a file."""
        return f"{kind}/{path.name[:2]}/{path.name}"


def _read_all(descriptor: int, wanted: int, begin: int) -> bytes:
    """Read exactly so much: one call gives 2 GiB at most, and a file that was cut short must not pass for whole."""
    with storage_errors():
        data = os.pread(descriptor, wanted, begin)
        while len(data) < wanted:
            more = os.pread(descriptor, wanted - len(data), begin + len(data))
            if not more:
                raise OSError(errno.EIO, "the file is shorter than what was stored")
            data += more
    return data


def no_key(ref: BlobRef) -> NotFound | KeyUnavailable:
    """Return why nothing can be found under a key."""
    if ref.is_sealed:
        return KeyUnavailable("the stored object is encrypted, and this process was started without a key")
    return NotFound("not a key of this store")


def require_live(descriptor: int, ref: BlobRef) -> None:
    """Raise `NotFound` when a small object was erased, perhaps while it was read: it reads as zeros then."""
    if ref.key.startswith("logs/") and log.is_erased(descriptor, ref.offset):
        raise NotFound("the stored object is gone")


def range_of(ref: BlobRef, start: int, length: int | None) -> tuple[int, int]:
    """Turn a range of an object into a range of its file; it never leaves the object."""
    start = min(max(start, 0), ref.length)
    wanted = ref.length - start if length is None else min(max(length, 0), ref.length - start)
    return ref.offset + start, wanted
