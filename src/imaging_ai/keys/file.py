"""Key-encryption keys in a file, which only its owner may read; one key on each line, the first is current.

    2026-11 q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=
    2025-11 EjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJCrze8=

A key is 32 random bytes (AES-256-GCM) in base64, its id up to 64 letters, digits, dots and dashes. The file is read
again when it has changed, so that a new key is in use at once.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from imaging_ai.errors import ConfigError, KeyUnavailable, StorageCorrupted
from imaging_ai.keys.service import Wrapped

__all__ = ["FileKeys", "add_key"]

_PREFIX = "file:"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY_BYTES, _NONCE_BYTES = 32, 12
_HOW = "each line is an id and 32 bytes in base64; `imaging-ai storage new-key` makes one"


class FileKeys:
    """The keys of a file, as it is now. Raises `ConfigError` when it cannot be used from the beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._state = _state(path)
        self._keys = _read(path)

    def current(self) -> str:
        """Return the id of the first key."""
        return _PREFIX + next(iter(self._held()))

    def holds(self, key_id: str) -> bool:
        """Say whether a key comes from a file."""
        return key_id.startswith(_PREFIX)

    def wrap(self, data_key: bytes, about: bytes) -> Wrapped:
        """Encrypt a data key with the first key."""
        name, key = next(iter(self._held().items()))
        nonce = os.urandom(_NONCE_BYTES)
        return Wrapped(_PREFIX + name, base64.b64encode(nonce + AESGCM(key).encrypt(nonce, data_key, about)).decode())

    def unwrap(self, wrapped: Wrapped, about: bytes) -> bytes:
        """Return the data key."""
        name = wrapped.key_id.removeprefix(_PREFIX)
        if (key := self._held().get(name)) is None:
            raise KeyUnavailable(f"the key {name!r} is no longer in storage.encryption_key_file; put it back")
        try:
            raw = base64.b64decode(wrapped.text, validate=True)
            return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], about)
        except (InvalidTag, ValueError):
            raise StorageCorrupted(f"a data key was changed, or is not of the key {name!r} that the file has") from None

    def _held(self) -> Mapping[str, bytes]:
        """Return the keys; a file that was changed to something unusable leaves those that were in force."""
        with self._lock:
            try:
                if (state := _state(self._path)) != self._state:
                    self._keys, self._state = _read(self._path), state
            except ConfigError as error:
                if not self._keys:
                    raise KeyUnavailable(error.message) from None
            return self._keys


def add_key(path: Path, name: str) -> None:
    """Make a key and put it first in the file, which is made where there is none.

    Raises
    ------
    ConfigError
        If the name cannot be an id or is there already, or the file cannot be used.
    """
    there = path.exists()
    if _ID.fullmatch(name) is None:
        raise ConfigError(f"{name!r} is no id of a key; use up to 64 letters, digits, dots and dashes")
    if there and name in _read(path):
        raise ConfigError(f"{path}: the key {name!r} is there already; give the new one another id")
    line = f"{name} {base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        rest = path.read_text("ascii") if there else ""
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(line + rest)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None


def _state(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); see storage.encryption_key_file") from None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> Mapping[str, bytes]:
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others than its owner may use this file of keys; chmod 600 {path}")
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{path}: cannot be read ({reason}); see storage.encryption_key_file") from None
    keys: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, text = line.strip().partition(" ")
        if _ID.fullmatch(name) is None or name in keys or len(key := _decoded(text.strip())) != _KEY_BYTES:
            raise ConfigError(f"{path}, line {number}: no key, or an id that is there twice; {_HOW}")
        keys[name] = key
    if not keys:
        raise ConfigError(f"{path}: no keys in it; {_HOW}")
    return keys


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
