"""Pixel data to arrays: every transfer syntax, one frame at a time (PS3.5 8 and A.4, PS3.3 C.7.6.3).

Values come out as stored: before rescale, sign extended from Bits Stored, bits above them (old overlays) cleared. What
a codestream itself transforms comes out as it went in (JPEG 2000's YBR_RCT and YBR_ICT are RGB again); `rgb=True` also
turns YBR and PALETTE COLOR into RGB. `decoders` has the table of transfer syntaxes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_color_lut, convert_color_space

from imaging_ai.archive.decoders import DECODABLE, Image, native_values, stored_values
from imaging_ai.archive.document import (
    DEFLATED,
    EXPLICIT_BIG_ENDIAN,
    EXPLICIT_LITTLE_ENDIAN,
    IMPLICIT_LITTLE_ENDIAN,
    Document,
    inflate,
    make_document,
    read_file_meta,
    reader_of,
)
from imaging_ai.archive.frames import (
    NO_END,
    FrameTable,
    PixelData,
    PixelDescription,
    Reader,
    frame_table,
    walk_fragments,
)
from imaging_ai.errors import InputError, NotDicom, TooLarge

__all__ = [
    "DECODABLE",
    "PIXEL_PATHS",
    "Frames",
    "decode_frames",
    "described_frames",
    "image_of",
    "iterate_frames",
    "open_frames",
]

_MAX_FRAME_BYTES = 1 << 31
_NATIVE = ("", IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN, DEFLATED)
_PIXEL_KEYWORDS = {0x7FE00010: "PixelData", 0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData"}

#: The same as paths of bulk data.
PIXEL_PATHS = {f"{tag:08X}": keyword for tag, keyword in _PIXEL_KEYWORDS.items()}

_TAGS = {
    "SamplesPerPixel": "00280002",
    "PhotometricInterpretation": "00280004",
    "PlanarConfiguration": "00280006",
    "NumberOfFrames": "00280008",
    "Rows": "00280010",
    "Columns": "00280011",
    "BitsAllocated": "00280100",
    "BitsStored": "00280101",
    "HighBit": "00280102",
    "PixelRepresentation": "00280103",
}


class _Element(msgspec.Struct):
    Value: list[Any] = []


#: The attributes of `_TAGS` in a data set of DICOM JSON; the rest of it is skipped.
_ImagePixel = msgspec.defstruct(
    "_ImagePixel", [(name, _Element, msgspec.field(default_factory=_Element)) for name in _TAGS], rename=_TAGS
)


class Frames:
    """The frames of one instance, decoded one at a time; they count from 1."""

    def __init__(
        self, read: Reader, table: FrameTable, image: Image, palette: Callable[[], Dataset], error: str
    ) -> None:
        self._read, self._table, self._image, self._palette = read, table, image, palette
        self._native = table.kind == "native"
        self.error = "" if error == NO_END else error  # a data set in memory never has the end
        if table.kind == "none" and self.error:
            raise NotDicom(f"the pixel data is damaged: {self.error}")
        if not self._native and image.transfer_syntax_uid not in DECODABLE:
            raise InputError(f"transfer syntax {image.transfer_syntax_uid} cannot be decoded here")

    def __len__(self) -> int:
        return self._table.count

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the stored values."""
        return self._image.dtype

    @property
    def image(self) -> Image:
        """The Image Pixel attributes."""
        return self._image

    def decode(self, frame_number: int, *, rgb: bool = False) -> NDArray[Any]:
        """Return one frame as (rows, columns) or (rows, columns, samples), perhaps read-only.

        Raises
        ------
        NotFound
            If there is no such frame.
        NotDicom
            If its bytes are not what their transfer syntax says.
        """
        pieces = [self._read(offset, length) for offset, length in self._table.ranges(frame_number)]
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        uid = self._image.transfer_syntax_uid
        try:
            if self._native:
                frame = native_values(data, self._image, self._table.bit_offset(frame_number))
            else:
                frame = stored_values(DECODABLE[uid](data, self._image), self._image)
            return self._as_rgb(frame) if rgb else frame
        except (RuntimeError, ValueError, LookupError, AttributeError, EOFError, struct.error, zlib.error) as error:
            raise NotDicom(f"frame {frame_number} cannot be decoded from transfer syntax {uid}") from error

    def _as_rgb(self, frame: NDArray[Any]) -> NDArray[Any]:
        if self._image.photometric_interpretation == "PALETTE COLOR":
            return apply_color_lut(frame, self._palette())
        if self._image.is_ybr:
            return convert_color_space(frame, "YBR_FULL", "RGB")
        return frame


def open_frames(source: Dataset | bytes) -> Frames:
    """Find the frames of an instance, given as a data set or as its PS3.10 file, without decoding them.

    Raises
    ------
    NotDicom, InputError, TooLarge
        If it has no pixel data, or none that can be decoded.
    """
    if isinstance(source, Dataset):
        return _frames_of_dataset(source)
    transfer_syntax_uid, start = read_file_meta(source)
    if transfer_syntax_uid == DEFLATED:
        source, error = inflate(source[start:])
        if error:
            raise NotDicom(error)
    document = make_document(reader_of(source), len(source), "")
    document = replace(document, transfer_syntax_uid=transfer_syntax_uid)  # what was inflated does not say
    file = source
    return described_frames(
        document,
        msgspec.json.decode(document.json),
        reader_of(file),
        lambda: dcmread(BytesIO(file), stop_before_pixels=True, force=True),
    )


