"""One pass over the bytes of a data set (PS3.5 7) that writes its DICOM JSON (PS3.18 F); see `document`.

The file is read in windows: the writer never holds more of it than the longest element that must be read, and skips
bulk values at the top level without reading them. An element that is not whole in the window is begun again in a larger
one. Damage ends what contains it, unless that has a length which says where to go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from struct import Struct

import msgspec
from pydicom.datadict import private_dictionary_VR

from imaging_ai.archive.frames import PixelData, Reader, walk_fragments
from imaging_ai.archive.values import BINARY_VRS, decoder_of, element_json, long_element_json, public_vr

__all__ = ["BULK_BYTES", "BULK_VALUES", "BulkValue", "JsonWriter", "json_object", "looks_explicit"]

BULK_BYTES = 1024
BULK_VALUES = 1 << 20

_WINDOW = 1 << 16
_MAX_WINDOW = 1 << 28
_MAX_OFFSET_TABLE = 1 << 26
_MAX_DEPTH = 64
_REMEMBERED = 128
_UNDEFINED = 0xFFFFFFFF

#: Explicit VRs whose length takes 16 and 32 bits (PS3.5 table 7.1-1), and those that may be bulk data (PS3.18 F.2.2).
_SHORT = ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM")
_SHORT_VRS = {vr.encode(): vr for vr in (*_SHORT, "UI", "UL", "US")}
_LONG_VRS = {vr.encode(): vr for vr in (*BINARY_VRS, "SQ", "SV", "UC", "UR", "UT", "UV")}
_BULK_VRS = {*BINARY_VRS, "DS", "FD", "FL", "IS", "LT", "SL", "SS", "ST", "SV", "UC", "UL", "US", "UT", "UV"}

_SPECIFIC_CHARACTER_SET = 0x00080005
_PIXEL_REPRESENTATION = 0x00280103
_TELLING = frozenset({_SPECIFIC_CHARACTER_SET, _PIXEL_REPRESENTATION})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_EXTENDED_OFFSET_TABLE = 0x7FE00001
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_UTF8 = b'"00080005":{"vr":"CS","Value":["ISO_IR 192"]}'


@dataclass(frozen=True, slots=True)
class BulkValue:
    """A value that the JSON names by URI: where it lies in the file."""

    path: str
    vr: str
    offset: int
    length: int
    encapsulated: bool = False


class _NeedMore(Exception):
    """Raised when an element goes on beyond the window that was read of the file."""


def json_object(elements: dict[int, bytes]) -> bytes:
    """Return the JSON object of the elements of one data set, in ascending order of tags (F.2.2)."""
    return b"{%b}" % b",".join([elements[tag] for tag in sorted(elements)])


def looks_explicit(head: bytes) -> bool:
    """Say whether the first element of a data set has an explicit VR."""
    return head[4:6] in _SHORT_VRS or head[4:6] in _LONG_VRS


@lru_cache(maxsize=1 << 12)
def _private_vr(tag: int, creator_json: bytes) -> str:
    """Return the VR of a private element whose creator's element is given as JSON."""
    creator = msgspec.json.decode(b"{%b}" % creator_json) if creator_json else {}
    try:
        vr: str = private_dictionary_VR(tag, next(iter(creator.values()))["Value"][0])
    except (KeyError, StopIteration):
        return "UN"
    return vr


