"""A data set written again in Explicit VR Little Endian (PS3.5 A.2), its values as they are.

Only the heads of elements change, and the bytes of words in what was big endian; no value is understood, so none can be
spoilt. Elements without a VR get the one of the dictionaries, private ones of unknown creators UN. Sequences get
defined lengths; group lengths, which would be wrong then, are left out (they are retired, PS3.5 7.2). The file is read
in windows, and long values pass through in pieces.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydicom.datadict import private_dictionary_VR

from imaging_ai.archive.frames import Reader
from imaging_ai.archive.values import public_vr
from imaging_ai.errors import NotDicom, TooLarge

__all__ = ["Encoding", "element_head", "rewritten", "swapped"]

PIECE = 1 << 20
_WINDOW = 1 << 16
_LONGEST_SEQUENCE = 1 << 28
_MOST_LEVELS = 64
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_REPRESENTATION = 0x00280103

_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_SHORT = frozenset(
    [
        "AE",
        "AS",
        "AT",
        "CS",
        "DA",
        "DS",
        "DT",
        "FD",
        "FL",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "SL",
        "SS",
        "ST",
        "TM",
        "UI",
        "UL",
        "US",
    ]
)

#: How many bytes each VR swaps (PS3.5 7.3).
_WORDS = (
    dict.fromkeys(("AT", "OW", "SS", "US"), 2)
    | dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4)
    | dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8)
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set is encoded."""

    explicit: bool = True
    big_endian: bool = False


class _Short(Exception):
    """Raised when a sequence goes on beyond the bytes that were read."""


@dataclass(frozen=True, slots=True)
class _Head:
    tag: int
    vr: str
    length: int
    start: int
    explicit: bool = True  # so are the elements inside


def swapped(value: bytes, vr: str) -> bytes:
    """Return a big endian value of a VR as little endian.

    Raises
    ------
    NotDicom
        If it is no whole number of words.
    """
    size = _WORDS.get(vr, 1)
    if size == 1:
        return value
    if len(value) % size:
        raise NotDicom(f"a value of VR {vr} is no whole number of words of {size} bytes")
    return np.frombuffer(value, f"u{size}").byteswap().tobytes()


def element_head(tag: int, vr: str, length: int) -> bytes:
    """Return tag, VR and length in Explicit VR Little Endian; what is too long for its VR becomes UN (PS3.5 6.2.2)."""
    if vr not in _LONG and length <= 0xFFFF:
        return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), length)
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, (vr if vr in _LONG else "UN").encode(), 0, length)


def rewritten(
    read: Reader, start: int, stop: int, encoding: Encoding, edits: Mapping[int, bytes] | None = None
) -> Iterator[bytes]:
    """Give the elements between two positions of a file, in pieces.

    `edits` has whole elements, encoded, that take the place of what is there or come between; b"" removes.

    Raises
    ------
    NotDicom, TooLarge
        If they cannot be told apart, or a sequence is longer than is held in memory.
    """
    edits = dict(edits or {})
    writer, scope, window = _Writer(encoding), _Scope(), _Window(read, stop)
    position, pieces, size = start, list[bytes](), 0
    while position < stop:
        raw = window.at(position, 12)
        if len(raw) < 8 or not any(raw):
            if any(raw) or any(read(position, min(stop - position, PIECE))):
                raise NotDicom(f"no element where one should begin, at byte {position}")
            break
        try:
            head = writer.head(raw, 0, scope)
        except _Short:
            raise NotDicom(f"the element at byte {position} is cut short") from None
        for tag in sorted(tag for tag in edits if tag < head.tag):
            pieces.append(edits.pop(tag))
        value, wanted = position + head.start, head.tag not in edits and head.tag & 0xFFFF
        if head.length != _UNDEFINED and value + head.length > stop:
            raise NotDicom(f"({head.tag >> 16:04X},{head.tag & 0xFFFF:04X}) goes past the end")
        if head.vr == "SQ" or head.length == _UNDEFINED:
            body, position = _nested(writer, read, head, value, stop, scope)
            pieces += [body] if wanted else []
            size += len(body)
        else:
            position = value + head.length
            if wanted and head.length > PIECE:
                yield b"".join([*pieces, element_head(head.tag, head.vr, head.length)])
                yield from writer.long_value(read, head, value)
                pieces, size = [], 0
            elif wanted:
                data = window.at(value, head.length)
                scope.note(head, data, encoding)
                pieces += [element_head(head.tag, head.vr, head.length), writer.value(data, head.vr)]
                size += head.length + 12
        if size >= PIECE:
            yield b"".join(pieces)
            pieces, size = [], 0
    yield b"".join([*pieces, *(edits[tag] for tag in sorted(edits))])


