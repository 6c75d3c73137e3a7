"""Who holds the key-encryption keys: the port, and several holders as one (envelope encryption, NIST SP 800-57 part 1).

A data key encrypts objects; a key-encryption key, which never leaves its holder, encrypts ("wraps") data keys. So a
rotation of keys touches some hundred bytes for each data key, and no object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from imaging_ai.errors import KeyUnavailable

__all__ = ["KeyService", "KeyServices", "Wrapped"]


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A data key, encrypted under the key-encryption key that `key_id` names."""

    key_id: str
    text: str


class KeyService(Protocol):
    """Holds key-encryption keys. `about` is what a wrapped key is bound to: unwrapping it as another one fails."""

    def current(self) -> str:
        """Return the id of the key that wraps now. Raises `KeyUnavailable`."""

    def holds(self, key_id: str) -> bool:
        """Say whether a key is of this service."""

    def wrap(self, data_key: bytes, about: bytes) -> Wrapped:
        """Encrypt a data key with the current key. Raises `KeyUnavailable`."""

    def unwrap(self, wrapped: Wrapped, about: bytes) -> bytes:
        """Return the data key. Raises `KeyUnavailable`; `StorageCorrupted` if it is not what was wrapped."""


class KeyServices:
    """Several services: the first wraps, each unwraps its own; so one can take over from another."""

    def __init__(self, services: Sequence[KeyService]) -> None:
        self._services = tuple(services)

    def current(self) -> str:
        """Return the id of the key that wraps now."""
        return self._first().current()

    def holds(self, key_id: str) -> bool:
        """Say whether a key is of any of them."""
        return any(service.holds(key_id) for service in self._services)

    def wrap(self, data_key: bytes, about: bytes) -> Wrapped:
        """Encrypt a data key with the current key."""
        return self._first().wrap(data_key, about)

    def unwrap(self, wrapped: Wrapped, about: bytes) -> bytes:
        """Return the data key."""
        for service in self._services:
            if service.holds(wrapped.key_id):
                return service.unwrap(wrapped, about)
        raise KeyUnavailable(
            f"the key {wrapped.key_id} is not known here; it belongs in storage.encryption_key_file or "
            "storage.encryption_key_service"
        )

    def _first(self) -> KeyService:
        if not self._services:
            raise KeyUnavailable("no key is set: storage.encryption_key_file or storage.encryption_key_service")
        return self._services[0]