def described_frames(
    document: Document, attributes: Mapping[str, Any], read: Reader, palette: Callable[[], Dataset] = Dataset
) -> Frames:
    """Find the frames of an instance whose document is there; `attributes` is its JSON, decoded.

    `palette` gives the data set that has the colours, where frames are wanted as RGB.

    Raises
    ------
    NotDicom, InputError, TooLarge
        If it has no pixel data, or none that can be decoded.
    """
    keyword = next((word for tag, word in _PIXEL_KEYWORDS.items() if f"{tag:08X}" in attributes), "")

    def value_of(name: str) -> Any:
        return next(iter(attributes.get(_TAGS[name], {}).get("Value", ())), None)

    vr = attributes.get("7FE00010", {}).get("vr", "")
    image = _image_of(value_of, document.transfer_syntax_uid, keyword, vr)
    return Frames(read, document.frames, image, palette, document.error)


def image_of(document: Document) -> Image:
    """Return the Image Pixel attributes that a document has, reading no more of its JSON.

    Raises
    ------
    NotDicom, InputError, TooLarge
        If it has no pixel data, or none that can be decoded.
    """
    bulk = {value.path: value.vr for value in document.bulk}
    keyword = next((word for path, word in PIXEL_PATHS.items() if path in bulk), "")
    attributes = msgspec.json.decode(document.json, type=_ImagePixel)
    return _image_of(
        lambda name: next(iter(getattr(attributes, name).Value), None),
        document.transfer_syntax_uid,
        keyword,
        bulk.get("7FE00010", ""),
    )


def _frames_of_dataset(ds: Dataset) -> Frames:
    tag, keyword = next(((tag, word) for tag, word in _PIXEL_KEYWORDS.items() if word in ds), (0, ""))
    value = ds[tag].value if keyword else b""
    transfer_syntax_uid = str(getattr(getattr(ds, "file_meta", None), "TransferSyntaxUID", ""))
    image = _image_of(ds.get, transfer_syntax_uid, keyword, str(ds[tag].VR) if keyword else "")
    read = reader_of(value)
    fragments = walk_fragments(read, 0, len(value)) if transfer_syntax_uid not in _NATIVE else None
    extended = ds.get("ExtendedOffsetTable") or b""
    description = PixelDescription(
        image.rows,
        image.columns,
        image.samples,
        image.bits_allocated,
        image.number_of_frames,
        image.photometric_interpretation,
    )
    table, error = frame_table(PixelData(tag, 0, len(value), fragments, extended), description, transfer_syntax_uid)
    return Frames(read, table, image, lambda: ds, error)


def iterate_frames(
    source: Dataset | bytes, *, frame_numbers: Sequence[int] | None = None, rgb: bool = False
) -> Iterator[NDArray[Any]]:
    """Give the frames one after the other, as `Frames.decode`; memory holds one at a time."""
    frames = open_frames(source)
    for number in frame_numbers or range(1, len(frames) + 1):
        yield frames.decode(number, rgb=rgb)


def decode_frames(
    source: Dataset | bytes, *, frame_numbers: Sequence[int] | None = None, rgb: bool = False
) -> NDArray[Any]:
    """Return the frames as (frames, rows, columns[, samples]), all of them by default.

    Raises
    ------
    NotDicom, InputError, TooLarge
        If the instance has no pixel data, less than it says, or none that can be decoded.
    """
    frames = open_frames(source)
    if frames.error:
        raise NotDicom(f"the pixel data is damaged: {frames.error}")
    numbers = frame_numbers or range(1, len(frames) + 1)
    first = frames.decode(numbers[0], rgb=rgb)
    result = np.empty((len(numbers), *first.shape), first.dtype)
    result[0] = first
    for index, number in enumerate(numbers[1:], start=1):
        result[index] = frames.decode(number, rgb=rgb)
    return result


def _image_of(value_of: Callable[[str], Any], transfer_syntax_uid: str, keyword: str, vr: str) -> Image:
    """Return the Image Pixel attributes that `value_of` gives by keyword."""
    if not keyword:
        raise InputError("the instance has no pixel data")
    try:
        bits = int(value_of("BitsAllocated"))
        image = Image(
            transfer_syntax_uid=transfer_syntax_uid,
            rows=int(value_of("Rows")),
            columns=int(value_of("Columns")),
            samples=int(value_of("SamplesPerPixel") or 1),
            bits_allocated=bits,
            bits_stored=int(value_of("BitsStored") or bits),
            high_bit=int(value_of("HighBit") or (value_of("BitsStored") or bits) - 1),
            signed=bool(value_of("PixelRepresentation")),
            photometric_interpretation=str(value_of("PhotometricInterpretation") or ""),
            planar=bool(value_of("PlanarConfiguration")),
            number_of_frames=int(value_of("NumberOfFrames") or 1),
            floating=keyword != "PixelData",
            swapped_bytes=transfer_syntax_uid == EXPLICIT_BIG_ENDIAN and vr == "OW" and bits == 8,
        )
    except (TypeError, ValueError, NotImplementedError) as error:
        raise NotDicom("rows, columns or bits of the pixel data are missing or no numbers") from error
    if bits not in (1, 8, 16, 32, 64) or not 0 < image.bits_stored <= image.high_bit + 1 <= bits:
        raise InputError(f"pixels of {image.bits_stored} bits in {bits} are not supported")
    if not image.photometric_interpretation.isascii():
        raise NotDicom("the Photometric Interpretation is no defined term")
    if image.rows * image.columns * image.samples * bits // 8 > _MAX_FRAME_BYTES:
        raise TooLarge(f"a frame would take more than {_MAX_FRAME_BYTES} bytes")
    return image
