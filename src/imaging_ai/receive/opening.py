"""How a connection begins and ends: the TLS handshake, the A-ASSOCIATE-RQ, and a close that lets the peer read on.

All of the beginning has the ARTIM time (PS3.8 9.1.5), so a peer that connects and never speaks holds nothing for long.
"""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import time
from contextlib import suppress

from imaging_ai.receive.pdu import AbortReason, MalformedPdu, PduType

__all__ = ["close", "put_back", "read_request", "secure", "take_in"]

_log = logging.getLogger(__name__)
_MAX_REQUEST_BYTES = 1 << 20
_LINGER_SECONDS = 1.0


def secure(sock: socket.socket, context: ssl.SSLContext, deadline: float) -> ssl.SSLSocket:
    """Shake hands before `deadline` (of the monotonic clock); `sock` is the returned connection's from then on.

    Raises
    ------
    OSError
        If that fails (`ssl.SSLError`, with its `reason`) or takes too long.
    """
    context.sslsocket_class = _RewoundTls
    connection = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    try:
        connection.settimeout(_left(deadline))
        connection.do_handshake()
    except BaseException:
        connection.close()
        raise
    return connection


def read_request(sock: socket.socket, deadline: float) -> bytes:
    """Read an A-ASSOCIATE-RQ before `deadline`. Of a plain connection its last byte stays in the socket (`take_in`).

    Raises
    ------
    MalformedPdu
        If it is another PDU, or none.
    OSError
        If the connection breaks, or it takes too long.
    """
    header = _receive(sock, 6, deadline)
    kind, _, length = struct.unpack(">BBI", header)
    if kind != PduType.ASSOCIATE_RQ:
        is_known = PduType.ASSOCIATE_AC <= kind <= PduType.ABORT
        reason = AbortReason.UNEXPECTED_PDU if is_known else AbortReason.UNRECOGNIZED_PDU
        raise MalformedPdu(reason, "no A-ASSOCIATE-RQ")
    if not 68 <= length <= _MAX_REQUEST_BYTES:
        raise MalformedPdu(AbortReason.INVALID_PARAMETER, f"an A-ASSOCIATE-RQ of {length} bytes")
    body = _receive(sock, length - 1, deadline)
    last = _receive(sock, 1, deadline, 0 if isinstance(sock, ssl.SSLSocket) else socket.MSG_PEEK)
    sock.settimeout(None)
    return header + body + last


def take_in(sock: socket.socket) -> None:
    """Take what `read_request` left."""
    if not isinstance(sock, ssl.SSLSocket):
        sock.recv(1)


def put_back(sock: socket.socket, pdu: bytes, idle_seconds: float) -> socket.socket:
    """Return the connection for pynetdicom, that is with the request still to be read, and readable."""
    if isinstance(sock, _RewoundTls):
        sock.unread = pdu
        sock.settimeout(idle_seconds)
        return sock
    rewound = _Rewound(sock, pdu[:-1])
    rewound.settimeout(idle_seconds)
    return rewound


def close(sock: socket.socket) -> None:
    """Wait a moment for the peer to close first, so that what we wrote last reaches it (PS3.8 9.2, Sta13)."""
    try:
        sock.settimeout(_LINGER_SECONDS)
        while sock.recv(4096):
            continue
    except OSError:
        _log.debug("the peer did not close the connection")
    if isinstance(sock, ssl.SSLSocket):
        with suppress(OSError, ValueError):  # it said goodbye in its way, or not at all
            sock.unwrap()
    sock.close()


class _Rewound(socket.socket):
    """A connection whose first bytes were read already, all but one: it is readable, and gives them again."""

    def __init__(self, sock: socket.socket, unread: bytes) -> None:
        super().__init__(fileno=sock.detach())
        self._unread = unread

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not self._unread:
            return super().recv(size, flags)
        head, self._unread = self._unread[:size], self._unread[size:]
        return head


class _RewoundTls(ssl.SSLSocket):
    """The same over TLS, where a socket that holds bytes of its own says so (`pending`)."""

    unread = b""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        if not self.unread:
            return super().recv(buflen, flags)
        head, self.unread = self.unread[:buflen], self.unread[buflen:]
        return head

    def pending(self) -> int:
        return len(self.unread) + super().pending()


def _receive(sock: socket.socket, length: int, deadline: float, flags: int = 0) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        sock.settimeout(_left(deadline))
        part = sock.recv(length - len(parts), flags)
        if not part:
            raise ConnectionResetError
        parts += part
    return bytes(parts)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)
