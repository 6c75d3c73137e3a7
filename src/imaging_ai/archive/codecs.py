"""Pixel data to arrays: every transfer syntax, one frame at a time (PS3.5 8 and A.4, PS3.3 C.7.6.3).

Values come out as stored: before rescale, sign extended from Bits Stored, bits above them (old overlays) cleared. What
a codestream itself transforms comes out as it went in (JPEG 2000's YBR_RCT and YBR_ICT are RGB again); `rgb=True` also
turns YBR and PALETTE COLOR into RGB. One table says which decoder serves which transfer syntax: imagecodecs throughout,
the fastest of those that are right (python-gdcm and Pillow fail on 12-bit JPEG; OpenJPH wraps lossy HTJ2K around where
OpenJPEG does not).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_color_lut, convert_color_space

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

__all__ = ["DECODABLE", "Frames", "decode_frames", "iterate_frames", "open_frames"]

_MAX_FRAME_BYTES = 1 << 31
_NATIVE = ("", IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN, DEFLATED)
_PIXEL_KEYWORDS = {0x7FE00010: "PixelData", 0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData"}


@dataclass(frozen=True, slots=True)
class _Image:
    """The Image Pixel attributes of one instance, and how its pixel data is encoded."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric_interpretation: str
    planar: bool
    number_of_frames: int
    floating: bool
    swapped_bytes: bool  # 8-bit pixels in big endian words

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one frame."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the decoded values."""
        if self.floating:
            return np.dtype(f"f{self.bits_allocated // 8}")
        return np.dtype(f"{'i' if self.signed and self.bits_allocated > 1 else 'u'}{max(self.bits_allocated, 8) // 8}")

    @property
    def is_ybr(self) -> bool:
        """Whether the stored values are luminance and colour differences."""
        return self.photometric_interpretation in ("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420")


_Decode = Callable[[bytes, _Image], NDArray[Any]]


class Frames:
    """The frames of one instance, decoded one at a time; they count from 1."""

    def __init__(self, read: Reader, table: FrameTable, image: _Image, ds: Dataset, error: str) -> None:
        self._read, self._table, self._image, self._ds = read, table, image, ds
        self._native = table.kind == "native"
        self.error = "" if error == NO_END else error  # a data set in memory never has the end
        if not self._native and image.transfer_syntax_uid not in DECODABLE:
            raise InputError(f"transfer syntax {image.transfer_syntax_uid} cannot be decoded here")

    def __len__(self) -> int:
        return self._table.count

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the stored values."""
        return self._image.dtype

    def decode(self, frame_number: int, *, rgb: bool = False) -> NDArray[Any]:
        """Return one frame as (rows, columns) or (rows, columns, samples).

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
                frame = _native(data, self._image, self._table.bit_offset(frame_number))
            else:
                frame = _stored_values(DECODABLE[uid](data, self._image), self._image)
            return self._as_rgb(frame) if rgb else frame
        except (RuntimeError, ValueError, LookupError, AttributeError, struct.error, zlib.error) as error:
            raise NotDicom(f"frame {frame_number} cannot be decoded from transfer syntax {uid}") from error

    def _as_rgb(self, frame: NDArray[Any]) -> NDArray[Any]:
        if self._image.photometric_interpretation == "PALETTE COLOR":
            return apply_color_lut(frame, self._ds)
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
    bulk = {value.path: value.vr for value in document.bulk}
    keyword = next((word for tag, word in _PIXEL_KEYWORDS.items() if f"{tag:08X}" in bulk), "")
    try:
        ds = dcmread(BytesIO(source), stop_before_pixels=True, force=True)
    except (InvalidDicomError, EOFError, ValueError) as error:
        raise NotDicom("the attributes of the image cannot be read") from error
    image = _image_of(ds, transfer_syntax_uid, keyword, bulk.get("7FE00010", ""))
    return Frames(reader_of(source), document.frames, image, ds, document.error)


def _frames_of_dataset(ds: Dataset) -> Frames:
    tag, keyword = next(((tag, word) for tag, word in _PIXEL_KEYWORDS.items() if word in ds), (0, ""))
    value = ds[tag].value if keyword else b""
    transfer_syntax_uid = str(getattr(getattr(ds, "file_meta", None), "TransferSyntaxUID", ""))
    image = _image_of(ds, transfer_syntax_uid, keyword, str(ds[tag].VR) if keyword else "")
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
    return Frames(read, table, image, ds, error)


