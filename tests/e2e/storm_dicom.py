"""Malformed DICOM for the receiver, each from a number: association requests, PDUs, command sets, data sets."""

from __future__ import annotations

import random
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType

from e2e.raw import fragments, read_pdu
from e2e.storm_http import damage
from fuzz.seeds import SEEDS

__all__ = ["DICOM_KINDS", "Line", "associate"]

_ABORT = struct.pack(">BBII", 7, 0, 4, 0)
_RELEASE = struct.pack(">BBII", 5, 0, 4, 0)
_ANSWERS = {2: "accepted", 3: "rejected", 6: "released", 7: "aborted"}
_REQUEST = SEEDS["associate"]()[0]
_COMMANDS, _MESSAGES, _DATA = SEEDS["command"](), SEEDS["association"](), SEEDS["bare_data_set"]()

#: Makes a connection: to the plain port, or the one for TLS.
Connect = Callable[[], socket.socket]


def associate(calling: str = "STORM") -> bytes:
    """An A-ASSOCIATE-RQ for CT Image Storage with contexts 1 and 3, in the two uncompressed Little Endian syntaxes."""
    body = bytearray(_REQUEST)
    body[20:36] = calling.ljust(16).encode()
    return struct.pack(">BBI", 1, 0, len(body)) + body


class Line:
    """The connection of one hostile client, kept as long as the server bears it."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._sock: socket.socket | None = None

    def associated(self) -> socket.socket | None:
        """A connection with an association; None where it was refused."""
        if self._sock is None:
            sock = self._connect()
            sock.sendall(associate())
            if _heard(sock) != "accepted":
                sock.close()
                return None
            self._sock = sock
        return self._sock

    def say(self, data: bytes) -> str:
        """Send bytes over the association, and tell what comes back."""
        if (sock := self.associated()) is None:
            return "rejected"
        with suppress(OSError):  # it has heard enough
            sock.sendall(data)
        answer = _heard(sock)
        if not answer.startswith("status"):
            self.close()
        return answer

    def once(self, data: bytes) -> str:
        """Send bytes on a connection of their own."""
        try:
            with self._connect() as sock:
                with suppress(OSError):
                    sock.sendall(data)
                answer = _heard(sock)
                if answer == "accepted":
                    sock.sendall(_ABORT)
                return answer
        except ssl.SSLError:
            return "closed"

    def close(self) -> None:
        """Hang up without a word."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def _heard(sock: socket.socket) -> str:
    try:
        kind, body = read_pdu(sock)
    except TimeoutError:
        return "waits for more"
    except OSError:
        return "closed"
    if kind == 4:
        at = body.find(b"\0\0\0\x09\2\0\0\0")
        return f"status {int.from_bytes(body[at + 8 : at + 10], 'little'):#06x}" if at >= 0 else "status ?"
    return _ANSWERS.get(kind, f"PDU {kind}")


def _request(rng: random.Random, line: Line) -> str:
    body = damage(rng, _REQUEST, 3)
    length = len(body) if rng.random() < 0.8 else rng.choice((0, 67, 1 << 20, (1 << 32) - 1, len(body) - 1))
    return line.once(struct.pack(">BBI", 1, 0, length) + body)


def _pdus(rng: random.Random, line: Line) -> str:
    answer = line.say(damage(rng, rng.choice(_MESSAGES)) + _RELEASE)
    line.close()
    return answer


def _command(rng: random.Random, line: Line) -> str:
    return line.say(fragments(damage(rng, rng.choice(_COMMANDS), 2), control=1))


def _data_set(rng: random.Random, line: Line) -> str:
    data = rng.choice(_DATA[:2])[1:]
    uid = f"1.2.{rng.randrange(10, 100)}.4"[-7:].encode()
    if rng.random() < 0.8:
        data = damage(rng, data)
    command = _COMMANDS[0] if rng.random() < 0.8 else _COMMANDS[0].replace(b"1.2.3.4", uid)
    return line.say(fragments(command, control=1) + fragments(data))


def _other_protocol(rng: random.Random, line: Line) -> str:
    words = (
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        rng.randbytes(rng.randint(1, 500)),
        _RELEASE,
        _ABORT,
        struct.pack(">BBI", 4, 0, 0xFFFFFFF0) + bytes(80),
    )
    return line.once(rng.choice(words))


def _hang_up(_rng: random.Random, line: Line) -> str:
    """An association that is opened, and dropped at once with a reset."""
    if (sock := line.associated()) is None:
        return "rejected"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()
    return "accepted"


#: How each kind is done, and how often there is one among a thousand over DICOM.
DICOM_KINDS: Mapping[str, tuple[Callable[[random.Random, Line], str], int]] = MappingProxyType(
    {
        "association requests": (_request, 250),
        "PDUs": (_pdus, 200),
        "command sets": (_command, 250),
        "data sets": (_data_set, 180),
        "other protocols": (_other_protocol, 70),
        "associations dropped": (_hang_up, 50),
    }
)
