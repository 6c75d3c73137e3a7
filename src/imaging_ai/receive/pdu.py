"""The PDUs that open and close an association, read and written (PS3.8 section 9.3, PS3.7 annex D)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from imaging_ai.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

__all__ = [
    "RELEASE_RESPONSE",
    "AbortReason",
    "AssociateRequest",
    "MalformedPdu",
    "PduType",
    "ProposedContext",
    "abort",
    "accept",
    "parse_request",
    "reject",
]

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_FIXED_BYTES = 68


class PduType:
    """PDU types (PS3.8 9.3)."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class AbortReason:
    """Reasons of the A-ABORT by the service provider (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class MalformedPdu(Exception):
    """Raised when a peer breaks the protocol; the association is aborted with `reason`."""

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context as proposed."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """What an A-ASSOCIATE-RQ says. `max_pdu_bytes` 0 means that the peer takes PDUs of any length."""

    protocol_version: int
    called_ae_title: str
    calling_ae_title: str
    titles: bytes
    application_context: str
    contexts: tuple[ProposedContext, ...]
    max_pdu_bytes: int

    @property
    def is_dicom(self) -> bool:
        """Whether the application context is the one of DICOM."""
        return self.application_context == APPLICATION_CONTEXT


def parse_request(body: bytes) -> AssociateRequest:
    """Read the A-ASSOCIATE-RQ that follows the six bytes of PDU header.

    Raises
    ------
    MalformedPdu
        If its items do not fit into it.
    """
    if len(body) < _FIXED_BYTES:
        raise MalformedPdu(AbortReason.INVALID_PARAMETER, "A-ASSOCIATE-RQ is too short")
    (version,) = struct.unpack_from(">H", body)
    application_context, contexts, max_pdu_bytes = "", [], 0
    for kind, item in _items(memoryview(body)[_FIXED_BYTES:]):
        if kind == 0x10:
            application_context = _uid(item)
        elif kind == 0x20:
            contexts.append(_parse_context(item))
        elif kind == 0x50:
            for sub_kind, sub_item in _items(item):
                if sub_kind == 0x51 and len(sub_item) == 4:
                    (max_pdu_bytes,) = struct.unpack(">I", sub_item)
    return AssociateRequest(
        protocol_version=version,
        called_ae_title=_title(body[4:20]),
        calling_ae_title=_title(body[20:36]),
        titles=body[4:36],
        application_context=application_context,
        contexts=tuple(contexts),
        max_pdu_bytes=max_pdu_bytes,
    )


def _parse_context(item: memoryview) -> ProposedContext:
    if len(item) < 4:
        raise MalformedPdu(AbortReason.INVALID_PARAMETER, "a presentation context is too short")
    abstract_syntax, transfer_syntaxes = "", []
    for kind, value in _items(item[4:]):
        if kind == 0x30:
            abstract_syntax = _uid(value)
        elif kind == 0x40:
            transfer_syntaxes.append(_uid(value))
    return ProposedContext(item[0], abstract_syntax, tuple(transfer_syntaxes))


def _items(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    position, end = 0, len(view)
    while position < end:
        if position + 4 > end:
            raise MalformedPdu(AbortReason.INVALID_PARAMETER, "an item is cut short")
        kind, _, length = struct.unpack_from(">BBH", view, position)
        position += 4 + length
        if position > end:
            raise MalformedPdu(AbortReason.INVALID_PARAMETER, "an item reaches past the end of its PDU")
        yield kind, view[position - length : position]


def _uid(value: memoryview) -> str:
    return bytes(value).rstrip(b"\0 ").decode("ascii", "replace")


def _title(value: bytes) -> str:
    """Read an AE title; what cannot be in one must not reach a log or a database as it is."""
    title = value.strip(b" \0").decode("ascii", "replace")
    return "".join(character if character.isprintable() else "?" for character in title)


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def accept(request: AssociateRequest, results: Mapping[int, tuple[int, str]], max_pdu_bytes: int) -> bytes:
    """Write the A-ASSOCIATE-AC; `results` are, by context id, result and transfer syntax (PS3.8 9.3.3.2)."""
    contexts = b"".join(
        _item(0x21, bytes((context_id, 0, result, 0)) + _item(0x40, transfer_syntax.encode("ascii", "replace")))
        for context_id, (result, transfer_syntax) in results.items()
    )
    user = (
        _item(0x51, struct.pack(">I", max_pdu_bytes))
        + _item(0x52, IMPLEMENTATION_CLASS_UID.encode())
        + _item(0x55, IMPLEMENTATION_VERSION_NAME.encode())
    )
    body = (
        struct.pack(">HH", 1, 0)
        + request.titles
        + bytes(32)
        + _item(0x10, APPLICATION_CONTEXT.encode())
        + contexts
        + _item(0x50, user)
    )
    return struct.pack(">BBI", PduType.ASSOCIATE_AC, 0, len(body)) + body


def reject(result: int, source: int, reason: int) -> bytes:
    """Write an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return struct.pack(">BBIBBBB", PduType.ASSOCIATE_RJ, 0, 4, 0, result, source, reason)


def abort(reason: int, *, by_provider: bool = True) -> bytes:
    """Write an A-ABORT (PS3.8 9.3.8)."""
    return struct.pack(">BBIBBBB", PduType.ABORT, 0, 4, 0, 0, 2 if by_provider else 0, reason)


RELEASE_RESPONSE = struct.pack(">BBII", PduType.RELEASE_RP, 0, 4, 0)