class JsonWriter:
    """Writes the JSON of one data set; what it met on the way is in `bulk`, `pixels` and `error`."""

    def __init__(self, read: Reader, size: int, sop_instance_uid: str, big_endian: bool) -> None:
        self.bulk: dict[str, BulkValue] = {}
        self.pixels: PixelData | None = None
        self.error = ""
        self._read, self._size, self._big_endian = read, size, big_endian
        self._uri = f"instances/{sop_instance_uid}/bulkdata/"
        order = ">" if big_endian else "<"
        self._head = Struct(order + "HH2sH").unpack_from
        self._item_head = Struct(order + "HHI").unpack_from
        # the window of the file in memory, and where the element that is being read at the top level begins in it
        self._data, self._base, self._complete, self._mark = b"", 0, False, 0
        self._decoder = self._outer_decoder = decoder_of(b"")
        self._signed = self._broken = False
        self._depth = 0
        self._extended_offset_table = b""

    def write(self, start: int, explicit: bool) -> dict[int, bytes]:
        """Return the elements of the data set that begins at `start`, as JSON members in ascending order."""
        elements: dict[int, bytes] = {}
        position, window = start, _WINDOW
        while position < self._size and not self._broken:
            self._data, self._base = self._read(position, window), position
            self._complete = position + len(self._data) >= self._size or window >= _MAX_WINDOW
            self._mark, self._depth, self._decoder = 0, 0, self._outer_decoder
            try:
                reached = self._dataset(elements, 0, len(self._data), explicit, "", delimited=False)
            except _NeedMore:
                reached = self._mark
            if self._complete and reached < len(self._data):
                break
            window = _WINDOW if reached else window * 8
            position += reached
        if not all(map(bytes.isascii, elements.values())) and elements.get(_SPECIFIC_CHARACTER_SET) != _UTF8:
            elements[_SPECIFIC_CHARACTER_SET] = _UTF8
        return elements

    def _dataset(
        self, elements: dict[int, bytes], position: int, end: int, explicit: bool, path: str, *, delimited: bool
    ) -> int:
        """Write the elements from `position` to a delimiter or `end` into `elements`; return where they ended."""
        data, head = self._data, self._head
        while position + 8 <= end:
            if not path:
                self._mark = position
            group, number, code, length = head(data, position)
            tag, start, vr = group << 16 | number, position + 8, _SHORT_VRS.get(code)
            if vr is None or not explicit:
                vr, length, start = self._other_head(elements, tag, code, position, explicit)
                if tag in (_ITEM_END, _SEQUENCE_END):
                    return start
            if length > _REMEMBERED or vr == "SQ" or (group == 0x7FE0 and not path):
                position = self._special(elements, tag, vr, start, length, end, explicit and code != b"UN", path)
                if self._broken:
                    return end
                continue
            position = start + length
            if position > end:
                return self._short(f"{_name(tag)} goes {position - end} bytes past its end", end)
            if number:  # group lengths have no place in JSON (F.2.2)
                elements[tag] = element_json(tag, vr, data[start:position], self._decoder, self._big_endian)
            if tag in _TELLING:
                self._take_note(elements, tag, data[start:position])
        if delimited or (position < end and data[position:end].strip(b"\0")):
            return self._short("the data set is cut short", end)
        return position

    def _other_head(
        self, elements: dict[int, bytes], tag: int, code: bytes, position: int, explicit: bool
    ) -> tuple[str, int, int]:
        """Return VR, length and start of the value of an element whose head is not a short explicit one."""
        if explicit and code in _LONG_VRS:
            vr, length, start = _LONG_VRS[code], self._number(position + 8, 4), position + 12
        elif explicit and code in _SHORT_VRS:
            vr, length, start = _SHORT_VRS[code], self._number(position + 6, 2), position + 8
        elif explicit and code.isalpha() and code.isupper():
            # VRs of later editions have two reserved bytes and a long length (PS3.5 6.2)
            vr, length, start = "UN", self._number(position + 6, 2), position + 8
            if length == 0:
                length, start = self._number(position + 8, 4), position + 12
        else:
            vr, length, start = "", self._number(position + 4, 4), position + 8
        return self._known_vr(tag, vr, length, elements) if vr in ("", "UN") else vr, length, start

    def _number(self, position: int, size: int) -> int:
        return int.from_bytes(self._data[position : position + size], "big" if self._big_endian else "little")

    def _known_vr(self, tag: int, vr: str, length: int, elements: dict[int, bytes]) -> str:
        """Return the VR that the dictionaries give an element which has none, or UN."""
        if tag >> 16 & 1:
            block = tag >> 8 & 0xFF
            if block == 0:
                return "LO"
            return _private_vr(tag, elements.get(tag & 0xFFFF0000 | block, b""))
        if vr == "UN" and 0xFFFF <= length < _UNDEFINED:
            return vr
        vr = public_vr(tag)
        if vr == "US or SS":
            return "SS" if self._signed else "US"
        return "OW" if " " in vr else vr

    def _take_note(self, elements: dict[int, bytes], tag: int, value: bytes) -> None:
        if tag == _SPECIFIC_CHARACTER_SET:
            self._decoder = decoder_of(value)
            if self._depth == 0:
                self._outer_decoder = self._decoder
            if value.strip(b" \0"):
                elements[tag] = _UTF8
        else:
            self._signed = any(value)

    def _special(
        self,
        elements: dict[int, bytes],
        tag: int,
        vr: str,
        start: int,
        length: int,
        end: int,
        explicit: bool,
        path: str,
    ) -> int:
        """Write an element that is long, nested or pixel data; return where it ends."""
        if not path and tag in _PIXELS:
            return self._pixel_data(elements, tag, vr, start, length)
        if length == _UNDEFINED and vr in BINARY_VRS and vr != "UN":
            fragments = walk_fragments(self._read, self._base + start, self._base + end)
            if fragments.error:
                return self._short(f"{_name(tag)}: {fragments.error}", end)
            self._bulk(elements, tag, vr, start, fragments.end - self._base - start, path, encapsulated=True)
            return fragments.end - self._base
        if vr == "SQ" or length == _UNDEFINED:
            return self._sequence(elements, tag, start, length, end, explicit, path)
        stop = start + length
        if (length > BULK_BYTES and vr in BINARY_VRS) or (length > BULK_VALUES and vr in _BULK_VRS):
            if self._base + stop > self._size or (path and stop > end):
                return self._short(f"{_name(tag)} goes past its end", end)
            self._bulk(elements, tag, vr, start, length, path)
        elif stop > end:
            return self._short(f"{_name(tag)} goes {stop - end} bytes past its end", end)
        else:
            value = self._data[start:stop]
            elements[tag] = long_element_json(tag, vr, value, self._decoder, self._big_endian)
        if tag == _EXTENDED_OFFSET_TABLE:
            self._extended_offset_table = self._read(self._base + start, min(length, _MAX_OFFSET_TABLE))
        return stop

    def _sequence(
        self, elements: dict[int, bytes], tag: int, start: int, length: int, end: int, explicit: bool, path: str
    ) -> int:
        stop = end if length == _UNDEFINED else start + length
        if stop > end or self._depth == _MAX_DEPTH:
            deep = f"{_name(tag)} is nested deeper than {_MAX_DEPTH} levels"
            return self._damage(deep, end) if stop <= end else self._short(f"{_name(tag)} is cut short", end)
        self._depth += 1
        decoder, items = self._decoder, list[bytes]()
        position = start
        while position + 8 <= stop and not self._broken:
            group, number, item_length = self._item_head(self._data, position)
            position += 8
            if group << 16 | number == _SEQUENCE_END:
                break
            if group << 16 | number != _ITEM:
                self._damage(f"{_name(tag)} has no item where one should begin", stop)
                break
            item: dict[int, bytes] = {}
            position = self._item(item, position, item_length, stop, explicit, f"{path}{tag:08X}/{len(items) + 1}/")
            items.append(json_object(item))
            self._decoder = decoder
        else:
            if length == _UNDEFINED and not self._broken:
                self._short(f"{_name(tag)} has no end", stop)
        self._depth -= 1
        elements[tag] = b'"%08X":{"vr":"SQ","Value":[%b]}' % (tag, b",".join(items))
        if length == _UNDEFINED:
            return position
        self._broken = False  # the length says where to go on
        return stop

    def _item(self, item: dict[int, bytes], position: int, length: int, end: int, explicit: bool, path: str) -> int:
        if length == _UNDEFINED:
            return self._dataset(item, position, end, explicit, path, delimited=True)
        stop = min(position + length, end)
        if position + length > end:
            self._short(f"an item of {path} is cut short", end)
            self._broken = False
        self._dataset(item, position, stop, explicit, path, delimited=False)
        self._broken = False  # damage inside the item ends with it: its length says where to go on
        return stop

    def _pixel_data(self, elements: dict[int, bytes], tag: int, vr: str, start: int, length: int) -> int:
        offset = self._base + start
        if length == _UNDEFINED:
            fragments = walk_fragments(self._read, offset, self._size)
            length = fragments.end - offset
            self.pixels = PixelData(tag, offset, length, fragments, self._extended_offset_table)
        else:
            if offset + length > self._size:
                self.error = self.error or f"{_name(tag)} is cut short by {offset + length - self._size} bytes"
                length = self._size - offset
            self.pixels = PixelData(tag, offset, length)
        self._bulk(elements, tag, vr, start, length, "", encapsulated=self.pixels.fragments is not None)
        return start + length

    def _bulk(
        self,
        elements: dict[int, bytes],
        tag: int,
        vr: str,
        start: int,
        length: int,
        path: str,
        encapsulated: bool = False,
    ) -> None:
        path = f"{path}{tag:08X}"
        self.bulk[path] = BulkValue(path, vr, self._base + start, length, encapsulated)
        elements[tag] = b'"%08X":{"vr":"%b","BulkDataURI":"%b"}' % (tag, vr.encode(), (self._uri + path).encode())

    def _short(self, text: str, end: int) -> int:
        """Ask for more of the file, or say what is cut short where there is no more."""
        if end == len(self._data) and not self._complete:
            raise _NeedMore
        return self._damage(text, end)

    def _damage(self, text: str, end: int) -> int:
        self.error = self.error or text
        self._broken = True
        return end


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
