"""Connections that have not asked for an association yet: a crowd of silent ones keeps nobody out.

They take none of the places of associations. When there are too many connections, the oldest that waits of the address
with the most of them is closed, so that one peer that opens connections and says nothing crowds out only itself.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

__all__ = ["WaitingRoom"]


class WaitingRoom:
    """Counts connections, and knows those that wait. `most` may be open at once; `refused` is told whose was closed."""

    def __init__(self, most: int, refused: Callable[[str], None]) -> None:
        self._most, self._refused = most, refused
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, str] = {}
        self._open = 0

    @property
    def open(self) -> int:
        """How many connections are open, those of associations too."""
        return self._open

    @contextmanager
    def enter(self, sock: socket.socket, address: str) -> Iterator[Callable[[], None]]:
        """Count a connection inside the block; it waits until what this gives is called."""
        handle = sock.dup()  # the connection itself may go into TLS meanwhile, or to another owner
        with self._lock:
            self._open += 1
            self._waiting[handle] = address
            crowded_out = self._crowded_out() if self._open > self._most else None
        if crowded_out is not None:
            self._refused(crowded_out)
        try:
            yield lambda: self._leave(handle)
        finally:
            self._leave(handle)
            with self._lock:
                self._open -= 1

    def _leave(self, handle: socket.socket) -> None:
        with self._lock:
            self._waiting.pop(handle, None)
            handle.close()

    def _crowded_out(self) -> str:
        """End a connection that waits, and return from where it came. The caller holds the lock."""
        [(address, _)] = Counter(self._waiting.values()).most_common(1)
        oldest = next(handle for handle, where in self._waiting.items() if where == address)
        del self._waiting[oldest]
        with suppress(OSError):  # the peer was faster
            oldest.shutdown(socket.SHUT_RDWR)
        return address
