"""DIMSE commands as bytes: the few that a Storage SCP reads and writes (PS3.7 section 9.3 and annex E)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from imaging_ai.receive.pdu import AbortReason, MalformedPdu, PduType

__all__ = ["C_CANCEL", "C_ECHO", "C_STORE", "Command", "parse_command", "response", "response_pdus"]

C_STORE, C_ECHO, C_CANCEL = 0x0001, 0x0030, 0x0FFF
_NO_DATA_SET = 0x0101
_COMMENT_BYTES = 64
_ELEMENT = struct.Struct("<HHI")
_COMMAND_LAST = 0x03


@dataclass(frozen=True, slots=True)
class Command:
    """A request. UIDs are as the peer sent them, without padding."""

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str


def parse_command(data: bytes) -> Command:
    """Read a command set (implicit little endian).

    Raises
    ------
    MalformedPdu
        If it is damaged or lacks what every request has.
    """
    values: dict[int, bytes] = {}
    position, end = 0, len(data)
    while position + 8 <= end:
        group, element, length = _ELEMENT.unpack_from(data, position)
        position += 8 + length
        if group != 0 or position > end:
            raise MalformedPdu(AbortReason.INVALID_PARAMETER, "the command set is damaged")
        values[element] = bytes(data[position - length : position])
    field, message_id = _short(values.get(0x0100)), _short(values.get(0x0110))
    if field is None or message_id is None:
        raise MalformedPdu(AbortReason.INVALID_PARAMETER, "the command set lacks its field or message id")
    return Command(
        field=field,
        message_id=message_id,
        has_data_set=_short(values.get(0x0800), _NO_DATA_SET) != _NO_DATA_SET,
        sop_class_uid=_uid(values.get(0x0002, values.get(0x0003, b""))),
        sop_instance_uid=_uid(values.get(0x1000, values.get(0x1001, b""))),
    )


def response(command: Command, status: int, comment: str = "") -> bytes:
    """Write the command set of the answer; `comment` becomes the Error Comment of a failure."""
    body = b"".join(
        (
            _element(0x0002, _padded_uid(command.sop_class_uid)) if command.sop_class_uid else b"",
            _element(0x0100, struct.pack("<H", command.field | 0x8000)),
            _element(0x0120, struct.pack("<H", command.message_id)),
            _element(0x0800, struct.pack("<H", _NO_DATA_SET)),
            _element(0x0900, struct.pack("<H", status)),
            _element(0x0902, _padded_text(comment)) if comment else b"",
            _element(0x1000, _padded_uid(command.sop_instance_uid)) if command.sop_instance_uid else b"",
        )
    )
    return _element(0x0000, struct.pack("<I", len(body))) + body


def response_pdus(context_id: int, command_set: bytes, max_pdu_bytes: int) -> bytes:
    """Put a command set into as many P-DATA-TF PDUs as the peer's limit asks for (PS3.8 annex D.1)."""
    room = max(max_pdu_bytes - 6, 2) if max_pdu_bytes else len(command_set)
    pdus = []
    for start in range(0, len(command_set), room):
        part = command_set[start : start + room]
        control = _COMMAND_LAST if start + room >= len(command_set) else 0x01
        pdus.append(struct.pack(">BBIIBB", PduType.P_DATA, 0, len(part) + 6, len(part) + 2, context_id, control) + part)
    return b"".join(pdus)


def _short(value: bytes | None, default: int | None = None) -> int | None:
    return default if value is None or len(value) != 2 else int.from_bytes(value, "little")


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value


def _padded_uid(uid: str) -> bytes:
    value = uid.encode("ascii", "replace")
    return value + b"\0" * (len(value) % 2)


def _padded_text(text: str) -> bytes:
    value = text.encode("ascii", "replace")[:_COMMENT_BYTES]
    return value + b" " * (len(value) % 2)
