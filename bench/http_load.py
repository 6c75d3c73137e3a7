"""A small HTTP/1.1 client that costs next to nothing, so that a benchmark measures the server.

Requests are bytes made beforehand; answers are counted, not kept, unless one asks for them. On Linux the body of an
answer whose length is known is not even copied out of the kernel (MSG_TRUNC, tcp(7)): on a machine that the client
shares with the server, that copy would take from one core what a client elsewhere would not. Nor is the client woken
before all of such a body is there (SO_RCVLOWAT, socket(7)).
"""

from __future__ import annotations

import selectors
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Answer", "Connection", "load", "request"]

_BUFFER, _HEAD = 1 << 20, 1 << 14
_DISCARD = socket.MSG_TRUNC if sys.platform == "linux" else 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status, size, and seconds to the first byte and to the last."""

    status: int
    size: int
    first: float
    total: float
    body: bytes = b""


def request(
    path: str, port: int, accept: str = "*/*", *, method: str = "GET", body: bytes = b"", content_type: str = ""
) -> bytes:
    """Make the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Accept: {accept}"]
    if body:
        lines += [f"Content-Length: {len(body)}", f"Content-Type: {content_type}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._buffer = bytearray(_BUFFER)
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, wanted: bytes, *, keep: bool = False) -> Answer:
        """Send a request and read its answer to the end."""
        began = time.perf_counter()
        self._socket.sendall(wanted)
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self._socket.recv(_HEAD)
            if not piece:
                raise ConnectionError("the server hung up")
            if not head:
                first = time.perf_counter() - began
            head += piece
        head, _, rest = head.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        status = int(lines[0].split()[1])
        fields = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
        kept = bytearray(rest)
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            size = self._chunks(rest, kept if keep else None)
        elif b"content-length" in fields:
            size = self._exactly(int(fields[b"content-length"]), len(rest), kept if keep else None)
        else:
            size = self._to_the_end(len(rest), kept if keep else None)
        return Answer(status, size, first, time.perf_counter() - began, bytes(kept) if keep else b"")

    def _exactly(self, length: int, have: int, kept: bytearray | None) -> int:
        view = memoryview(self._buffer)
        while have < length:
            discard = _DISCARD if kept is None else 0
            count = self._socket.recv_into(view, min(_BUFFER, length - have), discard)
            if not count:
                raise ConnectionError("the answer is cut short")
            if kept is not None:
                kept += view[:count]
            have += count
        return length

    def _to_the_end(self, have: int, kept: bytearray | None) -> int:
        """Read until the server hangs up, and connect anew."""
        view = memoryview(self._buffer)
        while count := self._socket.recv_into(view):
            have += count
            if kept is not None:
                kept += view[:count]
        self._socket.close()
        self._connect()
        return have

    def _chunks(self, tail: bytes, kept: bytearray | None) -> int:
        """Read to the last chunk; the sizes of chunks are counted with it: a few bytes in a megabyte."""
        size, last, view = len(tail), tail[-7:], memoryview(self._buffer)
        while not last.endswith(b"\r\n0\r\n\r\n"):
            count = self._socket.recv_into(view)
            if not count:
                raise ConnectionError("the answer is cut short")
            size += count
            if kept is not None:
                kept += view[:count]
            last = (last + bytes(view[max(0, count - 7) : count]))[-7:]
        return size

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class _Stream:
    """One of many connections that a single thread serves: sends its share of requests one after the other."""

    def __init__(self, port: int, share: Sequence[bytes], buffer: memoryview) -> None:
        self._port, self._share, self._buffer = port, iter(share), buffer
        self.answers: list[Answer] = []
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._patient = False

    def next(self) -> bool:
        """Send the next request; False when there is none."""
        wanted = next(self._share, None)
        if wanted is None:
            return False
        self._head, self._size, self._last = b"", 0, b""
        self._status, self._left = 0, _UNKNOWN
        self._began, self._first = time.perf_counter(), 0.0
        sent = self.socket.send(wanted)
        if sent < len(wanted):
            self.socket.setblocking(True)
            self.socket.sendall(memoryview(wanted)[sent:])
            self.socket.setblocking(False)
        return True

    def ready(self) -> bool:
        """Read what there is; True when the answer is whole."""
        if self._left >= 0:  # of a known length: nobody looks at it
            count = self.socket.recv_into(self._buffer, min(_BUFFER, self._left - self._size), _DISCARD)
        else:
            count = self.socket.recv_into(self._buffer, _HEAD if self._left == _UNKNOWN else 0)
        self._first = self._first or time.perf_counter() - self._began
        if not count:
            return self._hung_up()
        if self._left >= 0:
            self._size += count
            if self._patient and self._left - self._size < _BUFFER:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, max(1, self._left - self._size))
                self._patient = self._size < self._left
        else:
            piece = self._buffer[:count]
            if self._left == _UNKNOWN:
                piece = self._read_head(piece)
            self._size += len(piece)
            if self._left == _CHUNKED:
                self._last = (self._last + bytes(piece[-7:]))[-7:]
                return self._last.endswith(b"\r\n0\r\n\r\n") and self._done()
        return 0 <= self._left <= self._size and self._done()

    def _read_head(self, piece: memoryview) -> memoryview:
        self._head += piece
        head, found, rest = self._head.partition(b"\r\n\r\n")
        if not found:
            return memoryview(b"")
        self._status = int(head[9:12])
        fields = head.lower() + b"\r\n"
        _, is_known, length = fields.partition(b"\r\ncontent-length: ")
        if is_known:
            self._left = int(length[: length.index(b"\r")])
            self._wake_with(min(self._left - len(rest), _BUFFER))
        else:
            self._left = _CHUNKED if b"\r\ntransfer-encoding: chunked\r" in fields else _TO_THE_END
        return memoryview(rest)

    def _wake_with(self, least: int) -> None:
        if _DISCARD and least > _HEAD:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
            self._patient = True

    def _hung_up(self) -> bool:
        if self._left != _TO_THE_END:
            raise ConnectionError("the server hung up")
        self.socket.close()
        self._connect()
        return self._done()

    def _done(self) -> bool:
        self.answers.append(Answer(self._status, self._size, self._first, time.perf_counter() - self._began))
        return True