class _Window:
    """Reads small pieces at rising positions through larger ones."""

    def __init__(self, read: Reader, end: int) -> None:
        self._read, self._end, self._base, self._bytes = read, end, 0, b""

    def at(self, position: int, length: int) -> bytes:
        begin = position - self._base
        if begin < 0 or begin + length > len(self._bytes):
            wanted = min(max(_WINDOW, length), max(self._end - position, 0))
            self._bytes, self._base, begin = self._read(position, wanted), position, 0
        return self._bytes[begin : begin + length]


class _Scope:
    """What elements of one data set say about those that follow: private creators and Pixel Representation."""

    __slots__ = ("creators", "signed")

    def __init__(self, signed: bool = False) -> None:
        self.creators: dict[int, str] = {}
        self.signed = signed

    def note(self, head: _Head, value: bytes, encoding: Encoding) -> None:
        if head.tag == _PIXEL_REPRESENTATION:
            self.signed = any(value)
        elif not encoding.explicit and head.tag >> 16 & 1 and 0x10 <= head.tag & 0xFFFF <= 0xFF:
            self.creators[head.tag] = value.decode("latin-1").strip(" \0")

    def vr_of(self, tag: int) -> str:
        """Return the VR that the dictionaries give an element."""
        if tag >> 16 & 1:
            block = tag >> 8 & 0xFF
            return "LO" if block == 0 else _private_vr(tag, self.creators.get(tag & 0xFFFF0000 | block, ""))
        vr = public_vr(tag)
        if vr == "US or SS":
            return "SS" if self.signed else "US"
        return "OW" if " " in vr else vr


@lru_cache(maxsize=1 << 12)
def _private_vr(tag: int, creator: str) -> str:
    try:
        return str(private_dictionary_VR(tag, creator))
    except KeyError:
        return "UN"


