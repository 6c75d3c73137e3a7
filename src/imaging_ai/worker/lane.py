"""A lane: threads that do one kind of work whenever they are woken, until none is left."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from imaging_ai.logs import where
from imaging_ai.worker.failures import Outage

__all__ = ["Lane"]

logger = logging.getLogger(__name__)


def _nothing() -> None:
    """Prepare nothing."""


class Lane:
    """Threads that call `step` until it returns False, each time they are woken.

    `prepare` is called by each thread before it waits, for what should be done before work comes.
    """

    def __init__(
        self, name: str, step: Callable[[], bool], *, threads: int = 1, prepare: Callable[[], None] = _nothing
    ) -> None:
        self._name = name
        self._step = step
        self._prepare = prepare
        self._changed = threading.Condition()
        self._wakes = threads  # each looks once at the start
        self._idle = 0
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads; each looks for work."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Have every idle thread look for work; when all are busy, the first that is done looks once more."""
        with self._changed:
            self._wakes = max(1, self._idle)
            self._changed.notify_all()

    def answer(self) -> None:
        """Wake the lane and return when it has a thread to spare: the actor of a queue.

        So a worker that is busy takes no further message, and leaves it to one that is not.
        """
        self.wake()
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or (self._wakes == 0 and self._idle > 0))

    def stop(self) -> None:
        """Begin no further step."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, deadline: float) -> bool:
        """Wait for the steps that run, until a monotonic time; say whether all have ended."""
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        outage = Outage(logger, self._name)
        while not self._stopping:
            try:
                with outage.tolerated():
                    self._prepare()
                    self._wait()
                    while not self._stopping and self._step():
                        continue
            except Exception as error:  # noqa: BLE001 - the edge of the thread: the lane must go on
                logger.error("%s failed: %s", self._name, where(error))

    def _wait(self) -> None:
        with self._changed:
            self._idle += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopping or self._wakes > 0)
            self._idle -= 1
            self._wakes = max(0, self._wakes - 1)
