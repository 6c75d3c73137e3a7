"""Reading PDUs from a socket into one buffer, without copying what passes through (PS3.8 section 9.3).

Time-outs are the kernel's (SO_RCVTIMEO), so that a read is one system call. Over TLS they are Python's, whose `ssl`
would try again for ever after the kernel's, and whoever waits looks up now and then: half a socket is none for TLS.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
import time

from imaging_ai.receive.pdu import AbortReason, MalformedPdu

__all__ = ["PduReader", "PeerGone", "reader_of"]

_log = logging.getLogger(__name__)
_BUFFER_BYTES = 256 << 10
_LOOK_EVERY_MS = 250
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
        interval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)

    def interrupt(self) -> None:
        """Have another thread that waits here give up; the peer can still be written to."""
        try:
            self._sock.shutdown(socket.SHUT_RD)
        except OSError:
            _log.debug("the association ended by itself")

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
            received = self._fill(self._view[self._end :])
        except (BlockingIOError, TimeoutError):
            raise PeerGone("nothing came for too long") from None
        except OSError as error:
            raise PeerGone(f"the connection broke ({type(error).__name__})") from None
        if not received:
            raise PeerGone("the connection was closed")
        self._end += received
        if self._deadline and time.monotonic() > self._deadline:
            raise PeerGone("a PDU took too long")

    def _fill(self, view: memoryview) -> int:
        return self._sock.recv_into(view)


class _TlsReader(PduReader):
    """The same over TLS."""

    def __init__(self, sock: ssl.SSLSocket, timeout: float) -> None:
        self._tls = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._interrupted = False
        super().__init__(sock, timeout)

    def set_timeout(self, seconds: float) -> None:
        self._timeout = seconds
        self._tls.settimeout(seconds)

    def interrupt(self) -> None:
        self._interrupted = True

    def _fill(self, view: memoryview) -> int:
        end = time.monotonic() + self._timeout
        while not self._interrupted:
            if self._tls.pending() or self._poll.poll(_LOOK_EVERY_MS):
                return self._tls.recv_into(view)
            if time.monotonic() > end:
                raise TimeoutError
        raise PeerGone("this server stops")


def reader_of(sock: socket.socket, timeout: float) -> PduReader:
    """Return a reader of a connection, with TLS or without."""
    return _TlsReader(sock, timeout) if isinstance(sock, ssl.SSLSocket) else PduReader(sock, timeout)
