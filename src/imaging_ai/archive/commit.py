"""Group commit: callers that come together share one sync and one transaction, and a lone caller waits for nobody."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["GroupCommit"]

T = TypeVar("T")


class _Place(Generic[T]):
    """A caller in the queue; `turn` is released when its items are done or it has become the leader."""

    __slots__ = ("done", "error", "items", "turn")

    def __init__(self, items: tuple[T, ...]) -> None:
        self.items = items
        self.done = False
        self.error: BaseException | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class GroupCommit(Generic[T]):
    """Hands the items of concurrent callers to `commit` in batches.

    Whoever finds nobody at work leads: it takes all that wait, commits them, and passes the lead on. So there is no
    thread of its own, and no hand-off while there is only one caller. A batch ends with the caller that makes it
    `largest` items or more.
    """

    def __init__(self, commit: Callable[[list[T]], None], *, largest: int = 128) -> None:
        self._commit = commit
        self._largest = largest
        self._lock = threading.Lock()
        self._waiting: deque[_Place[T]] = deque()
        self._led = False

    def run(self, *items: T) -> None:
        """Return when all `items` are committed, in one batch; raises what the commit of their batch raised."""
        place = _Place(items)
        with self._lock:
            self._waiting.append(place)
            leads, self._led = not self._led, True
        if not leads:
            place.turn.acquire()
        if not place.done:
            self._lead()
        if place.error is not None:
            raise place.error

    def _lead(self) -> None:
        batch: list[_Place[T]] = []
        items: list[T] = []
        with self._lock:
            while self._waiting and len(items) < self._largest:
                place = self._waiting.popleft()
                batch.append(place)
                items += place.items
        error: BaseException | None = None
        try:
            self._commit(items)
        except BaseException as failure:  # noqa: BLE001 - every caller of the batch raises it
            error = failure
        with self._lock:
            successor = self._waiting[0] if self._waiting else None
            self._led = successor is not None
        for place in batch:
            place.done, place.error = True, error
            place.turn.release()
        if successor is not None:
            successor.turn.release()
