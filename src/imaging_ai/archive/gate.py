"""The gate: reads the header of an instance, fast, and refuses what cannot be one (PS3.5 section 7, PS3.10 section 7).

A scanner rather than a parser: it walks the top level of the data set once, copies the few values that the index
keeps, and steps over everything else by length. It never allocates what a length merely claims.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from imaging_ai.archive.text import Decoder
from imaging_ai.core import contexts
from imaging_ai.core.identity import is_uid
from imaging_ai.core.instance import InstanceHeader
from imaging_ai.errors import NotDicom

__all__ = ["HEAD_BYTES", "dataset_offset", "scan", "transfer_syntax"]

#: As much of an instance as `scan` needs to see: what the index keeps lies well before it.
HEAD_BYTES = 1 << 20
_MAX_DEPTH = 32
_UNDEFINED = 0xFFFFFFFF
_UNKNOWN_SIZE = 1 << 62
#: Value representations: True for those with a 32-bit length in explicit encodings (PS3.5 7.1.2).
_VRS = dict.fromkeys((b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN"), False)
_VRS |= dict.fromkeys((b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"), False)
_VRS |= dict.fromkeys((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"), True)
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SPECIFIC_CHARACTER_SET = 0x00080005

#: Tag -> (field of InstanceHeader, how to read it): uid, text (of the character set), code (ASCII), int, short.
_WANTED: Mapping[int, tuple[str, str]] = {
    _SPECIFIC_CHARACTER_SET: ("", "code"),
    0x00080008: ("image_type", "code"),
    0x00080016: ("sop_class_uid", "uid"),
    0x00080018: ("sop_instance_uid", "uid"),
    0x00080020: ("study_date", "code"),
    0x00080021: ("series_date", "code"),
    0x00080030: ("study_time", "code"),
    0x00080031: ("series_time", "code"),
    0x00080050: ("accession_number", "text"),
    0x00080060: ("modality", "code"),
    0x00080070: ("manufacturer", "text"),
    0x00080080: ("institution_name", "text"),
    0x00080090: ("referring_physician_name", "text"),
    0x00080201: ("timezone_offset_from_utc", "code"),
    0x00081010: ("station_name", "text"),
    0x00081030: ("study_description", "text"),
    0x0008103E: ("series_description", "text"),
    0x00081090: ("manufacturer_model_name", "text"),
    0x00100010: ("patient_name", "text"),
    0x00100020: ("patient_id", "text"),
    0x00100021: ("issuer_of_patient_id", "text"),
    0x00100030: ("patient_birth_date", "code"),
    0x00100040: ("patient_sex", "code"),
    0x00180015: ("body_part_examined", "code"),
    0x00181030: ("protocol_name", "text"),
    0x0020000D: ("study_instance_uid", "uid"),
    0x0020000E: ("series_instance_uid", "uid"),
    0x00200010: ("study_id", "text"),
    0x00200011: ("series_number", "int"),
    0x00200013: ("instance_number", "int"),
    0x00200052: ("frame_of_reference_uid", "uid"),
    0x00201002: ("images_in_acquisition", "int"),
    0x00280008: ("number_of_frames", "int"),
    0x00280010: ("rows", "short"),
    0x00280011: ("columns", "short"),
    0x00280100: ("bits_allocated", "short"),
    0x00400244: ("performed_procedure_step_start_date", "code"),
    0x00400245: ("performed_procedure_step_start_time", "code"),
}
_PERSON_NAMES = (0x00080090, 0x00100010)
_REQUIRED = {
    "sop_class_uid": "SOP Class UID",
    "sop_instance_uid": "SOP Instance UID",
    "study_instance_uid": "Study Instance UID",
    "series_instance_uid": "Series Instance UID",
}


class _Cut(Exception):
    """Raised inside when the bytes at hand end before the element does."""


class _Meta(NamedTuple):
    transfer_syntax_uid: str
    dataset_offset: int


def scan(
    head: bytes | memoryview, transfer_syntax_uid: str | None = None, *, size: int | None = None
) -> InstanceHeader:
    """Read the header of a DICOM file (PS3.10), or of a bare data set when its transfer syntax is given.

    `head` is the instance or its beginning, `size` the whole length when only the beginning is given. What can be
    seen of the structure must hold: elements that reach past the end of the instance make it `NotDicom`.
    """
    view = memoryview(head)
    whole = size is None or size <= len(view)
    if transfer_syntax_uid is None:
        transfer_syntax_uid, offset = _read_meta(view)
        view = view[offset:]
        size = None if size is None else size - offset
    if transfer_syntax_uid in contexts.DEFLATED:
        view, whole = _inflate(view, whole)
        size = _UNKNOWN_SIZE
    end = len(view) if whole or size is None else size
    values = _Walk(view, transfer_syntax_uid, end, whole).values()
    return _header(values, transfer_syntax_uid, ">" if transfer_syntax_uid == contexts.BIG_ENDIAN else "<")


def dataset_offset(head: bytes | memoryview) -> int:
    """Return where the data set of a DICOM file begins: after preamble and File Meta Information."""
    return _read_meta(memoryview(head)).dataset_offset


def transfer_syntax(head: bytes | memoryview) -> str:
    """Return the Transfer Syntax UID that the File Meta Information names."""
    return _read_meta(memoryview(head)).transfer_syntax_uid


def _read_meta(view: memoryview) -> _Meta:
    if bytes(view[128:132]) != b"DICM":
        raise NotDicom("not a DICOM file: no DICM after the preamble")
    position, transfer_syntax_uid = 132, ""
    try:
        while True:
            group, element, vr, length = struct.unpack_from("<HH2sH", view, position)
            if group != 2:
                break
            position += 8
            if _VRS.get(vr):
                (length,) = struct.unpack_from("<I", view, position)
                position += 4
            if element == 0x0010:
                transfer_syntax_uid = _ascii(bytes(view[position : position + min(length, 66)]))
            position += length
    except struct.error:
        raise NotDicom("the File Meta Information is cut short") from None
    if not is_uid(transfer_syntax_uid):
        raise NotDicom("the File Meta Information has no Transfer Syntax UID")
    return _Meta(transfer_syntax_uid, position)


def _inflate(view: memoryview, whole: bool) -> tuple[memoryview, bool]:
    """Inflate no more than the scanner looks at, whatever the stream would expand to."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        head = inflater.decompress(view, HEAD_BYTES)
    except zlib.error:
        raise NotDicom("the deflated data set is damaged") from None
    if inflater.eof:
        return memoryview(head), True
    if whole and not inflater.unconsumed_tail and len(head) < HEAD_BYTES:
        raise NotDicom("the deflated data set is cut short")
    return memoryview(head), False


