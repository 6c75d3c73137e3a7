"""What was used last, kept in memory up to a weight; any number of threads share it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Recent"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Values by key; those that were not asked for the longest go first. One over a part of all is not kept."""

    def __init__(self, most: int, *, part: int = 8) -> None:
        self._most, self._part, self._weight = most, part, 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """Return a value, None when it is not kept."""
        with self._lock:
            if (found := self._kept.get(key)) is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def keep(self, key: Key, value: Value, weight: int) -> None:
        """Keep a value of some weight."""
        if weight * self._part > self._most:
            return
        with self._lock:
            _, before = self._kept.pop(key, (value, 0))
            self._kept[key] = value, weight
            self._weight += weight - before
            while self._weight > self._most:
                _, (_, lost) = self._kept.popitem(last=False)
                self._weight -= lost
