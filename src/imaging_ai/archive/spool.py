"""Bytes that wait to be used, in an unnamed temporary file, encrypted: the key is in memory only, and with it they go.

AES-256 in counter mode (NIST SP 800-38A 6.5): any range can be read, and no byte is written twice.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from imaging_ai.archive.folder_writer import storage_errors

__all__ = ["Spool"]

_CHUNK_BYTES = 1 << 20
_BLOCK = 16


class Spool:
    """Bytes that were written one after the other, to be read by their range. Raises `StorageUnavailable`.

    Up to `in_memory` bytes never reach the disk; `folder` None is the system's for temporary files.
    """

    def __init__(self, folder: Path | None = None, *, in_memory: int = 0) -> None:
        self._folder, self._in_memory = folder, in_memory
        self._algorithm = algorithms.AES(os.urandom(32))
        self._writing: CipherContext | None = None
        self._file: IO[Any] | None = None
        self._was_read = False
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        with storage_errors():
            if self._file is None:
                self._writing = self._from(0)
                self._file = (
                    tempfile.SpooledTemporaryFile(self._in_memory, dir=str(self._folder) if self._folder else None)  # noqa: SIM115 - closed by `close`
                    if self._in_memory
                    else tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                )
            assert self._writing is not None
            if self._was_read:
                self._file.seek(self.size)
                self._was_read = False
            self._file.write(self._writing.update(data))
        self.size += len(data)

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        """Give a range in pieces."""
        reading = self._from(offset)
        for start in range(offset, offset + length, _CHUNK_BYTES):
            with storage_errors():
                assert self._file is not None
                self._was_read = True
                self._file.seek(start)
                yield reading.update(self._file.read(min(_CHUNK_BYTES, offset + length - start)))

    def close(self) -> None:
        """Forget everything."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _from(self, offset: int) -> CipherContext:
        block, skipped = divmod(offset, _BLOCK)
        context = Cipher(self._algorithm, modes.CTR(block.to_bytes(_BLOCK, "big"))).encryptor()
        context.update(bytes(skipped))
        return context