_UNKNOWN, _CHUNKED, _TO_THE_END = -1, -2, -3


def load(port: int, requests: Sequence[bytes], connections: int, expect: int = 200) -> dict[str, float]:
    """Ask everything over so many connections, all from this thread; return rates, and times in ms."""
    buffer = memoryview(bytearray(_BUFFER))
    streams = [_Stream(port, requests[number::connections], buffer) for number in range(connections)]
    poll = selectors.DefaultSelector()
    began = time.perf_counter()
    for stream in streams:
        if stream.next():
            poll.register(stream.socket, selectors.EVENT_READ, stream)
    while poll.get_map():
        for key, _ in poll.select():
            stream = key.data
            if stream.ready():
                is_further = stream.next()
                if not is_further or stream.socket is not key.fileobj:
                    poll.unregister(key.fileobj)
                    if is_further:
                        poll.register(stream.socket, selectors.EVENT_READ, stream)
    seconds = time.perf_counter() - began
    for stream in streams:
        stream.socket.close()
    answers = [one for stream in streams for one in stream.answers]
    wrong = [one.status for one in answers if one.status != expect]
    if wrong:
        raise SystemExit(f"{len(wrong)} of {len(answers)} answers are {wrong[0]}, not {expect}")
    times = sorted(one.total for one in answers)
    return {
        "per_second": len(answers) / seconds,
        "megabytes_per_second": sum(one.size for one in answers) / seconds / 1e6,
        "p50_ms": statistics.median(times) * 1e3,
        "p95_ms": times[int(len(times) * 0.95) - 1 if len(times) > 1 else 0] * 1e3,
        "first_ms": statistics.median(one.first for one in answers) * 1e3,
    }
