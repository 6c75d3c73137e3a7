"""Making instances of metadata and bulk data that came in parts of their own (PS3.18 8.6.1, 10.5.1.4).

A BulkDataURI and the Content-Location of a part are the same when they are the same address below the request's.
Several parts of one location are frames in their order. What a compressed frame says of itself may be missing in the
metadata (the Image Pixel Description Macro, 10.5.2), and is taken from there then.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from imaging_ai.archive.blobs import BlobWriter
from imaging_ai.archive.file_meta import file_meta
from imaging_ai.archive.from_json import Bulk, Elsewhere, Piece, encode_elements, length_of
from imaging_ai.archive.spool import Spool
from imaging_ai.core.contexts import EXPLICIT_LITTLE_ENDIAN
from imaging_ai.core.identity import is_uid
from imaging_ai.core.instance import InstanceHeader
from imaging_ai.errors import InputError, NotDicom, TooLarge
from imaging_ai.serve.dicomweb.codestreams import (
    HEAD_BYTES,
    Codestream,
    is_video,
    read_codestream,
    transfer_syntax_of,
)
from imaging_ai.serve.dicomweb.media import MediaType

__all__ = ["Assembler"]

_PIXEL_DATA = "7FE00010"
#: SOP Class, SOP Instance, Study Instance, Series Instance.
_UIDS = ("00080016", "00080018", "0020000D", "0020000E")

_Elements = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Part:
    media_type: MediaType
    offset: int
    length: int

    @property
    def bytes(self) -> Elsewhere:
        return Elsewhere(self.offset, self.length)


@dataclass(frozen=True, slots=True)
class _Pixels:
    """The pixel data of an instance: its parts, and how they are encoded ("" natively)."""

    parts: Sequence[_Part]
    transfer_syntax_uid: str
    codestream: Codestream | None


class Assembler:
    """The bulk data of one request, and the instances that are made of it."""

    def __init__(self, spool: Spool, base_url: str) -> None:
        self._spool, self._base_url = spool, base_url
        self._parts: dict[str, list[_Part]] = {}
        self._claimed: set[str] = set()
        self._begun: tuple[str, MediaType, int] = "", MediaType("*/*"), 0

    # -- bulk data

    def begin(self, location: str, media_type: MediaType) -> None:
        """Bulk data for `location` begins to be spooled."""
        self._begun = location, media_type, self._spool.size

    @property
    def size(self) -> int:
        """How much of it there is so far."""
        return self._spool.size - self._begun[2]

    def end(self) -> None:
        """It is whole."""
        location, media_type, offset = self._begun
        part = _Part(media_type, offset, self.size)
        self._parts.setdefault(self._address(location), []).append(part)

    def unclaimed(self) -> list[str]:
        """Return the locations that no metadata named."""
        return [address for address in self._parts if address not in self._claimed]

    # -- instances

    def assemble(self, data_set: object, writer: BlobWriter, most_bytes: int) -> None:
        """Write the DICOM file of one data set, decoded from DICOM JSON.

        Raises
        ------
        InputError
            If no instance can be made of it: something is not as PS3.18 F has it, or bulk data is missing.
        """
        elements = _elements(data_set)
        pixels = self._pixels(elements)
        if pixels is not None and pixels.codestream is not None and pixels.transfer_syntax_uid:
            elements = {**pixels.codestream.description(), **elements}
        pieces = encode_elements(elements, lambda path, vr, uri: self._bulk(path, vr, uri, elements, pixels))
        sop_class_uid, sop_instance_uid = _text(elements, "00080016"), _text(elements, "00080018")
        if not (is_uid(sop_class_uid) and is_uid(sop_instance_uid)):
            raise NotDicom("the metadata has no valid SOP Class UID and SOP Instance UID")
        transfer_syntax_uid = pixels.transfer_syntax_uid if pixels else ""
        meta = file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid or EXPLICIT_LITTLE_ENDIAN)
        if length_of(pieces) + len(meta) > most_bytes:
            raise TooLarge(f"the instance is larger than the {most_bytes} bytes that are allowed")
        writer.write(meta)
        for piece in pieces:
            for chunk in [piece] if isinstance(piece, bytes) else self._spool.read(piece.offset, piece.length):
                writer.write(chunk)

    def header_of(self, data_set: object) -> InstanceHeader | None:
        """Return who an instance is of which no file could be made; None when that cannot be said either."""
        try:
            elements = _elements(data_set)
        except NotDicom:
            return None
        sop_class_uid, sop_instance_uid, study, series = (_text(elements, tag) for tag in _UIDS)
        if not (is_uid(sop_class_uid) and is_uid(sop_instance_uid)):
            return None
        return InstanceHeader(sop_instance_uid, sop_class_uid, "", study, series)

    def _address(self, location: str) -> str:
        try:
            return urljoin(f"{self._base_url}/", location)
        except ValueError:
            return location

    def _found(self, uri: str, path: str) -> list[_Part]:
        address = self._address(uri)
        if address not in self._parts:
            raise NotDicom(f"the bulk data of {path} is missing")
        self._claimed.add(address)
        return self._parts[address]

    def _pixels(self, elements: _Elements) -> _Pixels | None:
        element = elements.get(_PIXEL_DATA)
        uri = element.get("BulkDataURI") if isinstance(element, Mapping) else None
        if not isinstance(uri, str):
            return None
        parts = self._found(uri, _PIXEL_DATA)
        media_type = parts[0].media_type
        head = b"".join(self._spool.read(parts[0].offset, min(parts[0].length, HEAD_BYTES)))
        codestream = read_codestream(head, media_type)
        return _Pixels(parts, transfer_syntax_of(media_type, codestream), codestream)

    def _bulk(self, path: str, vr: str, uri: str, elements: _Elements, pixels: _Pixels | None) -> Bulk:
        if path != _PIXEL_DATA or pixels is None:
            return Bulk([part.bytes for part in self._found(uri, path)])
        if not pixels.transfer_syntax_uid:
            bits = _number(elements, "00280100", 16)
            return Bulk(
                [part.bytes for part in pixels.parts], vr if vr in ("OB", "OW") else "OB" if bits <= 8 else "OW"
            )
        frames = _number(elements, "00280008", 1)
        if len(pixels.parts) != (1 if is_video(pixels.transfer_syntax_uid) else frames):
            raise NotDicom(
                f"the pixel data of {frames} frames came in {len(pixels.parts)} parts, not one for each frame"
            )
        return Bulk(_encapsulated(pixels.parts), "OB", encapsulated=True)


def _encapsulated(parts: Sequence[_Part]) -> list[Piece]:
    """One fragment for each part, after the Basic Offset Table (PS3.5 A.4)."""
    offsets, position = [], 0
    for part in parts:
        if part.length >= 0xFFFFFFFE:
            raise InputError("a frame is longer than 4 GiB, which a fragment cannot be")
        offsets.append(position)
        position += 8 + part.length + part.length % 2
    table = struct.pack(f"<{len(offsets)}I", *offsets) if position <= 0xFFFFFFFF else b""
    pieces: list[Piece] = [struct.pack("<HHI", 0xFFFE, 0xE000, len(table)), table]
    for part in parts:
        header = struct.pack("<HHI", 0xFFFE, 0xE000, part.length + part.length % 2)
        pieces += [header, part.bytes, b"\0" * (part.length % 2)]
    return [*pieces, struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)]


def _elements(data_set: object) -> dict[str, Any]:
    if not isinstance(data_set, Mapping):
        raise NotDicom("the metadata of an instance is not a JSON object")
    return {str(tag).upper(): element for tag, element in data_set.items()}


def _text(elements: _Elements, tag: str) -> str:
    element = elements.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return str(values[0]).strip(" \0") if isinstance(values, list) and values else ""


def _number(elements: _Elements, tag: str, default: int) -> int:
    text = _text(elements, tag)
    return int(text) if text.isdecimal() and len(text) < 10 else default