class _Writer:
    """Turns elements of one encoding into Explicit VR Little Endian."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        order = ">" if encoding.big_endian else "<"
        self._tag = struct.Struct(order + "HH").unpack_from
        self._item = struct.Struct(order + "HHI").unpack_from
        self._short = struct.Struct(order + "H").unpack_from
        self._long = struct.Struct(order + "I").unpack_from

    def head(self, data: bytes, position: int, scope: _Scope, *, explicit: bool | None = None) -> _Head:
        """Read the head of the element at `position`."""
        explicit = self._encoding.explicit if explicit is None else explicit
        if len(data) < position + 8:
            raise _Short
        group, number = self._tag(data, position)
        tag = group << 16 | number
        if not explicit or group == 0xFFFE:
            (length,) = self._long(data, position + 4)
            vr = "" if group == 0xFFFE else scope.vr_of(tag)
            return _Head(tag, "SQ" if length == _UNDEFINED and vr == "UN" else vr, length, position + 8, explicit)
        vr = data[position + 4 : position + 6].decode("latin-1")
        if vr in _SHORT:
            return _Head(tag, vr, self._short(data, position + 6)[0], position + 8)
        if not (vr.isalpha() and vr.isupper()):
            raise NotDicom(f"({group:04X},{number:04X}) has no VR")
        if len(data) < position + 12:
            raise _Short
        (length,) = self._long(data, position + 8)
        if vr == "UN" and length == _UNDEFINED:  # a sequence whose items have no VRs (PS3.5 6.2.2)
            return _Head(tag, "SQ", length, position + 12, explicit=False)
        return _Head(tag, vr if vr in _LONG else "UN", length, position + 12)

    def value(self, data: bytes, vr: str) -> bytes:
        return swapped(data, vr) if self._encoding.big_endian else data

    def long_value(self, read: Reader, head: _Head, start: int) -> Iterator[bytes]:
        for offset in range(0, head.length, PIECE):
            yield self.value(read(start + offset, min(PIECE, head.length - offset)), head.vr)

    def nested(self, data: bytes, head: _Head, stop: int, scope: _Scope, level: int) -> tuple[bytes, int]:
        """Return a whole element whose value is items, and where it ends; `head.start` is in `data`."""
        if level > _MOST_LEVELS:
            raise NotDicom(f"sequences are nested deeper than {_MOST_LEVELS} levels")
        if head.vr != "SQ":
            return self._fragments(data, head, stop)
        position, pieces = head.start, list[bytes]()
        end = stop if head.length == _UNDEFINED else head.start + head.length
        if end > stop:
            raise _Short
        while position < end or head.length == _UNDEFINED:
            if position + 8 > end:
                raise _Short
            group, number, length = self._item(data, position)
            position += 8
            if group << 16 | number == _SEQUENCE_END:
                break
            if group << 16 | number != _ITEM:
                raise NotDicom(f"({head.tag >> 16:04X},{head.tag & 0xFFFF:04X}) has no item where one should begin")
            inner = _Scope(scope.signed)
            item, position = self._elements(data, position, length, end, inner, level, explicit=head.explicit)
            pieces += [struct.pack("<HHI", 0xFFFE, 0xE000, len(item)), item]
        body = b"".join(pieces)
        return element_head(head.tag, "SQ", len(body)) + body, position

    def _elements(
        self, data: bytes, position: int, length: int, end: int, scope: _Scope, level: int, *, explicit: bool
    ) -> tuple[bytes, int]:
        stop, pieces = end if length == _UNDEFINED else position + length, list[bytes]()
        if stop > end:
            raise _Short
        while position < stop or length == _UNDEFINED:
            head = self.head(data, position, scope, explicit=explicit)
            if head.tag == _ITEM_END:
                return b"".join(pieces), head.start
            if head.vr == "SQ" or head.length == _UNDEFINED:
                body, position = self.nested(data, head, stop, scope, level + 1)
                pieces.append(body)
                continue
            position = head.start + head.length
            if position > stop:
                raise _Short
            value = data[head.start : position]
            scope.note(head, value, Encoding(explicit))
            if head.tag & 0xFFFF:
                pieces += [element_head(head.tag, head.vr, head.length), self.value(value, head.vr)]
        return b"".join(pieces), position

    def _fragments(self, data: bytes, head: _Head, stop: int) -> tuple[bytes, int]:
        """Return encapsulated data inside a sequence as it is (an icon, say)."""
        position = head.start
        while True:
            if position + 8 > stop:
                raise _Short
            group, number, length = self._item(data, position)
            position += 8
            if group << 16 | number == _SEQUENCE_END:
                return element_head(head.tag, head.vr, _UNDEFINED) + data[head.start : position], position
            if group << 16 | number != _ITEM:
                raise NotDicom(f"({head.tag >> 16:04X},{head.tag & 0xFFFF:04X}) has no fragment where one should begin")
            position += length


def _nested(writer: _Writer, read: Reader, head: _Head, start: int, stop: int, scope: _Scope) -> tuple[bytes, int]:
    """Return a whole sequence of the top level, and where it ends in the file, reading more of it until it is whole."""
    defined = head.length != _UNDEFINED
    window = head.length if defined else _WINDOW
    if defined and window > _LONGEST_SEQUENCE:
        raise TooLarge(f"a sequence is longer than {_LONGEST_SEQUENCE} bytes")
    while True:
        data = read(start, min(window, stop - start))
        try:
            body, end = writer.nested(
                data, _Head(head.tag, head.vr, head.length, 0, head.explicit), len(data), scope, 1
            )
            return body, start + end
        except _Short:
            if defined or start + len(data) >= stop:
                raise NotDicom(f"({head.tag >> 16:04X},{head.tag & 0xFFFF:04X}) is cut short") from None
            if window >= _LONGEST_SEQUENCE:
                raise TooLarge(f"a sequence is longer than {_LONGEST_SEQUENCE} bytes") from None
            window *= 8
