"""A thread that looks after what no message tells: lost workers, lost messages, and times that come."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imaging_ai.logs import where
from imaging_ai.worker.failures import Outage

__all__ = ["Alarm", "Sweeper"]

logger = logging.getLogger(__name__)

#: An alarm that is still due after it rang waits this long, for whom it rang to do its work.
_REPEAT_AFTER = 0.2


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something to do at a time: `due` tells when (seconds since the epoch; None: not known to come)."""

    due: Callable[[], float | None]
    ring: Callable[[], None]


class Sweeper:
    """Sweeps at every interval, give or take a tenth, and rings alarms exactly when they are due."""

    def __init__(self, sweep: Callable[[], None], alarms: Sequence[Alarm], *, interval: float) -> None:
        self._sweep = sweep
        self._alarms = tuple(alarms)
        self._interval = interval
        self._nudged = threading.Event()
        self._stopping = False
        self._outage = Outage(logger, "the sweep")
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def nudge(self) -> None:
        """Have the times of the alarms looked at again: something may be due sooner."""
        self._nudged.set()

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopping = True
        self._nudged.set()

    def _run(self) -> None:
        while not self._stopping:
            self._attempt(self._sweep)
            swept = time.monotonic()
            pause = self._interval * random.uniform(0.9, 1.1)  # noqa: S311 - not a secret
            while not self._stopping and (left := swept + pause - time.monotonic()) > 0:
                self._wait_for_alarm(left)

    def _wait_for_alarm(self, left: float) -> None:
        self._nudged.clear()
        due: dict[int, float] = {}
        self._attempt(lambda: due.update(self._due()))
        now = time.time()
        overdue = [index for index, at in due.items() if at <= now]
        for index in overdue:
            self._attempt(self._alarms[index].ring)
        wait = _REPEAT_AFTER if overdue else min(due.values(), default=now + left) - now
        self._nudged.wait(min(left, max(0.0, wait)))

    def _due(self) -> dict[int, float]:
        times = ((index, alarm.due()) for index, alarm in enumerate(self._alarms))
        return {index: at for index, at in times if at is not None}

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            with self._outage.tolerated():
                act()
        except Exception as error:  # noqa: BLE001 - the edge of the thread: the sweep must go on
            logger.error("the sweep failed: %s", where(error))
