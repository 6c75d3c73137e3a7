"""The keys that seal the audit trail: lines of a file that only this program may read.

The last line seals; the lines above it are what earlier events were sealed with (`audit.rotation`), and what comes
after the first event of a later line is not. Replicas share the file. Each key has an id, made of the key by SHA-256,
which stands with every event that it seals.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imaging_ai.errors import ConfigError, UnavailableError

__all__ = ["Keyring", "add_key", "open_keys"]

_BYTES = 32
#: May not be set: written by the group, or anything by others.
_TOO_OPEN = 0o027


@dataclass(frozen=True, slots=True, repr=False)
class Keyring:
    """Keys by their ids, the oldest first, the id of the one that seals, and the file that they are from."""

    keys: Mapping[str, bytes]
    current: str
    path: Path | None = None

    @property
    def key(self) -> bytes:
        """The key that seals."""
        return self.keys[self.current]

    def replaced(self, key_id: str, other: str) -> bool:
        """Say whether a key was replaced by another one of these."""
        ids = list(self.keys)
        return key_id != other and key_id in ids and other in ids and ids.index(key_id) < ids.index(other)

    def again(self) -> Keyring:
        """Read the file again.

        Raises
        ------
        UnavailableError
            If it cannot be read now, or holds no keys.
        """
        assert self.path is not None
        try:
            return Keyring.of(*_read(self.path), path=self.path)
        except ConfigError as error:
            raise UnavailableError(error.message) from None

    @classmethod
    def of(cls, *keys: bytes, path: Path | None = None) -> Keyring:
        """Make a ring whose last key seals."""
        named = {_id_of(key): key for key in keys}
        return cls(named, _id_of(keys[-1]), path)

    @classmethod
    def passing(cls) -> Keyring:
        """Make a ring of a key that nobody will ever have again."""
        return cls.of(secrets.token_bytes(_BYTES))


def open_keys(path: Path) -> Keyring:
    """Read the keys from a file; where there is none, make it with a new key.

    Raises
    ------
    ConfigError
        If others could read it, or it holds no keys.
    """
    if not path.exists():
        with contextlib.suppress(FileExistsError):  # another role was faster: its key is ours
            _write(path, [secrets.token_bytes(_BYTES)], fresh=True)
    return Keyring.of(*_read(path), path=path)


def add_key(path: Path) -> Keyring:
    """Add a new key to the file, for `audit.rotation`."""
    keys = [*_read(path), secrets.token_bytes(_BYTES)]
    _write(path, keys, fresh=False)
    return Keyring.of(*keys, path=path)


def _id_of(key: bytes) -> str:
    return hashlib.sha256(b"imaging-ai audit key " + key).hexdigest()[:16]


def _read(path: Path) -> list[bytes]:
    try:
        mode = path.stat().st_mode
        lines = path.read_text("ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"audit.key_file: {path} cannot be read: {type(error).__name__}") from None
    if mode & _TOO_OPEN:
        raise ConfigError(f"audit.key_file: {path} is open to others; chmod 600 it")
    try:
        keys = [bytes.fromhex(line) for line in lines]
    except ValueError:
        keys = []
    if not keys or any(len(key) != _BYTES for key in keys):
        raise ConfigError(f"audit.key_file: {path} must hold keys of {2 * _BYTES} hexadecimal digits, one on each line")
    return keys


def _write(path: Path, keys: list[bytes], *, fresh: bool) -> None:
    """Write the file whole or not at all; a `fresh` one never replaces another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.writelines(f"{key.hex()}\n" for key in keys)
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            os.link(name, path)
        else:
            Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
