"""A requestor on a bare socket that sends any bytes whatever as a data set (PS3.7 9.3.1, PS3.8 9.3)."""

from __future__ import annotations

import socket
import ssl
import struct
from types import TracebackType

__all__ = ["RawAssociation", "read_pdu"]

_RELEASE = struct.pack(">BBII", 5, 0, 4, 0)


class RawAssociation:
    """An association with one presentation context, over TLS with `tls`. `store` answers status and Error Comment."""

    def __init__(
        self,
        port: int,
        sop_class_uid: str,
        transfer_syntax_uid: str,
        calling_ae_title: str = "RAW",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.sop_class_uid = sop_class_uid
        self.sock = socket.create_connection(("127.0.0.1", port), 30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock)
        self.sock.sendall(_request(sop_class_uid, transfer_syntax_uid, calling_ae_title))
        assert read_pdu(self.sock)[0] == 2, "the association is accepted"

    def store(self, sop_instance_uid: str, data: bytes, sop_class_uid: str = "") -> tuple[int, str]:
        """C-STORE a data set."""
        self.sock.sendall(self.command(sop_instance_uid, sop_class_uid) + fragments(data))
        kind, answer = read_pdu(self.sock)
        assert kind == 4, f"PDU {kind} instead of an answer"
        values = _elements(answer[6:])
        return int.from_bytes(values[0x0900], "little"), values.get(0x0902, b"").decode("ascii").strip()

    def command(self, sop_instance_uid: str, sop_class_uid: str = "") -> bytes:
        """The C-STORE-RQ without its data set."""
        values = {
            0x0002: (sop_class_uid or self.sop_class_uid).encode(),
            0x0100: b"\x01\0",
            0x0110: b"\x01\0",
            0x0700: b"\0\0",
            0x0800: b"\0\0",
            0x1000: sop_instance_uid.encode(),
        }
        body = b"".join(_element(number, value) for number, value in values.items())
        return fragments(_element(0, struct.pack("<I", len(body))) + body, control=1)

    def release(self) -> None:
        """Say goodbye properly."""
        self.sock.sendall(_RELEASE)
        assert read_pdu(self.sock)[0] == 6

    def __enter__(self) -> RawAssociation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None and self.sock.fileno() >= 0:
            self.release()
        self.sock.close()


def fragments(data: bytes, control: int = 0) -> bytes:
    """P-DATA-TF PDUs with a whole message part."""
    parts = [data[start : start + 100_000] for start in range(0, max(len(data), 1), 100_000)]
    flags = [control | 2 * (number == len(parts) - 1) for number in range(len(parts))]
    return b"".join(
        struct.pack(">BBIIBB", 4, 0, len(part) + 6, len(part) + 2, 1, flag) + part
        for part, flag in zip(parts, flags, strict=True)
    )


def read_pdu(sock: socket.socket) -> tuple[int, bytes]:
    """The next PDU: its type, and what follows the six bytes of its header."""
    header = _read(sock, 6)
    return header[0], _read(sock, int.from_bytes(header[2:6], "big"))


def _read(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = sock.recv(length - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def _request(sop_class_uid: str, transfer_syntax_uid: str, calling: str) -> bytes:
    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(value)) + value

    context = bytes((1, 0, 0, 0)) + item(0x30, sop_class_uid.encode()) + item(0x40, transfer_syntax_uid.encode())
    body = struct.pack(">HH", 1, 0) + b"IMAGINGAI".ljust(16) + calling.encode().ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context)
    body += item(0x50, item(0x51, struct.pack(">I", 131072)) + item(0x52, b"1.2.3"))
    return struct.pack(">BBI", 1, 0, len(body)) + body


def _element(number: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, number, len(value)) + value


def _elements(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(data):
        _, number, length = struct.unpack_from("<HHI", data, at)
        found[number] = data[at + 8 : at + 8 + length]
        at += 8 + length
    return found