class _Walk:
    """One pass over the top level of a data set."""

    def __init__(self, view: memoryview, transfer_syntax_uid: str, size: int, whole: bool) -> None:
        self._view = view
        self._end = len(view)
        self._size = size
        self._whole = whole
        self._order = ">" if transfer_syntax_uid == contexts.BIG_ENDIAN else "<"
        self._explicit = _is_explicit(view, transfer_syntax_uid)
        self._long = struct.Struct(self._order + "I")

    def values(self) -> dict[int, bytes]:
        """Return the raw values of the wanted elements of the top level."""
        found: dict[int, bytes] = {}
        try:
            self._top_level(found)
        except (_Cut, struct.error):
            if self._whole:
                raise NotDicom("the data set is cut short: an element reaches past its end") from None
        return found

    def _top_level(self, found: dict[int, bytes]) -> None:
        view, end, size, wanted, vrs = self._view, self._end, self._size, _WANTED, _VRS
        explicit, unpack_long = self._explicit, self._long.unpack_from
        unpack = struct.Struct(self._order + ("HH2sH" if explicit else "HHI")).unpack_from
        position, last = 0, 0
        while position + 8 <= end:
            if explicit:
                group, element, vr, length = unpack(view, position)
                position += 8
                is_long = vrs.get(vr)
                if is_long:
                    (length,) = unpack_long(view, position)
                    position += 4
                elif is_long is None:
                    length = self._unknown_vr(vr, position)
            else:
                group, element, length = unpack(view, position)
                position += 8
            tag = group << 16 | element
            if tag <= last:
                if tag == 0 and length == 0:
                    return  # zero padding after the data set
                raise NotDicom("the data set is damaged: its elements are not in ascending order")
            last = tag
            if length == _UNDEFINED:
                position = self._skip_undefined(position, tag == 0x7FE00010, 0)
                continue
            start = position
            position += length
            if position > size:
                raise NotDicom("the data set is cut short: an element reaches past its end")
            if tag in wanted:
                if position > end:
                    return
                found[tag] = bytes(view[start:position])

    def _unknown_vr(self, vr: bytes, position: int) -> int:
        """Give the length of an element whose VR is of a later edition (PS3.5 6.2, note 2 of table 6.2-1)."""
        if not (vr.isalpha() and vr.isupper()):
            raise NotDicom("the data set is damaged: an element has no value representation")
        short: int = struct.unpack_from(self._order + "H", self._view, position - 2)[0]
        return short

    def _skip_undefined(self, position: int, fragments: bool, depth: int) -> int:
        """Return the position after a sequence, or encapsulated pixel data, of undefined length."""
        if depth > _MAX_DEPTH:
            raise NotDicom(f"sequences are nested deeper than {_MAX_DEPTH}")
        unpack = struct.Struct(self._order + "HHI").unpack_from
        view, end = self._view, self._end
        while position < end:
            group, element, length = unpack(view, position)
            tag = group << 16 | element
            position += 8
            if tag == _SEQUENCE_END:
                return position
            if tag != _ITEM:
                raise NotDicom("the data set is damaged: a sequence holds something that is no item")
            if length != _UNDEFINED:
                position += length
            elif fragments:
                raise NotDicom("the data set is damaged: a fragment without length")
            else:
                position = self._skip_item(position, depth)
            if position > self._size:
                raise NotDicom("the data set is cut short: an item reaches past its end")
        raise _Cut

    def _skip_item(self, position: int, depth: int) -> int:
        """Return the position after an item of undefined length."""
        view, end, order = self._view, self._end, self._order
        # An item inside UN of undefined length is implicit little endian whatever is outside (PS3.5 6.2.2).
        explicit = self._explicit and position + 6 <= end and bytes(view[position + 4 : position + 6]) in _VRS
        while position < end:
            group, element, length = struct.unpack_from(order + "HHI", view, position)
            tag = group << 16 | element
            if tag == _ITEM_END:
                return position + 8
            if explicit:
                vr = bytes(view[position + 4 : position + 6])
                if _VRS.get(vr):
                    (length,) = self._long.unpack_from(view, position + 8)
                    position += 4
                else:
                    (length,) = struct.unpack_from(order + "H", view, position + 6)
            position += 8
            if length == _UNDEFINED:
                position = self._skip_undefined(position, False, depth + 1)
            else:
                position += length
            if position > self._size:
                raise NotDicom("the data set is cut short: an element reaches past its end")
        raise _Cut


