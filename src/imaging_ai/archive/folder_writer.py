"""One object on its way into a folder: in memory while it is small, in a file of the owner's area when it grows."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_ai.archive.linux import start_writeback
from imaging_ai.archive.owner import sync_folder
from imaging_ai.core.blob import BlobRef
from imaging_ai.errors import StorageUnavailable

if TYPE_CHECKING:
    from imaging_ai.archive.folder import FolderStore

__all__ = ["SMALL_BYTES", "FolderWriter", "storage_errors"]

#: Up to here an object is held in memory and goes into the log; larger ones go to a file as they come.
SMALL_BYTES = 1 << 20
_WRITEBACK_BYTES = 16 << 20


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn errors of the file system into `StorageUnavailable`, which names no path."""
    try:
        yield
    except OSError as error:
        reason = "is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "does not work"
        name = errno.errorcode.get(error.errno or 0, "unknown error")
        raise StorageUnavailable(f"the storage folder {reason} ({name})") from error


class FolderWriter:
    """One object on its way into a `FolderStore`."""

    def __init__(self, store: FolderStore, buffer: bytearray) -> None:
        self._store = store
        self._buffer: bytearray | None = buffer
        self._view = memoryview(buffer)
        self._part: Path | None = None
        self._descriptor = -1
        self._started = 0
        self.size = 0

    @property
    def head(self) -> memoryview:
        """The beginning of the object, up to `SMALL_BYTES`; all of a small one. Valid until it is staged."""
        return self._view[: min(self.size, SMALL_BYTES)]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`."""
        end = self.size + len(data)
        if end <= SMALL_BYTES:
            self._view[self.size : end] = data
        else:
            with storage_errors():
                self._write_through(memoryview(data))
        self.size = end

    def _write_through(self, data: memoryview) -> None:
        if self._part is None:
            self._part = self._store.area().path / f"{self._store.new_name()}.part"
            self._descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            self._write_all(self._view[: self.size])
            missing = data[: SMALL_BYTES - self.size]
            self._view[self.size : SMALL_BYTES] = missing
        self._write_all(data)
        if self.size - self._started >= _WRITEBACK_BYTES:
            if self._store.is_synced:
                start_writeback(self._descriptor, self._started, self.size - self._started)
            self._started = self.size

    def _write_all(self, data: memoryview) -> None:
        while len(data):
            data = data[os.write(self._descriptor, data) :]

    def _finish(self) -> None:
        """Write what only the end of the object tells; nothing here."""

    def stage(self, *, put: bool = False) -> BlobRef:
        """Put the object in place for the archive, which indexes it; durable after the store's next `sync`.

        With `put` it is for a caller that writes the index row itself.
        """
        return self._place(put=put)

    def commit(self) -> BlobRef:
        """Make the object durable for a caller that writes the index row itself."""
        ref = self._place(put=True)
        self._store.sync([ref])
        return ref

    def _place(self, *, put: bool) -> BlobRef:
        if self._part is None:
            ref = self._store.append(self.head, put=put)
        else:
            with storage_errors():
                ref = self._place_file(self._part, ".put" if put else ".dcm")
        self._release()
        return ref

    def _place_file(self, part: Path, suffix: str) -> BlobRef:
        store = self._store
        self._finish()
        if store.is_synced:
            os.fsync(self._descriptor)
        entry = part.with_suffix(suffix)
        part.rename(entry)
        self._part = entry
        final = store.root / "objects" / part.name[:2] / f"{part.stem}.dcm"
        if not final.parent.is_dir():
            final.parent.mkdir(exist_ok=True)
            if store.is_synced:
                sync_folder(final.parent.parent)
        os.link(entry, final)
        if store.is_synced:
            sync_folder(final.parent)
            sync_folder(entry.parent)
        self._part = None
        store.count(self.size)
        return BlobRef(f"objects/{final.parent.name}/{final.name}", 0, self.size)

    def discard(self) -> None:
        """Forget the object; nothing of it remains."""
        if self._part is not None:
            self._part.unlink(missing_ok=True)
            self._part = None
        self._release()

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._buffer is not None:
            self._store.give_back(self._buffer)
            self._buffer = None
