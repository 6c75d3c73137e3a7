"""Encrypted objects: the format, made so that ranges are read, and nothing that was changed is ever read.

It is streaming AEAD as in Tink's AES-GCM-HKDF and age's STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015): a header,
then chunks of 64 KiB, each with AES-256-GCM and its own tag.

    header   salt (32), id of data key (16), chunk bytes (4), zeros to 128; ``IAISEAL1`` where a DICOM file says DICM
    key      HKDF-SHA256(data key, salt, magic + chunk bytes + place): of this object, in this place, alone
    nonce    number of the chunk (11), 1 for the last chunk and 0 for others (1)

The place is the name of the object and, in a log, its offset: what was moved elsewhere does not open. A chunk that was
changed, left out, put elsewhere or taken from another object does not either, nor an object that was cut short. Which
objects are encrypted is told by their names, which stand in the index: to put a plain file there is of no use.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from imaging_ai.errors import StorageCorrupted
from imaging_ai.keys.ring import DataKey

__all__ = ["CHUNK_BYTES", "HEADER_BYTES", "OpenObject", "Sealing", "key_id_of", "plain_bytes", "seal", "sealed_bytes"]

CHUNK_BYTES = 64 << 10
_TAG_BYTES = 16
_SEALED_CHUNK = CHUNK_BYTES + _TAG_BYTES
_MAGIC = b"IAISEAL1"
_HEADER = struct.Struct("<32s16sI76s8s")
HEADER_BYTES = _HEADER.size
_SALT_BYTES, _CIPHER_BYTES = 32, 32


def sealed_bytes(length: int) -> int:
    """Return how many bytes `length` bytes become."""
    return HEADER_BYTES + length + _TAG_BYTES * _chunks(length)


def plain_bytes(length: int) -> int:
    """Return how many bytes were encrypted to so many."""
    body = max(length - HEADER_BYTES, 0)
    return max(body - _TAG_BYTES * -(-body // _SEALED_CHUNK), 0)


def seal(key: DataKey, place: str, data: memoryview) -> bytearray:
    """Encrypt a whole object."""
    header, cipher = _begin(key, place)
    sealed = bytearray(sealed_bytes(len(data)))
    sealed[:HEADER_BYTES] = header
    view, position, last = memoryview(sealed), HEADER_BYTES, _chunks(len(data)) - 1
    for number in range(last + 1):
        chunk = data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        end = position + len(chunk) + _TAG_BYTES
        cipher.encrypt_into(_nonce(number, number == last), chunk, None, view[position:end])
        position = end
    return sealed


class Sealing:
    """An object that is encrypted as it comes; `header` goes before all that `update` and `finish` give."""

    def __init__(self, key: DataKey, place: str) -> None:
        self.header, self._cipher = _begin(key, place)
        self._chunk = bytearray(CHUNK_BYTES)
        self._held = 0
        self._number = 0

    def update(self, data: memoryview) -> Iterator[bytes]:
        """Give the chunks that are complete and not the last."""
        while len(data):
            if self._held == CHUNK_BYTES:
                yield self._sealed(last=False)
            taken = data[: CHUNK_BYTES - self._held]
            self._chunk[self._held : self._held + len(taken)] = taken
            self._held += len(taken)
            data = data[len(taken) :]

    def finish(self) -> bytes:
        """Return the last chunk."""
        return self._sealed(last=True)

    def _sealed(self, *, last: bool) -> bytes:
        chunk = memoryview(self._chunk)[: self._held]
        sealed = self._cipher.encrypt(_nonce(self._number, last), chunk, None)
        self._number, self._held = self._number + 1, 0
        return sealed


def key_id_of(header: bytes) -> bytes:
    """Return the id of the data key that a header names. Raises `StorageCorrupted`."""
    return _parsed(header)[1]


class OpenObject:
    """An encrypted object of which ranges can be read; `length` counts its plain bytes."""

    def __init__(self, key: DataKey, header: bytes, place: str, length: int) -> None:
        salt, _ = _parsed(header)
        self._cipher = _cipher(key, salt, place)
        self._last = _chunks(length) - 1
        self.length = length

    def extent(self, start: int, wanted: int) -> tuple[int, int]:
        """Return where the chunks of a range lie in the encrypted object, and how many bytes they are."""
        first, last = start // CHUNK_BYTES, (start + wanted - 1) // CHUNK_BYTES
        begin = HEADER_BYTES + first * _SEALED_CHUNK
        return begin, min(HEADER_BYTES + (last + 1) * _SEALED_CHUNK, sealed_bytes(self.length)) - begin

    def opened(self, start: int, wanted: int, sealed: memoryview) -> Iterator[bytes | memoryview]:
        """Give a range of plain bytes in pieces, from the bytes of its `extent`.

        Raises
        ------
        StorageCorrupted
            If they are not the bytes that were stored here.
        """
        number, skipped = divmod(start, CHUNK_BYTES)
        while wanted > 0:
            chunk, sealed = sealed[:_SEALED_CHUNK], sealed[_SEALED_CHUNK:]
            try:
                plain = self._cipher.decrypt(_nonce(number, number == self._last), chunk, None)
            except InvalidTag:
                raise StorageCorrupted("stored bytes were changed: they are not what was encrypted here") from None
            piece = plain if not skipped and len(plain) <= wanted else memoryview(plain)[skipped : skipped + wanted]
            yield piece
            wanted -= len(piece)
            number, skipped = number + 1, 0


def _begin(key: DataKey, place: str) -> tuple[bytes, AESGCM]:
    salt = os.urandom(_SALT_BYTES)
    return _HEADER.pack(salt, key.id, CHUNK_BYTES, b"", _MAGIC), _cipher(key, salt, place)


def _cipher(key: DataKey, salt: bytes, place: str) -> AESGCM:
    info = b"%s%d %s" % (_MAGIC, CHUNK_BYTES, place.encode())
    return AESGCM(HKDF(hashes.SHA256(), _CIPHER_BYTES, salt, info).derive(key.key))


def _parsed(header: bytes) -> tuple[bytes, bytes]:
    if len(header) == HEADER_BYTES:
        salt, key_id, chunk, zeros, magic = _HEADER.unpack(header)
        if magic == _MAGIC and chunk == CHUNK_BYTES and not any(zeros):
            return salt, key_id
    raise StorageCorrupted("stored bytes were changed: an encrypted object does not begin as it should")


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def _chunks(length: int) -> int:
    return max(-(-length // CHUNK_BYTES), 1)
