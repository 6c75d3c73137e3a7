"""The key of this server: access and refresh tokens are signed with it, so every web process must have the same.

It is made once, at the first start, and lies in the data directory, readable by its owner alone; `auth.key_file`
names another file, for servers that share no data directory. Each purpose has a key of its own, made from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from imaging_ai.errors import ConfigError

__all__ = ["ServerKey"]

_log = logging.getLogger(__name__)
_SHORTEST = 32


@dataclass(frozen=True, slots=True)
class ServerKey:
    """At least 32 secret bytes; never shown."""

    secret: bytes = field(repr=False)

    @classmethod
    def own(cls, file: Path) -> ServerKey:
        """Read the key from our own file, which is made where it is missing.

        Raises
        ------
        ConfigError
            If others than its owner may read it, or if it is no key.
        """
        with contextlib.suppress(FileExistsError):
            _make(file)
        if (mode := stat.S_IMODE(file.stat().st_mode)) & 0o077:
            raise ConfigError(f"{file}: others may read this key (mode {mode:03o}); chmod 600 it, or replace it")
        return cls.given(file)

    @classmethod
    def given(cls, file: Path) -> ServerKey:
        """Read a key from a file that was made elsewhere; who can read it can be anybody. Raises `ConfigError`."""
        try:
            if file.stat().st_mode & stat.S_IROTH:  # as container runtimes hand secrets over
                _log.warning("the key file %s can be read by everybody on this machine; chmod 600 it", file)
            secret = file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"auth.key_file: {file}: cannot be read ({error.strerror})") from None
        if len(secret) < _SHORTEST:
            raise ConfigError(f"{file}: a key has at least {_SHORTEST} bytes; make one with `openssl rand -hex 32`")
        return cls(secret)

    def derive(self, purpose: str) -> bytes:
        """Return the key (32 bytes) for one purpose."""
        return hmac.digest(self.secret, purpose.encode(), hashlib.sha256)


def _make(file: Path) -> None:
    """Write a new key, whole or not at all, unless there is one: several processes may start at once."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}-{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(secrets.token_hex(32).encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.link(fresh, file)
    finally:
        fresh.unlink()
