"""A small HTTP/1.1 client that costs next to nothing, so that a benchmark measures the server.

Requests are bytes made beforehand; answers are counted, not kept, unless one asks for them.
"""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Answer", "Connection", "load", "request"]

_BUFFER = 1 << 20


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
            piece = self._socket.recv(65_536)
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
            count = self._socket.recv_into(view, min(_BUFFER, length - have))
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


def load(port: int, requests: Sequence[bytes], connections: int, expect: int = 200) -> dict[str, float]:
    """Ask everything over so many connections; return requests and megabytes a second and times in ms."""
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def work(share: Sequence[bytes]) -> None:
        try:
            connection = Connection(port)
            for one in share:
                answers.append(connection.ask(one))
            connection.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(requests[number::connections],)) for number in range(connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if errors:
        raise errors[0]
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
