"""Reading PDUs from a socket into one buffer, without copying what passes through (PS3.8 section 9.3).

Time-outs are the kernel's (SO_RCVTIMEO), so that a read is one system call; over TLS they are Python's, whose `ssl`
tries again for ever after the kernel's.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time

from imaging_ai.receive.pdu import AbortReason, MalformedPdu

__all__ = ["PduReader", "PeerGone"]

_BUFFER_BYTES = 256 << 10
_HEADER = struct.Struct(">BBI")
_PDV_HEADER = struct.Struct(">IBB")


class PeerGone(Exception):
    """Raised when the peer closed the connection, or was silent for too long."""


class PduReader:
    """Reads a stream of PDUs. Memory does not depend on any length that a peer declares.

    `timeout` bounds the wait for more bytes, and the time a PDU may take once it has begun.
    """

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self._sock = sock
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._deadline = 0.0
        self._timeout = 0.0
        self.set_timeout(timeout)

    def set_timeout(self, seconds: float) -> None:
        """Change how long to wait for the peer, in both directions."""
        self._timeout = seconds
        if isinstance(self._sock, ssl.SSLSocket):
            self._sock.settimeout(seconds)
            return
        interval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)

    def header(self) -> tuple[int, int]:
        """Return type and length of the next PDU."""
        self._deadline = 0.0
        if self._end - self._start < 6:
            self._need(6)
        kind, _, length = _HEADER.unpack_from(self._buffer, self._start)
        self._start += 6
        return kind, length

    def value_header(self, room: int) -> tuple[int, int, int]:
        """Return length of the fragment, context id and control header of the next presentation data value."""
        if room < 6:
            raise MalformedPdu(AbortReason.INVALID_PARAMETER, "a presentation data value is cut short")
        if self._end - self._start < 6:
            self._need(6)
        length, context_id, control = _PDV_HEADER.unpack_from(self._buffer, self._start)
        if length < 2 or length + 4 > room:
            raise MalformedPdu(AbortReason.INVALID_PARAMETER, "a presentation data value does not fit its PDU")
        self._start += 6
        return length - 2, context_id, control

    def take(self, most: int) -> memoryview:
        """Return at least one and at most `most` bytes; valid until the next call."""
        if self._start == self._end:
            self._start = self._end = 0
            self._receive()
        start = self._start
        self._start = min(self._end, start + most)
        return self._view[start : self._start]

    def exactly(self, length: int) -> bytes:
        """Return `length` bytes (small PDUs only)."""
        parts = bytearray()
        while len(parts) < length:
            parts += self.take(length - len(parts))
        return bytes(parts)

    def begun(self) -> None:
        """Note that a PDU has begun, which must not take for ever."""
        self._deadline = time.monotonic() + self._timeout

    def _need(self, length: int) -> None:
        pending = self._end - self._start
        self._view[:pending] = bytes(self._view[self._start : self._end])
        self._start, self._end = 0, pending
        while self._end < length:
            self._receive()

    def _receive(self) -> None:
        try:
            received = self._sock.recv_into(self._view[self._end :])
        except (BlockingIOError, TimeoutError):
            raise PeerGone("nothing came for too long") from None
        except OSError as error:
            raise PeerGone(f"the connection broke ({type(error).__name__})") from None
        if not received:
            raise PeerGone("the connection was closed")
        self._end += received
        if self._deadline and time.monotonic() > self._deadline:
            raise PeerGone("a PDU took too long")
