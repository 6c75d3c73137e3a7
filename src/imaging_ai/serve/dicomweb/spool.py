"""Bulk data of a request, in one unnamed temporary file until instances are made of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from imaging_ai.archive.folder_writer import storage_errors

__all__ = ["Spool"]

_CHUNK_BYTES = 1 << 20


class Spool:
    """Bytes that were written one after the other, to be read by their range. Raises `StorageUnavailable`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        with storage_errors():
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `close`
            self._file.write(data)
        self.size += len(data)

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        """Give a range in pieces."""
        for start in range(offset, offset + length, _CHUNK_BYTES):
            with storage_errors():
                assert self._file is not None
                self._file.seek(start)
                yield self._file.read(min(_CHUNK_BYTES, offset + length - start))

    def close(self) -> None:
        """Forget everything."""
        if self._file is not None:
            self._file.close()
            self._file = None
