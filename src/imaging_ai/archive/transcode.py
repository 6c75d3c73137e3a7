"""Instances and frames in another transfer syntax than the stored one (PS3.5 8.2, 10 and A; PS3.18 8.7.3).

An instance is written as it goes: its elements before and after the pixel data by `rewrite`, its frames one at a time,
so that memory holds one frame whatever the size. Only what the transfer syntax decides is changed (Photometric
Interpretation, Planar Configuration, High Bit, offset tables), and the SOP Instance UID stays. Every frame is one
fragment, and the Basic Offset Table is empty.

Compression with loss makes another image (PS3.3 C.7.6.1.1.5): it gets a SOP Instance UID of its own, always the same
one, names its source, and says ratio and method. What was lossy JPEG in YBR comes decoded as RGB.

Whatever cannot be given with the right pixels is refused beforehand (`refusal`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from imaging_ai.archive.codecs import Frames
from imaging_ai.archive.decoders import DECODABLE, Image
from imaging_ai.archive.document import (
    DEFLATED,
    EXPLICIT_BIG_ENDIAN,
    EXPLICIT_LITTLE_ENDIAN,
    IMPLICIT_LITTLE_ENDIAN,
    inflate,
    make_document,
    read_file_meta,
    reader_of,
)
from imaging_ai.archive.encoders import ENCODERS, Encoder
from imaging_ai.archive.frames import Reader
from imaging_ai.archive.json_writer import looks_explicit
from imaging_ai.archive.layout import Layout, layout_of
from imaging_ai.archive.rewrite import Encoding, element_head, rewritten, swapped
from imaging_ai.archive.spool import Spool
from imaging_ai.archive.transcode_header import LOSSY_JPEG, describe_loss, edits_of, encoded_elements, file_meta
from imaging_ai.errors import InputError, NotAcceptable, NotDicom

__all__ = ["NATIVE", "Source", "frame", "pixel_value", "refusal", "transcoded"]

#: Transfer syntaxes without encapsulation; "" is an old file that does not say.
NATIVE = frozenset({"", IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN, DEFLATED})

_GIVEN = frozenset({EXPLICIT_LITTLE_ENDIAN, DEFLATED, *ENCODERS})
_LONGEST_VALUE = 0xFFFFFFFE
_LARGEST_FRAME = 1 << 28  # bytes of one that is decoded: several are at once
_PIXEL_DATA = 0x7FE00010
_OFFSET_TABLES = (0x7FE00001, 0x7FE00002, 0x7FE00003)
_META_BYTES = 1 << 16
_SPOOLED = 8 << 20
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Source:
    """A stored instance: its bytes, and where what lies in them."""

    sop_class_uid: str
    sop_instance_uid: str
    read: Reader
    size: int
    layout: Layout

    def opened(self) -> Source:
        """Return the same instance with a layout of positions that `read` knows: a deflated one is inflated."""
        if self.layout.transfer_syntax_uid != DEFLATED:
            return self
        _, start = read_file_meta(self.read(0, _META_BYTES))
        data, error = inflate(self.read(start, self.size - start))
        if error:
            raise NotDicom(error)
        layout = layout_of(make_document(reader_of(data), len(data), self.sop_instance_uid))
        return replace(self, read=reader_of(data), size=len(data), layout=layout)


# -- what can be given


def refusal(layout: Layout, target: str) -> str:
    """Say why an instance cannot be given in a transfer syntax; "" when it can."""
    stored = layout.transfer_syntax_uid
    if target == stored:
        return ""
    if target not in _GIVEN:
        return "nothing is given in this transfer syntax unless it is stored in it"
    if layout.error:
        return f"what is damaged is given only as it is stored: {layout.error}"
    if layout.pixels is None:
        return "" if target not in ENCODERS else "it has no pixels to compress"
    if stored in NATIVE and target not in ENCODERS:
        return ""
    if layout.image is None:
        return layout.unreadable
    return _cannot_decode(layout, layout.image) or _cannot_write(layout, layout.image, target)


def _cannot_decode(layout: Layout, image: Image) -> str:
    if layout.transfer_syntax_uid not in NATIVE and layout.transfer_syntax_uid not in DECODABLE:
        return f"transfer syntax {layout.transfer_syntax_uid} cannot be decoded here"
    if layout.transfer_syntax_uid not in NATIVE and layout.frames.count == 0:
        return "no frame can be told from another"
    if image.rows * image.columns * image.samples * image.bits_allocated > 8 * _LARGEST_FRAME:
        return "decoded its frames are too large to be held"
    partial = image.photometric_interpretation.startswith("YBR_PARTIAL")
    return "the colours of YBR_PARTIAL cannot be decoded here" if partial else ""


def _cannot_write(layout: Layout, image: Image, target: str) -> str:
    if target in ENCODERS:
        refused = ENCODERS[target].refuses(image)
        return refused or ("overlays in unused bits of the pixels would be lost" if layout.overlay_bits else "")
    return "decoded it is too long for one value" if _native_bytes(image) > _LONGEST_VALUE else ""


def _native_bytes(image: Image) -> int:
    bits = image.rows * image.columns * image.samples * image.bits_allocated * image.number_of_frames
    return (bits + 15) // 16 * 2


# -- frames


def frame(source: Source, frame_number: int, target: str) -> bytes:
    """Return one frame in a transfer syntax, as the bytes that a client gets (PS3.18 8.7.3.3).

    In a native one it begins at its own first byte, little endian. `source` is opened.

    Raises
    ------
    NotFound
        If there is no such frame.
    NotDicom
        If it cannot be decoded.
    """
    stored = source.layout.transfer_syntax_uid
    if target == stored or (target in (EXPLICIT_LITTLE_ENDIAN, DEFLATED) and stored in NATIVE):
        return _stored_frame(source, frame_number)
    frames = _frames_of(source)
    values = _decoded(frames, frame_number)
    if target in ENCODERS:
        return _encoded(values, frames.image, ENCODERS[target])
    return _packed(values, frames.image)


def _stored_frame(source: Source, frame_number: int) -> bytes:
    layout, read = source.layout, source.read
    ranges = layout.frames.ranges(frame_number)
    if layout.frames.kind == "encapsulated":
        return b"".join([read(offset, length) for offset, length in ranges])
    ((offset, length),) = ranges
    data = _native_range(source, offset, length)
    if layout.frames.frame_bits % 8:
        first = layout.frames.bit_offset(frame_number)
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        data = np.packbits(bits[first : first + layout.frames.frame_bits], bitorder="little").tobytes()
    return data


def _native_range(source: Source, offset: int, length: int) -> bytes:
    """Return a range of native pixel data as little endian."""
    pixels = source.layout.pixels
    if source.layout.transfer_syntax_uid != EXPLICIT_BIG_ENDIAN or pixels is None:
        return source.read(offset, length)
    begin = (offset - pixels.offset) // 8 * 8  # whole words, whatever their size
    end = min(-(-(offset - pixels.offset + length) // 8) * 8, pixels.length)
    data = swapped(source.read(pixels.offset + begin, end - begin), pixels.vr)
    begin += pixels.offset
    return data[offset - begin : offset - begin + length]


def pixel_value(source: Source) -> Iterator[bytes]:
    """Give the whole native pixel data of an opened source that is encapsulated, frame by frame."""
    frames = _frames_of(source)
    carry = np.empty(0, np.uint8)
    for number in range(1, len(frames) + 1):
        values = _decoded(frames, number)
        if frames.image.bits_allocated > 1:
            yield _packed(values, frames.image)
            continue
        bits = np.concatenate([carry, values.reshape(-1).astype(np.uint8)])  # frames follow one another bit by bit
        whole = len(bits) // 8 * 8
        yield np.packbits(bits[:whole], bitorder="little").tobytes()
        carry = bits[whole:]
    if len(carry):
        yield np.packbits(carry, bitorder="little").tobytes()


def _frames_of(source: Source) -> Frames:
    layout = source.layout
    if layout.image is None:
        raise NotDicom(layout.unreadable)
    try:
        return Frames(source.read, layout.frames, layout.image, Dataset, layout.error)
    except NotDicom:
        raise
    except InputError as error:
        raise NotAcceptable(error.message) from error


def _decoded(frames: Frames, frame_number: int) -> NDArray[Any]:
    lossy_colour = frames.image.transfer_syntax_uid in LOSSY_JPEG and frames.image.is_ybr
    return frames.decode(frame_number, rgb=lossy_colour)


def _interpretation(image: Image) -> str:
    """Return the Photometric Interpretation of decoded frames."""
    stored = image.photometric_interpretation
    if stored in ("YBR_RCT", "YBR_ICT") or (image.is_ybr and image.transfer_syntax_uid in LOSSY_JPEG):
        return "RGB"
    return "YBR_FULL" if stored == "YBR_FULL_422" else stored


def _packed(values: NDArray[Any], image: Image) -> bytes:
    """Return the native bytes of a decoded frame, little endian, colours by pixel."""
    if image.bits_allocated == 1:
        return np.packbits(values.reshape(-1).astype(np.uint8), bitorder="little").tobytes()
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()


def _encoded(values: NDArray[Any], image: Image, encoder: Encoder) -> bytes:
    try:
        return encoder.encode(values, image, _interpretation(image))
    except (RuntimeError, ValueError, OverflowError) as error:
        raise NotAcceptable("the pixels cannot be encoded in this transfer syntax") from error


# -- instances


def transcoded(source: Source, target: str) -> Iterator[bytes]:
    """Give an instance as a PS3.10 file in another transfer syntax, in pieces.

    Raises
    ------
    NotAcceptable
        If it cannot be given in it.
    NotDicom
        If its bytes are not what they should be; also in the middle.
    """
    if refused := refusal(source.layout, target):
        raise NotAcceptable(refused)
    stored, source = source.layout.transfer_syntax_uid, source.opened()
    if target in ENCODERS:
        yield from _compressed(source, target)
        return
    yield file_meta(source.sop_class_uid, source.sop_instance_uid, target)
    whole = _whole(source) if stored in NATIVE or source.layout.pixels is None else _decompressed(source)
    if target != DEFLATED:
        yield from whole
        return
    yield from _deflated(whole)


def _deflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """PS3.5 A.5: one stream, padded to an even length."""
    engine, size = zlib.compressobj(wbits=-zlib.MAX_WBITS), 0
    for piece in pieces:
        packed = engine.compress(piece)
        size += len(packed)
        yield packed
    end = engine.flush()
    yield end + b"\0" * ((size + len(end)) % 2)


def _whole(source: Source) -> Iterator[bytes]:
    start, encoding = _data_set(source)
    yield from rewritten(source.read, start, source.size, encoding)


def _decompressed(source: Source) -> Iterator[bytes]:
    image = _image_of(source)
    edits = edits_of(image, _interpretation(image))
    before, after = _around_pixels(source, edits)
    yield from before
    length = _native_bytes(image)
    yield element_head(_PIXEL_DATA, "OW" if image.bits_allocated > 8 else "OB", length)
    given = 0
    for piece in pixel_value(source):
        given += len(piece)
        yield piece
    if length - given not in (0, 1):
        raise NotDicom("there are not as many frames as there should be")
    yield b"\0" * (length - given)
    yield from after


def _compressed(source: Source, target: str) -> Iterator[bytes]:
    encoder, frames, pixels = ENCODERS[target], _frames_of(source), source.layout.pixels
    assert pixels is not None
    image = frames.image
    edits = edits_of(image, encoder.interpretation(_interpretation(image)))
    uid, items = source.sop_instance_uid, _items(frames, encoder)
    if encoder.method:
        with closing(Spool(in_memory=_SPOOLED)) as spool:
            for item in items:
                spool.write(item)
            ratio = _native_bytes(image) / max(spool.size - 8 * len(frames), 1)
            header = source.read(0, pixels.offset)
            uid = describe_loss(edits, header, (source.sop_class_uid, source.sop_instance_uid), target, ratio)
            yield from _encapsulated(source, target, uid, edits, spool.read(0, spool.size))
        return
    yield from _encapsulated(source, target, uid, edits, items)


def _encapsulated(source: Source, target: str, uid: str, edits: Dataset, items: Iterator[bytes]) -> Iterator[bytes]:
    before, after = _around_pixels(source, edits)
    yield file_meta(source.sop_class_uid, uid, target)
    yield from before
    yield element_head(_PIXEL_DATA, "OB", _UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    yield from items
    yield struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    yield from after


def _items(frames: Frames, encoder: Encoder) -> Iterator[bytes]:
    for number in range(1, len(frames) + 1):
        data = _encoded(_decoded(frames, number), frames.image, encoder)
        data += b"\0" * (len(data) % 2)
        yield struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data


def _around_pixels(source: Source, edits: Dataset) -> tuple[Iterator[bytes], Iterator[bytes]]:
    """Return what comes before the Pixel Data element, and what comes after it."""
    pixels = source.layout.pixels
    assert pixels is not None
    start, encoding = _data_set(source)
    elements = encoded_elements(edits) | dict.fromkeys(_OFFSET_TABLES, b"")
    head = 12 if encoding.explicit else 8
    before = rewritten(source.read, start, pixels.offset - head, encoding, elements)
    return before, rewritten(source.read, pixels.offset + pixels.length, source.size, encoding)


def _data_set(source: Source) -> tuple[int, Encoding]:
    """Return where the data set begins and how it is encoded."""
    transfer_syntax_uid, start = read_file_meta(source.read(0, min(source.size, _META_BYTES)))
    explicit = transfer_syntax_uid not in (IMPLICIT_LITTLE_ENDIAN, "") or looks_explicit(source.read(start, 8))
    return start, Encoding(explicit, transfer_syntax_uid == EXPLICIT_BIG_ENDIAN)


def _image_of(source: Source) -> Image:
    if source.layout.image is None:
        raise NotDicom(source.layout.unreadable)
    return source.layout.image
