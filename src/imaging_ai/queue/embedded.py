"""A Dramatiq broker without a server: Unix datagram sockets in a folder, one for each process and queue that listens.

The ledger holds the work, so a message need not be kept: it is heard by every process that listens to its queue at
that moment, and by none when nobody does. Actors therefore take no arguments, ask the ledger what to do, and must not
mind being called once too often. Equal messages that wait together are heard once.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dramatiq import Broker, Message
from dramatiq.broker import Consumer, MessageProxy

from imaging_ai.queue.ears import Ear

__all__ = ["EmbeddedBroker"]


class EmbeddedBroker(Broker):
    """Rings every process of this host that consumes a queue; `folder` is where their sockets are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(middleware=[])
        self._folder = folder.resolve()
        self._mouth = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._mouth.setblocking(False)

    def declare_queue(self, queue_name: str) -> None:
        """Make a queue known to workers of this broker."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = None
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: Message[None], *, delay: int | None = None) -> Message[None]:
        """Send a message to all who listen now, or in `delay` milliseconds if this process still lives then."""
        if delay is None:
            self._send(message)
        else:
            timer = threading.Timer(delay / 1000, self._send, (message,))
            timer.daemon = True
            timer.start()
        return message

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30000) -> Consumer:
        """Listen to a queue."""
        folder = self._folder / queue_name
        folder.mkdir(parents=True, exist_ok=True)
        return _Ear(folder, prefetch, timeout / 1000)

    def listen(self, queue_name: str) -> Ear:
        """Hear every ring of a queue."""
        folder = self._folder / queue_name
        folder.mkdir(parents=True, exist_ok=True)
        return _Ear(folder, 1, 0.0)

    def ping(self) -> None:
        """There is no server that could be away."""

    def close(self) -> None:
        """Close the socket that messages leave by."""
        self._mouth.close()

    def _send(self, message: Message[None]) -> None:
        folder = self._folder / message.queue_name
        data = message.encode()
        try:
            paths = list(folder.iterdir())
        except FileNotFoundError:
            return  # nobody has ever listened
        for path in paths:
            with _address(path) as address:
                self._send_to(address, path, data)

    def _send_to(self, address: str, path: Path, data: bytes) -> None:
        try:
            self._mouth.sendto(data, address)
        except BlockingIOError:
            return  # its queue is full: it has enough to hear
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)  # its process is dead
        except FileNotFoundError:
            return  # it left a moment ago


class _Ear(Consumer):
    """One socket that listens."""

    def __init__(self, folder: Path, prefetch: int, timeout: float) -> None:
        self._path = folder / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._timeout = timeout
        self._room = threading.Semaphore(prefetch)
        self._pending: dict[str, Message[None]] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        with _address(self._path) as address:
            self._socket.bind(address)

    def __next__(self) -> MessageProxy | None:
        if not self._room.acquire(timeout=self._timeout):
            return None
        if not self._pending and select.select([self._socket], [], [], self._timeout)[0]:
            self._drain()
        if self._pending:
            return MessageProxy(self._pending.pop(next(iter(self._pending))))
        self._room.release()
        return None

    def heard(self, timeout: float) -> bool:
        if select.select([self._socket], [], [], timeout)[0]:
            self._drain()
        rang = bool(self._pending)
        self._pending.clear()
        return rang

    def _drain(self) -> None:
        while True:
            try:
                message: Message[None] = Message.decode(self._socket.recv(65536))
            except BlockingIOError:
                return
            self._pending.setdefault(f"{message.actor_name} {message.args} {message.kwargs}", message)

    def ack(self, message: MessageProxy) -> None:
        self._room.release()

    def nack(self, message: MessageProxy) -> None:
        self._room.release()

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Forget them: the ledger still holds the work."""

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        self._socket.close()


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """Open the folder of a socket and give its address from there, however long its path (the limit: 107 bytes)."""
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)
