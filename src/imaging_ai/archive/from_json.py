"""The data set of a DICOM JSON object (PS3.18 F) in Explicit VR Little Endian (PS3.5 7.1.2, A.2).

Strict, and a walk over values that were decoded before: nothing is guessed, nothing nests deeper than the gate lets
through, and an error names the tag and never the value. Bulk data stays where it is: the caller says for each
BulkDataURI which pieces its value is made of, and gets the whole data set as pieces.

JSON is Unicode. So text beyond ASCII makes the Specific Character Set ISO_IR 192, whatever the metadata claim.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.valuerep import format_number_as_ds

from imaging_ai.errors import InputError, NotDicom

__all__ = ["Bulk", "Elsewhere", "Piece", "encode_elements", "length_of"]

_MAX_DEPTH = 32
_UNDEFINED = 0xFFFFFFFF
_TAG = re.compile(r"[0-9A-Fa-f]{8}\Z")
_SPECIFIC_CHARACTER_SET = "00080005"
_TEXT = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_LONG = _BINARY | {"SQ", "SV", "UC", "UR", "UT", "UV"}
_VRS = _TEXT | _BINARY | _NUMBERS.keys() | {"AT", "DS", "IS", "PN", "SQ"}
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Bytes that the caller has."""

    offset: int
    length: int


Piece = bytes | Elsewhere


@dataclass(frozen=True, slots=True)
class Bulk:
    """The value of an element that the JSON names by URI. `vr` "" leaves that of the JSON.

    `encapsulated` pieces are a whole value of undefined length, sequence delimiter included (PS3.5 A.4).
    """

    pieces: Sequence[Piece]
    vr: str = ""
    encapsulated: bool = False


#: Says what is at a URI: given the tags and item numbers that lead to the element ("54000100/1/54001010"), its VR, and
#: the URI. Raises `InputError` when there is nothing.
Resolve = Callable[[str, str, str], Bulk]


def encode_elements(elements: Mapping[str, Any], resolve: Resolve) -> list[Piece]:
    """Return the data set, without File Meta Information and group lengths.

    Raises
    ------
    NotDicom
        If something in it is not as PS3.18 F has it.
    """
    encoder = _Encoder(resolve)
    pieces = encoder.data_set(elements, "", 0)
    if encoder.is_ascii:
        return pieces
    unicode = dict(elements) | {_SPECIFIC_CHARACTER_SET: {"vr": "CS", "Value": ["ISO_IR 192"]}}
    return _Encoder(resolve).data_set(unicode, "", 0)


def length_of(pieces: Sequence[Piece]) -> int:
    """Return how many bytes the pieces are together."""
    return sum(len(piece) if isinstance(piece, bytes) else piece.length for piece in pieces)


