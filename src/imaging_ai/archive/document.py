"""The document of an instance: its DICOM JSON (PS3.18 F) and its frame table, made once from the PS3.10 file.

One pass over the bytes writes JSON directly, in UTF-8 whatever the Specific Character Set (which the JSON therefore
gives as ISO_IR 192), in ascending order of tags, without File Meta Information and group lengths. The file is read in
windows, and neither pixel data nor other large binary values are read at all.

Bulk data (F.2.6): Pixel Data always, other binary values over `BULK_BYTES` and any value over `BULK_VALUES` become
``"BulkDataURI":"instances/<SOP Instance UID>/bulkdata/<path>"``, relative to the series. The path is the tag, after a
sequence's tag and item number for each level above (``54000100/1/54001010``); `Document.bulk` says which range of the
file each one is (in the deflated transfer syntax: of the inflated data set). A reader that needs absolute URIs may put
its base after each ``"BulkDataURI":"`` in the bytes: text never contains that, since quotes in text are escaped.

Damaged files give what could be read, and an error text that names tags and byte positions only.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import astuple, dataclass

import imagecodecs
import msgspec

from imaging_ai.archive.frames import FrameTable, PixelDescription, Reader, frame_table
from imaging_ai.archive.json_writer import BulkValue, JsonWriter, json_object, looks_explicit
from imaging_ai.errors import InputError, NotDicom

__all__ = [
    "BulkValue",
    "Document",
    "inflate",
    "located",
    "make_document",
    "pack_bulk",
    "pack_json",
    "read_file_meta",
    "reader_of",
    "unpack_bulk",
    "unpack_json",
    "unpack_together",
]

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

_LZ4 = b"4"
#: Each address of bulk data in JSON, and what it begins with where the address is to be made absolute.
_URI = b'"BulkDataURI":"'
_HERE = b"\0"
_META_WINDOW = 1 << 16
_MAX_INFLATED = 1 << 28
_LONG_META_VRS = (b"OB", b"UN", b"UT", b"OW", b"SQ", b"UC", b"UR")


@dataclass(frozen=True, slots=True)
class Document:
    """What readers of one instance need, so that they never parse it."""

    json: bytes
    frames: FrameTable
    bulk: tuple[BulkValue, ...]
    transfer_syntax_uid: str
    error: str = ""


def reader_of(data: bytes) -> Reader:
    """Return a reader of bytes in memory."""
    return lambda start, length: data[start : start + length]


def inflate(deflated: bytes, limit: int = _MAX_INFLATED) -> tuple[bytes, str]:
    """Return the inflated data set (PS3.5 A.5), at most `limit` bytes of it, and what is wrong with it."""
    engine, pieces, size = zlib.decompressobj(-zlib.MAX_WBITS), list[bytes](), 0
    try:
        for start in range(0, len(deflated), _META_WINDOW):
            pieces.append(engine.decompress(deflated[start : start + _META_WINDOW], limit - size + 1))
            size += len(pieces[-1])
            if size > limit:
                return b"".join(pieces)[:limit], f"the data set inflates to more than {limit} bytes"
    except zlib.error:
        return b"".join(pieces), "the deflated data set is damaged"
    return b"".join(pieces), "" if engine.eof else "the deflated data set is cut short"


def read_file_meta(head: bytes) -> tuple[str, int]:
    """Return the Transfer Syntax UID of a PS3.10 file ("" when not said) and where its data set begins."""
    position = 132 if head[128:132] == b"DICM" else 0
    if position == 0 and head[:2] != b"\x02\x00" and head[:1] != b"\x08":
        raise NotDicom("neither a DICOM file nor a data set: no DICM prefix and no group 0002 or 0008")
    transfer_syntax_uid = ""
    while head[position : position + 2] == b"\x02\x00":
        element_and_vr = head[position + 2 : position + 6]
        if element_and_vr[2:] in _LONG_META_VRS:
            length, start = int.from_bytes(head[position + 8 : position + 12], "little"), position + 12
        else:
            length, start = int.from_bytes(head[position + 6 : position + 8], "little"), position + 8
        if element_and_vr[:2] == b"\x10\x00":
            transfer_syntax_uid = head[start : start + length].decode("latin-1").strip("\0 ")
        position = start + length
    return transfer_syntax_uid, position


def make_document(read: Reader, size: int, sop_instance_uid: str) -> Document:
    """Make the document of the instance whose file is `size` bytes long.

    Raises
    ------
    NotDicom
        If nothing of it can be understood.
    """
    transfer_syntax_uid, start = read_file_meta(read(0, min(size, _META_WINDOW)))
    error = ""
    if transfer_syntax_uid == DEFLATED:
        data, error = inflate(read(start, size - start))
        read, start, size = reader_of(data), 0, len(data)
    writer = JsonWriter(read, size, sop_instance_uid, transfer_syntax_uid == EXPLICIT_BIG_ENDIAN)
    explicit = transfer_syntax_uid not in (IMPLICIT_LITTLE_ENDIAN, "") or looks_explicit(read(start, 8))
    elements = writer.write(start, explicit)
    if not elements:
        raise NotDicom(error or writer.error or "the data set is empty")
    image = _pixel_description(elements)
    frames, frames_error = frame_table(writer.pixels, image, transfer_syntax_uid)
    if transfer_syntax_uid == DEFLATED:
        frames = FrameTable()  # no range of the file is a frame of it
    errors = [text for text in (error or writer.error, frames_error) if text]
    return Document(json_object(elements), frames, tuple(writer.bulk.values()), transfer_syntax_uid, "; ".join(errors))


def _pixel_description(elements: dict[int, bytes]) -> PixelDescription:
    def value(tag: int, default: int) -> int:
        found = re.search(rb'"Value":\[(-?[0-9]+)[\],]', elements.get(tag, b""))
        return int(found[1]) if found else default

    interpretation = re.search(rb'"Value":\["([A-Z_0-9 ]+)"', elements.get(0x00280004, b""))
    return PixelDescription(
        rows=value(0x00280010, 0),
        columns=value(0x00280011, 0),
        samples_per_pixel=value(0x00280002, 1),
        bits_allocated=value(0x00280100, 0),
        number_of_frames=value(0x00280008, 1),
        photometric_interpretation=interpretation[1].decode() if interpretation else "",
    )


def pack_json(json: bytes) -> bytes:
    """Return a document's JSON as it is stored: in LZ4, since a series is unpacked whenever somebody asks for it.

    Before each BulkDataURI a zero byte, which JSON never has, says where the address of the series belongs: one byte
    is found several times sooner than the name of the attribute.
    """
    return _LZ4 + bytes(imagecodecs.lz4_encode(json.replace(_URI, _URI + _HERE), header=True))


def unpack_json(packed: bytes, series: bytes = b"") -> bytes:
    """Return what `pack_json` was given; `series` is put before each BulkDataURI.

    Documents that were stored in zlib are read as well.
    """
    return unpack_together((packed,), series)


def unpack_together(packed: Iterable[bytes], series: bytes = b"") -> bytes:
    """Return what `pack_json` was given of several instances of a series, with commas between them."""
    return b",".join([_unpacked(one) for one in packed]).replace(_HERE, series)


def _unpacked(packed: bytes) -> bytes:
    if packed[:1] != _LZ4:
        return located(zlib.decompress(packed), _HERE)
    return bytes(imagecodecs.lz4_decode(packed[1:], header=True))


def located(json: bytes, series: bytes) -> bytes:
    """Return a document's JSON with the address of its series before each BulkDataURI."""
    return json.replace(_URI, _URI + series)


def pack_bulk(bulk: Iterable[BulkValue]) -> bytes:
    """Return the bulk values in a compact binary form (MessagePack)."""
    return msgspec.msgpack.encode([astuple(value) for value in bulk])


def unpack_bulk(packed: bytes) -> tuple[BulkValue, ...]:
    """Return what `pack_bulk` was given.

    Raises
    ------
    InputError
        If `packed` is something else.
    """
    try:
        rows = msgspec.msgpack.decode(packed, type=list[tuple[str, str, int, int, bool]])
    except msgspec.MsgspecError as error:
        raise InputError("not a table of bulk values") from error
    return tuple(BulkValue(*row) for row in rows)
