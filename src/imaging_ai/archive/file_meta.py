"""The beginning of a DICOM file: preamble, prefix and File Meta Information (PS3.10 7.1)."""

from __future__ import annotations

import struct

from imaging_ai.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

__all__ = ["file_meta"]


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source: str = "") -> bytes:
    """Return what goes before a data set; `source` is the AE title that sent it, "" when none did."""
    elements = [
        b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01",
        _uid(0x0002, sop_class_uid),
        _uid(0x0003, sop_instance_uid),
        _uid(0x0010, transfer_syntax_uid),
        _uid(0x0012, IMPLEMENTATION_CLASS_UID),
        _text(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
    ]
    if source:
        elements.append(_text(0x0016, b"AE", source))
    group = b"".join(elements)
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(group)) + group


def _uid(element: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, b"UI", len(value)) + value


def _text(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    value += b" " * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
