"""What a hostile client does to a web server, by hand."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from e2e.server import Server

__all__ = ["connected", "many", "raw", "status_of", "websocket"]

_HANDSHAKE = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


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


@contextmanager
def many(opened: list[socket.socket]) -> Iterator[list[socket.socket]]:
    """Connections that are closed at the end."""
    with ExitStack() as stack:
        yield [stack.enter_context(one) for one in opened]