class _Encoder:
    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self.is_ascii = True

    def data_set(self, elements: Any, path: str, depth: int) -> list[Piece]:
        if not isinstance(elements, Mapping):
            raise NotDicom(f"{path or 'the data set'} is not a JSON object")
        if depth > _MAX_DEPTH:
            raise NotDicom(f"sequences are nested deeper than {_MAX_DEPTH}")
        pieces: list[Piece] = []
        for tag in sorted(elements, key=str.upper):
            if not _TAG.match(tag):
                raise NotDicom(f"a name in {path or 'the data set'} is not a tag of 8 hexadecimal digits")
            if tag[:4] in ("0000", "0002") or tag[4:] == "0000" or (depth and tag == _SPECIFIC_CHARACTER_SET):
                continue
            pieces += self._element(tag.upper(), elements[tag], f"{path}{tag.upper()}", depth)
        return _merged(pieces)

    def _element(self, tag: str, element: Any, path: str, depth: int) -> list[Piece]:
        vr = element.get("vr") if isinstance(element, Mapping) else None
        if not isinstance(vr, str) or vr not in _VRS:
            raise NotDicom(f"{path} has no value representation")
        uri = element.get("BulkDataURI")
        if uri is not None:
            if not isinstance(uri, str) or vr == "SQ":
                raise NotDicom(f"{path} has a BulkDataURI that cannot be one")
            bulk = self._resolve(path, vr, uri)
            return _with_header(tag, bulk.vr or vr, bulk.pieces, path, encapsulated=bulk.encapsulated)
        if vr == "SQ":
            return _with_header(tag, vr, self._items(element.get("Value"), path, depth), path)
        return _with_header(tag, vr, [self._value(vr, element, path)], path)

    def _items(self, items: Any, path: str, depth: int) -> list[Piece]:
        pieces: list[Piece] = []
        for number, item in enumerate(_list(items, path), 1):
            inside = self.data_set({} if item is None else item, f"{path}/{number}/", depth + 1)
            pieces += [struct.pack("<HHI", 0xFFFE, 0xE000, _short_enough(length_of(inside), path)), *inside]
        return pieces

    def _value(self, vr: str, element: Mapping[str, Any], path: str) -> bytes:
        try:
            if "InlineBinary" in element:
                return base64.b64decode(element["InlineBinary"], validate=True)
            values = _list(element.get("Value"), path)
            if vr in _NUMBERS:
                return struct.pack(f"<{len(values)}{_NUMBERS[vr]}", *(_number(vr, value) for value in values))
            if vr == "AT":
                return b"".join(struct.pack("<HH", int(value[:4], 16), int(value[4:], 16)) for value in values)
            if vr in _BINARY:
                if values:
                    raise NotDicom(f"{path} has a Value, and its VR {vr} must have InlineBinary or BulkDataURI")
                return b""
            value = "\\".join(_text(vr, value) for value in values).encode()
        except (struct.error, TypeError, ValueError, OverflowError, binascii.Error):
            raise NotDicom(f"{path} has a value that its VR {vr} cannot have") from None
        self.is_ascii = self.is_ascii and value.isascii()
        return value


def _list(value: Any, path: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise NotDicom(f"{path} has a Value that is no array")
    return value


def _number(vr: str, value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    return float(value) if vr in ("DS", "FL", "FD") else int(value)


def _text(vr: str, value: Any) -> str:
    if value is None:
        return ""
    if vr == "PN":
        if not isinstance(value, Mapping):
            raise TypeError
        return "=".join(_component(value.get(group)) for group in _GROUPS).rstrip("=")
    if vr in ("DS", "IS") and not isinstance(value, str):
        return _number_text(vr, value)
    return _component(value)


def _component(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError
    return value


def _number_text(vr: str, value: Any) -> str:
    number = _number("IS" if isinstance(value, int) else vr, value)
    text = str(number)
    return text if len(text) <= 16 or vr == "IS" else format_number_as_ds(number)


def _with_header(tag: str, vr: str, value: Sequence[Piece], path: str, *, encapsulated: bool = False) -> list[Piece]:
    """Put the header before a value, and padding after it (PS3.5 7.1.2)."""
    group, element = int(tag[:4], 16), int(tag[4:], 16)
    length = length_of(value)
    padding = [b"\0" if vr in _BINARY or vr == "UI" else b" "] if length % 2 else []
    length += length % 2
    if encapsulated:
        return [struct.pack("<HH2sHI", group, element, vr.encode(), 0, _UNDEFINED), *value]
    if vr in _LONG:
        header = struct.pack("<HH2sHI", group, element, vr.encode(), 0, _short_enough(length, path))
    elif length > 0xFFFF:
        raise NotDicom(f"{path} is longer than its VR {vr} allows")
    else:
        header = struct.pack("<HH2sH", group, element, vr.encode(), length)
    return [header, *value, *padding]


def _short_enough(length: int, path: str) -> int:
    if length >= _UNDEFINED - 1:
        raise InputError(f"{path} is longer than 4 GiB, which a value cannot be")
    return length


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Put bytes that follow each other together."""
    merged: list[Piece] = []
    run: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            run.append(piece)
            continue
        merged += [b"".join(run), piece]
        run = []
    return [*merged, b"".join(run)]
