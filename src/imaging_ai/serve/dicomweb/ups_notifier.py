"""The thread of a web process that hands events to subscribers and wakes the connections that it holds.

It is rung when work items have changed, and looks by itself every second, so that a ring that is lost costs no more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from imaging_ai.errors import UnavailableError
from imaging_ai.queue.ears import Ear
from imaging_ai.queue.presence import this_host
from imaging_ai.queue.workitem_feed import Feed

__all__ = ["Notifier"]

logger = logging.getLogger(__name__)

_LOOK_EVERY, _PRUNE_EVERY = 1.0, 600.0


class _Silence:
    """An ear that hears nothing: without a broker, one looks."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def heard(self, timeout: float) -> bool:
        self._closed.wait(timeout)
        return False

    def close(self) -> None:
        self._closed.set()


class Notifier:
    """Dispatches events of `feed`; `listen` makes the ear that hears of changes.

    When it `greets`, subscribers are told that the server has started.
    """

    def __init__(
        self,
        feed: Feed,
        listen: Callable[[], Ear] | None = None,
        *,
        greets: bool = True,
        look_every: float = _LOOK_EVERY,
    ) -> None:
        self._look_every = look_every
        self._greets = greets
        self._feed = feed
        self._listen = listen or _Silence
        self._lock = threading.Lock()
        self._connections: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def connections(self) -> int:
        """How many connections this process holds."""
        return len(self._connections)

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._stopping.clear()
                self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Have the thread end, and wait for that."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2 * self._look_every + 10.0)

    @contextmanager
    def waking(self) -> Iterator[asyncio.Event]:
        """Give a connection an event that is set whenever there may be something for it."""
        wake = asyncio.Event()
        self._connections[wake] = asyncio.get_running_loop()
        try:
            yield wake
        finally:
            del self._connections[wake]

    def _run(self) -> None:
        ear = self._listen()
        pruned, greeted, silent = time.monotonic(), not self._greets, False
        try:
            while not self._stopping.is_set():
                try:
                    if not greeted:
                        self._feed.started(_this_start())
                        greeted = True
                    self._feed.dispatch()
                    if time.monotonic() - pruned > _PRUNE_EVERY:
                        pruned = time.monotonic()
                        self._feed.prune()
                    silent = False
                except UnavailableError as error:
                    if not silent:
                        logger.warning("notifications wait: %s", error.message)
                    silent = True
                except Exception:  # the edge of the thread: notifications must go on
                    logger.exception("notifications could not be dispatched")
                self._wake()
                ear.heard(self._look_every)
        finally:
            ear.close()

    def _wake(self) -> None:
        for wake, loop in list(self._connections.items()):
            try:
                loop.call_soon_threadsafe(wake.set)
            except RuntimeError:
                continue  # its loop has ended


def _this_start() -> str:
    """Name the start of the server that this process belongs to: the host, and the process that has started it."""
    parent = os.getppid()
    try:
        since = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        since = "0"
    return f"{this_host()}:{parent}:{since}"
