"""The data keys of one storage: made, wrapped and kept for new objects, fetched for old ones, wrapped anew.

An object says by its header which data key it needs. Plain data keys are in memory only, and not for long; so what is
taken away at the key service is out of use within minutes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from imaging_ai.errors import KeyUnavailable, StorageCorrupted
from imaging_ai.keys.cabinet import Cabinet
from imaging_ai.keys.service import KeyService, Wrapped

__all__ = ["ID_BYTES", "KEEP_SECONDS", "DataKey", "KeyRing"]

_log = logging.getLogger(__name__)

ID_BYTES, KEY_BYTES = 16, 32
#: A process takes another data key for its new objects after so long.
_RENEW_SECONDS = 86_400.0
#: A data key that was fetched is forgotten after so long.
KEEP_SECONDS = 600.0
_RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key that encrypts objects, and its name."""

    id: bytes
    key: bytes = field(repr=False)


class _Kept(msgspec.Struct, frozen=True):
    """A data key as it lies in the cabinet."""

    version: int
    key_id: str
    wrapped: str


class KeyRing:
    """The data keys in a cabinet, wrapped by a key service; safe in any number of threads and processes."""

    def __init__(self, cabinet: Cabinet, service: KeyService, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cabinet, self._service, self._clock = cabinet, service, clock
        self._lock = threading.Lock()
        self._making = threading.Lock()  # apart: nobody who reads waits for the key service to wrap
        self._current: DataKey | None = None
        self._renew_at = 0.0
        self._fetched: dict[bytes, tuple[DataKey, float]] = {}

    def current(self) -> DataKey:
        """Return the data key for a new object.

        Raises
        ------
        KeyUnavailable
            If there is none yet and the key service makes none. One that is in use stays in use meanwhile.
        """
        with self._making:
            if self._current is None or self._clock() >= self._renew_at:
                try:
                    self._current = self._make()
                    self._renew_at = self._clock() + _RENEW_SECONDS
                except KeyUnavailable as error:
                    if self._current is None:
                        raise
                    self._renew_at = self._clock() + _RETRY_SECONDS
                    _log.warning("the data key in use is not renewed: %s", error.message)
            return self._current

    def fetch(self, key_id: bytes) -> DataKey:
        """Return a data key.

        Raises
        ------
        KeyUnavailable
            If it is not kept here, or cannot be unwrapped now; `StorageCorrupted` if it was changed.
        """
        if (known := self.at_hand(key_id)) is not None:
            return known
        key = self._unwrapped(key_id.hex())
        now = self._clock()
        with self._lock:
            self._fetched = {one: kept for one, kept in self._fetched.items() if kept[1] > now}
            self._fetched[key_id] = key, now + KEEP_SECONDS
        return key

    def at_hand(self, key_id: bytes) -> DataKey | None:
        """Return a data key if it is in memory."""
        current = self._current
        if current is not None and current.id == key_id:
            return current
        with self._lock:
            key, until = self._fetched.get(key_id, (None, 0.0))
        return key if until > self._clock() else None

    def current_key_id(self) -> str:
        """Return the id of the key that wraps now. Raises `KeyUnavailable`."""
        return self._service.current()

    def census(self) -> Counter[str]:
        """Count the data keys by the key that wraps them."""
        return Counter(self._kept(name).key_id for name in self._cabinet.names())

    def rewrap(self) -> Iterator[bool]:
        """Wrap every data key with the current key, and say of each whether it was not so already.

        May be stopped anywhere and begun again; objects are read and written meanwhile. Raises as `fetch`.
        """
        current = self._service.current()
        for name in self._cabinet.names():
            is_old = self._kept(name).key_id != current
            if is_old:
                self._keep(self._unwrapped(name))
            yield is_old

    def _make(self) -> DataKey:
        made = DataKey(os.urandom(ID_BYTES), os.urandom(KEY_BYTES))
        self._keep(made)
        return made

    def _keep(self, key: DataKey) -> None:
        wrapped = self._service.wrap(key.key, _about(key.id.hex()))
        if self._service.unwrap(wrapped, _about(key.id.hex())) != key.key:
            raise KeyUnavailable("the key service does not give back what it wrapped")
        self._cabinet.save(key.id.hex(), msgspec.json.encode(_Kept(1, wrapped.key_id, wrapped.text)))

    def _kept(self, name: str) -> _Kept:
        if (text := self._cabinet.load(name)) is None:
            raise KeyUnavailable(
                f"the data key {name} is not in the storage; restore its folder of keys from a back-up"
            )
        try:
            kept = msgspec.json.decode(text, type=_Kept)
        except msgspec.MsgspecError:
            raise StorageCorrupted(f"the data key {name} was changed") from None
        if kept.version != 1:
            raise KeyUnavailable(f"the data key {name} is of a newer version of this program")
        return kept

    def _unwrapped(self, name: str) -> DataKey:
        kept = self._kept(name)
        key = self._service.unwrap(Wrapped(kept.key_id, kept.wrapped), _about(name))
        if len(key) != KEY_BYTES:
            raise StorageCorrupted(f"the data key {name} was changed")
        return DataKey(bytes.fromhex(name), key)


def _about(name: str) -> bytes:
    return f"imaging-ai data key {name}".encode()
