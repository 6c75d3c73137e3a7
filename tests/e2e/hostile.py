"""What a hostile client does to a whole server, and who watches it meanwhile: a good client, memory, descriptors."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from e2e.server import Server

__all__ = ["GoodClient", "Watch", "connected", "raw", "status_of", "websocket"]

_HANDSHAKE = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_FAULT = re.compile(r"incident|Traceback|panicked")


def raw(server: Server, data: bytes, *, seconds: float = 10.0, most: int = 4096) -> bytes:
    """Send bytes on a connection of their own; return the beginning of what comes back."""
    with connected(server) as sock:
        sock.settimeout(seconds)
        with suppress(OSError):  # it has heard enough
            sock.sendall(data)
        return _received(sock, most)


def _received(sock: socket.socket, most: int) -> bytes:
    answer = b""
    with suppress(OSError):  # closed, or silent
        while len(answer) < most and (more := sock.recv(most)):
            answer += more
            head, separator, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *([0-9]+)", head)
            if separator and length and len(body) >= int(length[1]):
                break
    return answer


def status_of(answer: bytes) -> int:
    """The status of an answer; 0 of a connection that was closed."""
    match = re.match(rb"HTTP/1\.[01] ([0-9]{3}) ", answer)
    return int(match[1]) if match else 0


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    """A connection to the web server."""
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=30) as sock:
        yield sock


def websocket(server: Server, path: str) -> socket.socket:
    """Open a WebSocket by hand."""
    sock = socket.create_connection(("127.0.0.1", server.http_port), timeout=30)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.sendall(_HANDSHAKE.format(path).encode())
    return sock


@dataclass
class GoodClient:
    """Asks the same few things all the time beside the attacks; what comes back must stay what it was."""

    server: Server
    paths: list[tuple[str, str]]
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        with self._client() as client:
            self._right = [self._ask(client, *one) for one in self.paths]
        assert all(status == 200 for status, _ in self._right), self._right
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def p95(self) -> float:
        """In milliseconds."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.95)] * 1000

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.server.http_port}", timeout=60)

    def _run(self) -> None:
        with self._client() as client:
            while not self._stop.wait(0.02):
                for one, right in zip(self.paths, self._right, strict=True):
                    begun = time.monotonic()
                    try:
                        answer: Any = self._ask(client, *one)
                    except httpx.HTTPError as error:
                        answer = repr(error)
                    self.seconds.append(time.monotonic() - begun)
                    if answer != right:
                        self.wrong.append(f"{one[0]}: {answer[0] if isinstance(answer, tuple) else answer}")

    @staticmethod
    def _ask(client: httpx.Client, path: str, accept: str) -> tuple[int, bytes]:
        answer = client.get(path, headers={"Accept": accept})
        boundary = re.search(r'boundary="([^"]+)"', answer.headers.get("content-type", ""))
        body = answer.content
        return answer.status_code, body.replace(boundary[1].encode(), b"") if boundary else body


class Watch:
    """The web processes of a server: who they are, what they hold, what they say."""

    def __init__(self, server: Server) -> None:
        self._log = server.folder / "web.log"
        self._root = server.processes["web"].pid

    def processes(self) -> set[int]:
        """The processes that answer."""
        return set(_descendants(self._root))

    def megabytes(self) -> float:
        """Resident memory of all of them."""
        pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.processes())
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def descriptors(self) -> int:
        """Open files and connections of all of them, but for those of the pool to the database."""
        links = (one for pid in self.processes() for one in Path(f"/proc/{pid}/fd").iterdir())
        return sum("imaging-ai.db" not in target for target in map(_target, links))

    def faults(self) -> list[str]:
        """Lines of the log that tell of a mistake of this server's own."""
        return [line for line in self._log.read_text().splitlines() if self.is_fault(line)]

    @staticmethod
    def is_fault(line: str) -> bool:
        """Whether a line of a log tells of a mistake of the server's own."""
        return _FAULT.search(line) is not None


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""  # closed meanwhile


def _descendants(pid: int) -> Iterator[int]:
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        yield child
        yield from _descendants(child)


@contextmanager
def many(opened: list[socket.socket]) -> Iterator[list[socket.socket]]:
    """Connections that are closed at the end."""
    with ExitStack() as stack:
        yield [stack.enter_context(one) for one in opened]