def _is_explicit(view: memoryview, transfer_syntax_uid: str) -> bool:
    """Say whether elements carry their VR; a file that contradicts its transfer syntax is believed, not the label."""
    looks_explicit = len(view) >= 6 and bytes(view[4:6]) in _VRS
    if transfer_syntax_uid == contexts.BIG_ENDIAN:
        return True
    return looks_explicit


def _ascii(value: bytes) -> str:
    return value.rstrip(b" \0").decode("ascii", "replace").strip(" ").replace("\0", "")


def _integer(value: bytes) -> int | None:
    first = value.split(b"\\", 1)[0].strip(b" \0")
    try:
        number = int(first) if first.isdigit() else int(float(first))
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 1 << 31 else None


def _header(values: dict[int, bytes], transfer_syntax_uid: str, order: str) -> InstanceHeader:
    decoder = Decoder(_ascii(values.pop(_SPECIFIC_CHARACTER_SET, b"")))
    fields: dict[str, str | int | None] = {"transfer_syntax_uid": transfer_syntax_uid}
    for tag, value in values.items():
        name, kind = _WANTED[tag]
        if kind == "int":
            fields[name] = _integer(value)
        elif kind == "short":
            fields[name] = struct.unpack_from(order + "H", value)[0] if len(value) >= 2 else None
        elif value.isascii() and b"\x1b" not in value:
            fields[name] = value.decode("ascii").strip(" \0").replace("\0", "")
        elif kind == "text":
            fields[name] = decoder.decode(value, person_name=tag in _PERSON_NAMES)
        else:
            fields[name] = _ascii(value)
    for name, title in _REQUIRED.items():
        if not is_uid(str(fields.get(name, ""))):
            raise NotDicom(f"the data set has no valid {title}")
    return InstanceHeader(**fields)  # type: ignore[arg-type]
