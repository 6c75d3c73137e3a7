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
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from imaging_ai.errors import StorageCorrupted
from imaging_ai.keys.ring import DataKey

__all__ = [
    "CHUNK_BYTES",
    "HEADER_BYTES",
    "SEALED_CHUNK_BYTES",
    "Buffer",
    "OpenObject",
    "Sealing",
    "key_id_of",
    "plain_bytes",
    "seal",
    "sealed_bytes",
]

CHUNK_BYTES = 64 << 10
_TAG_BYTES = 16
SEALED_CHUNK_BYTES = CHUNK_BYTES + _TAG_BYTES
_MAGIC = b"IAISEAL1"
_HEADER = struct.Struct("<32s16sI76s8s")
HEADER_BYTES = _HEADER.size
_SALT_BYTES, _CIPHER_BYTES = 32, 32

Buffer = bytes | bytearray | memoryview


def sealed_bytes(length: int) -> int:
    """Return how many bytes `length` bytes become."""
    return HEADER_BYTES + length + _TAG_BYTES * _chunks(length)


def plain_bytes(length: int) -> int:
    """Return how many bytes were encrypted to so many."""
    body = max(length - HEADER_BYTES, 0)
    return max(body - _TAG_BYTES * -(-body // SEALED_CHUNK_BYTES), 0)


def seal(key: DataKey, place: str, data: memoryview, into: bytearray | None = None) -> memoryview:
    """Encrypt a whole object, in the beginning of `into` if there is one."""
    header, cipher = _begin(key, place)
    length = sealed_bytes(len(data))
    sealed = memoryview(bytearray(length) if into is None else into)[:length]
    sealed[:HEADER_BYTES] = header
    position, last = HEADER_BYTES, _chunks(len(data)) - 1
    for number in range(last + 1):
        chunk = data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        end = position + len(chunk) + _TAG_BYTES
        cipher.encrypt_into(_nonce(number, number == last), chunk, None, sealed[position:end])
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
    """An encrypted object of which ranges can be read; `length` counts its plain bytes.

    What is read raises `StorageCorrupted` if the bytes that `fetch` gives are not those that were stored here.
    """

    def __init__(self, key: DataKey, header: bytes, place: str, length: int) -> None:
        salt, _ = _parsed(header)
        self._cipher = _cipher(key, salt, place)
        self._end = sealed_bytes(length)
        self._last = _chunks(length) - 1
        self.length = length

    def extent(self, start: int, wanted: int) -> tuple[int, int]:
        """Return where the chunks of a range lie in the encrypted object, and how many bytes they are."""
        first, last = start // CHUNK_BYTES, (start + wanted - 1) // CHUNK_BYTES
        begin = HEADER_BYTES + first * SEALED_CHUNK_BYTES
        return begin, min(HEADER_BYTES + (last + 1) * SEALED_CHUNK_BYTES, self._end) - begin

    def read(self, start: int, wanted: int, fetch: Callable[[int, int], Buffer]) -> bytes:
        """Return a range of plain bytes; `fetch` gives one of encrypted bytes, good until it is called again."""
        pieces: list[bytes | memoryview] = []
        for number, begin, length, skipped, taken in self._spans(start, wanted):
            with _authentic():
                plain = self._cipher.decrypt(self._nonce(number), fetch(begin, length), None)
            pieces.append(plain if len(plain) == taken else memoryview(plain)[skipped : skipped + taken])
        return b"".join(pieces)

    def fill(self, start: int, into: memoryview, fetch: Callable[[int, int], Buffer | None]) -> bool:
        """Read a range as long as `into`; False as soon as `fetch` gives nothing."""
        position = 0
        for number, begin, length, skipped, taken in self._spans(start, len(into)):
            if (chunk := fetch(begin, length)) is None:
                return False
            target = into[position : position + taken]
            with _authentic():
                if taken == length - _TAG_BYTES:
                    self._cipher.decrypt_into(self._nonce(number), chunk, None, target)
                else:
                    target[:] = self._cipher.decrypt(self._nonce(number), chunk, None)[skipped : skipped + taken]
            position += taken
        return True

    def _spans(self, start: int, wanted: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Give the chunks of a range: number, begin, encrypted length, and what of its plain bytes is wanted."""
        number, skipped = divmod(start, CHUNK_BYTES)
        while wanted > 0:
            begin = HEADER_BYTES + number * SEALED_CHUNK_BYTES
            length = min(SEALED_CHUNK_BYTES, self._end - begin)
            taken = min(wanted, length - _TAG_BYTES - skipped)
            yield number, begin, length, skipped, taken
            wanted, number, skipped = wanted - taken, number + 1, 0

    def _nonce(self, number: int) -> bytes:
        return _nonce(number, number == self._last)


@contextmanager
def _authentic() -> Iterator[None]:
    try:
        yield
    except InvalidTag:
        raise StorageCorrupted("stored bytes were changed: they are not what was encrypted here") from None


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