def iterate_frames(
    source: Dataset | bytes, *, frame_numbers: Sequence[int] | None = None, rgb: bool = False
) -> Iterator[NDArray[Any]]:
    """Give the frames one after the other; memory holds one at a time."""
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
    if len(numbers) == 1:
        return first[np.newaxis]
    result = np.empty((len(numbers), *first.shape), first.dtype)
    result[0] = first
    for index, number in enumerate(numbers[1:], start=1):
        result[index] = frames.decode(number, rgb=rgb)
    return result


def _image_of(ds: Dataset, transfer_syntax_uid: str, keyword: str, vr: str) -> _Image:
    if not keyword:
        raise InputError("the instance has no pixel data")
    try:
        bits = int(ds.BitsAllocated)
        image = _Image(
            transfer_syntax_uid=transfer_syntax_uid,
            rows=int(ds.Rows),
            columns=int(ds.Columns),
            samples=int(ds.get("SamplesPerPixel") or 1),
            bits_allocated=bits,
            bits_stored=int(ds.get("BitsStored") or bits),
            high_bit=int(ds.get("HighBit") or (ds.get("BitsStored") or bits) - 1),
            signed=bool(ds.get("PixelRepresentation")),
            photometric_interpretation=str(ds.get("PhotometricInterpretation") or ""),
            planar=bool(ds.get("PlanarConfiguration")),
            number_of_frames=int(ds.get("NumberOfFrames") or 1),
            floating=keyword != "PixelData",
            swapped_bytes=transfer_syntax_uid == EXPLICIT_BIG_ENDIAN and vr == "OW" and bits == 8,
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise NotDicom("rows, columns or bits of the pixel data are missing or no numbers") from error
    if bits not in (1, 8, 16, 32, 64) or not 0 < image.bits_stored <= image.high_bit + 1 <= bits:
        raise InputError(f"pixels of {image.bits_stored} bits in {bits} are not supported")
    if image.rows * image.columns * image.samples * bits // 8 > _MAX_FRAME_BYTES:
        raise TooLarge(f"a frame would take more than {_MAX_FRAME_BYTES} bytes")
    return image


def _native(data: bytes, image: _Image, bit_offset: int) -> NDArray[Any]:
    count = image.rows * image.columns * image.samples
    if image.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return bits[bit_offset : bit_offset + count].reshape(image.shape)
    if image.swapped_bytes:
        data = np.frombuffer(data, np.uint16).byteswap().tobytes()
    big_endian = image.transfer_syntax_uid == EXPLICIT_BIG_ENDIAN
    values = np.frombuffer(data, image.dtype.newbyteorder(">" if big_endian else "<"))
    if image.photometric_interpretation == "YBR_FULL_422" and image.samples == 3:
        pairs = values.reshape(-1, 4)  # Y1 Y2 CB CR (PS3.3 C.7.6.3.1.2)
        frame = np.stack([pairs[:, [0, 2, 3]], pairs[:, [1, 2, 3]]], axis=1).reshape(image.shape)
    elif image.planar and image.samples > 1:
        frame = np.moveaxis(values.reshape(image.samples, image.rows, image.columns), 0, -1)
    else:
        frame = values.reshape(image.shape)
    if image.floating:
        return frame.astype(image.dtype)
    return _significant(frame.astype(image.dtype), image.bits_allocated, image.high_bit, image.bits_stored)


def _stored_values(frame: NDArray[Any], image: _Image) -> NDArray[Any]:
    """Return what a decoder gave as values of the data set's type."""
    if frame.shape != image.shape:
        raise ValueError("the codestream has other rows, columns or samples than the data set")
    if frame.dtype.itemsize < image.dtype.itemsize and frame.dtype.kind == "u":
        frame = frame.astype(f"u{image.dtype.itemsize}")
    return _significant(frame.astype(image.dtype), image.bits_allocated, image.bits_stored - 1, image.bits_stored)


def _significant(frame: NDArray[Any], allocated: int, high_bit: int, stored: int) -> NDArray[Any]:
    """Keep the stored bits only, and give them their sign."""
    if stored == allocated or allocated == 1:
        return frame
    left: Any = frame.dtype.type(allocated - 1 - high_bit)
    significant: NDArray[Any] = (frame << left) >> frame.dtype.type(allocated - stored)
    return significant


def _rle(data: bytes, image: _Image) -> NDArray[Any]:
    """PS3.5 G: byte planes, the most significant first, each packed on its own."""
    segments, *offsets = struct.unpack_from("<16I", data)
    pixels = image.rows * image.columns
    width = max(image.bits_allocated // 8, 1)
    length = pixels if image.bits_allocated > 1 else (pixels + 7) // 8
    if segments != image.samples * width:
        raise ValueError("the number of segments is not that of the bytes of a pixel")
    planes = np.zeros((segments, length), np.uint8)
    for plane, start, stop in zip(planes, offsets, [*offsets[1:segments], len(data)], strict=False):
        unpacked = imagecodecs.packbits_decode(data[start:stop], out=length + 2)  # padded to even length
        plane[:] = np.frombuffer(unpacked, np.uint8)[:length]
    if image.bits_allocated == 1:
        return np.unpackbits(planes[0], bitorder="little")[:pixels].reshape(image.shape)
    little_endian = planes.reshape(image.samples, width, length)[:, ::-1].transpose(2, 0, 1)
    return np.ascontiguousarray(little_endian).view(f"<u{width}").reshape(image.shape)


def _jpeg(data: bytes, image: _Image) -> NDArray[Any]:
    _check_size(_jpeg_size(data), image)
    if image.samples == 1:
        return np.asarray(imagecodecs.jpeg_decode(data))
    if image.is_ybr:
        return np.asarray(imagecodecs.jpeg_decode(data, colorspace="YCBCR", outcolorspace="YCBCR"))
    # a JFIF header says YCbCr whatever the data set says (and many say RGB)
    inside = "YCBCR" if b"JFIF" in data[:32] else "RGB"
    return np.asarray(imagecodecs.jpeg_decode(data, colorspace=inside, outcolorspace="RGB"))


def _jpeg_ls(data: bytes, image: _Image) -> NDArray[Any]:
    _check_size(_jpeg_size(data), image)
    return np.asarray(imagecodecs.jpegls_decode(data))


def _jpeg_2000(data: bytes, image: _Image) -> NDArray[Any]:
    _check_size(_jpeg_2000_size(data), image)
    return np.asarray(imagecodecs.jpeg2k_decode(data))


def _htj2k(data: bytes, image: _Image) -> NDArray[Any]:
    _check_size(_jpeg_2000_size(data), image)
    return np.asarray(imagecodecs.htj2k_decode(data))


def _jpeg_xl(data: bytes, _image: _Image) -> NDArray[Any]:
    return np.asarray(imagecodecs.jpegxl_decode(data))


def _deflated_frame(data: bytes, image: _Image) -> NDArray[Any]:
    """PS3.5 A.4.13: the native frame, deflated, bits packed from the frame's own first bit."""
    bits = image.rows * image.columns * image.samples * image.bits_allocated
    return _native(zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, (bits + 7) // 8), image, 0)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return rows and columns of a JPEG or JPEG-LS codestream from its frame header (SOFn, SOF55)."""
    position = 2
    while position + 9 <= len(data):
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position] != 0xFF:
            break
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = struct.unpack_from(">HH", data, position + 5)
            return rows, columns
        position += 1 if marker == 0xFF else 2 + length
    raise ValueError("no frame header")


def _jpeg_2000_size(data: bytes) -> tuple[int, int]:
    """Return rows and columns of a JPEG 2000 codestream from its image and tile size (SIZ)."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 1024)  # some wrap it in a JP2 file
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8) if start >= 0 else (0, 0, 0, 0)
    return bottom - top, right - left


def _check_size(size: tuple[int, int], image: _Image) -> None:
    """Refuse a codestream that would decode to something else than the data set says, before it takes memory."""
    if size != (image.rows, image.columns):
        raise ValueError("the codestream has other rows and columns than the data set")


#: Transfer syntax of encapsulated pixel data -> its decoder.
DECODABLE: dict[str, _Decode] = {
    "1.2.840.10008.1.2.5": _rle,
    "1.2.840.10008.1.2.8.1": _deflated_frame,
    "1.2.840.10008.1.2.4.50": _jpeg,  # baseline, 8 bits
    "1.2.840.10008.1.2.4.51": _jpeg,  # extended, 12 bits
    "1.2.840.10008.1.2.4.57": _jpeg,  # lossless
    "1.2.840.10008.1.2.4.70": _jpeg,  # lossless, selection value 1
    "1.2.840.10008.1.2.4.80": _jpeg_ls,
    "1.2.840.10008.1.2.4.81": _jpeg_ls,
    "1.2.840.10008.1.2.4.90": _jpeg_2000,
    "1.2.840.10008.1.2.4.91": _jpeg_2000,
    "1.2.840.10008.1.2.4.110": _jpeg_xl,
    "1.2.840.10008.1.2.4.111": _jpeg_xl,
    "1.2.840.10008.1.2.4.112": _jpeg_xl,
    "1.2.840.10008.1.2.4.201": _htj2k,  # lossless
    "1.2.840.10008.1.2.4.202": _htj2k,  # lossless, RPCL
    "1.2.840.10008.1.2.4.203": _jpeg_2000,  # OpenJPEG decodes lossy HTJ2K without wrapping around
}
