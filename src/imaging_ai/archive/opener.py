"""Reading ranges of encrypted objects: what their headers say is remembered, for as long as their keys are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from imaging_ai.archive.sealed import CHUNK_BYTES, Buffer, OpenObject, key_id_of
from imaging_ai.core.blob import BlobRef
from imaging_ai.keys.ring import KEEP_SECONDS, KeyRing

__all__ = ["Opener", "place_of", "whole_chunks"]

_MOST = 4096


def place_of(key: str, offset: int) -> str:
    """Name the place that an object is bound to."""
    return f"{key}@{offset}"


class Opener:
    """Opens encrypted objects with the keys of a ring."""

    def __init__(self, ring: KeyRing, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ring, self._clock = ring, clock
        self._lock = threading.Lock()
        self._objects: dict[BlobRef, OpenObject] = {}
        self._forget_at = 0.0

    def open(self, ref: BlobRef, header: Callable[[], Buffer]) -> OpenObject:
        """Open an object; its `header` is fetched if it is not open already.

        Raises
        ------
        KeyUnavailable
            If its data key cannot be had; `StorageCorrupted` if its header is not what was stored.
        """
        if (opened := self.at_hand(ref)) is not None:
            return opened
        found = bytes(header())
        return self._keep(ref, OpenObject(self._ring.fetch(key_id_of(found)), found, _place(ref), ref.length))

    def at_hand(self, ref: BlobRef) -> OpenObject | None:
        """Return an object that is open already."""
        with self._lock:
            if self._clock() >= self._forget_at:
                self._objects.clear()
                self._forget_at = self._clock() + KEEP_SECONDS
            return self._objects.get(ref)

    def open_at_once(self, ref: BlobRef, header: bytes) -> OpenObject | None:
        """Open an object if its key is in memory. Raises `StorageCorrupted`."""
        key = self._ring.at_hand(key_id_of(header))
        return None if key is None else self._keep(ref, OpenObject(key, header, _place(ref), ref.length))

    def _keep(self, ref: BlobRef, opened: OpenObject) -> OpenObject:
        with self._lock:
            if len(self._objects) >= _MOST:
                self._objects.pop(next(iter(self._objects)))
            self._objects[ref] = opened
        return opened


def whole_chunks(size: int) -> int:
    """Return the multiple of the chunks' size nearest to `size`, so that a stream opens none of them twice."""
    return max(round(size / CHUNK_BYTES), 1) * CHUNK_BYTES


def _place(ref: BlobRef) -> str:
    return place_of(ref.key, ref.offset)
