"""So much a second, evenly but for a burst: the generic cell rate algorithm (ITU-T I.371), one number of state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import inf

__all__ = ["Pace"]


class Pace:
    """Says how long to wait for more of what may come at `per_second`, after at most `burst` at once.

    Threads may share it.
    """

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval, self._slack, self._clock = 1 / per_second, (burst - 1) / per_second, clock
        self._due = -inf
        self._lock = threading.Lock()

    def take(self, amount: float = 1.0, most_seconds: float = inf) -> float | None:
        """Take some, and return the seconds to wait before going on.

        When that is more than `most_seconds` nothing is taken, and the answer is None.
        """
        with self._lock:
            now = self._clock()
            due = max(self._due, now - self._slack)
            wait = max(due - now, 0.0)
            if wait > most_seconds:
                return None
            self._due = due + amount * self._interval
            return wait
