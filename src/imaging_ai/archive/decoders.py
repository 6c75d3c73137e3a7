"""The decoder of each transfer syntax: the bytes of one frame to an array (PS3.5 8, A.4 and G).

imagecodecs throughout, the fastest of those that are right: python-gdcm and Pillow fail on 12-bit JPEG, OpenJPH wraps
lossy HTJ2K around where OpenJPEG does not.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from imaging_ai.archive.document import EXPLICIT_BIG_ENDIAN

__all__ = ["DECODABLE", "Image", "native_values", "stored_values"]


@dataclass(frozen=True, slots=True)
class Image:
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


Decode = Callable[[bytes, Image], NDArray[Any]]


def native_values(data: bytes, image: Image, bit_offset: int) -> NDArray[Any]:
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
        frame = np.stack(list(values.reshape(image.samples, image.rows, image.columns)), axis=-1)
    else:
        frame = values.reshape(image.shape)
    frame = frame.astype(image.dtype, copy=False)
    return frame if image.floating else _significant(frame, image.bits_allocated, image.high_bit, image.bits_stored)


def stored_values(frame: NDArray[Any], image: Image) -> NDArray[Any]:
    """Return what a decoder gave as values of the data set's type."""
    if frame.shape != image.shape:
        raise ValueError("the codestream has other rows, columns or samples than the data set")
    if frame.dtype.itemsize < image.dtype.itemsize and frame.dtype.kind == "u":
        frame = frame.astype(f"u{image.dtype.itemsize}")
    frame = frame.astype(image.dtype, copy=False)
    return _significant(frame, image.bits_allocated, image.bits_stored - 1, image.bits_stored)


def _significant(frame: NDArray[Any], allocated: int, high_bit: int, stored: int) -> NDArray[Any]:
    """Keep the stored bits only, and give them their sign; a frame that has nothing else, as most, stays as it is."""
    if stored == allocated or allocated == 1:
        return frame
    signed = frame.dtype.kind == "i"
    most = 1 << (stored - signed)
    if high_bit == stored - 1 and frame.max(initial=0) < most and not (signed and frame.min(initial=0) < -most):
        return frame
    left: Any = frame.dtype.type(allocated - 1 - high_bit)
    significant: NDArray[Any] = (frame << left) >> frame.dtype.type(allocated - stored)
    return significant


def _rle(data: bytes, image: Image) -> NDArray[Any]:
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


def _jpeg(data: bytes, image: Image) -> NDArray[Any]:
    _check_size(_jpeg_size(data), image)
    if image.samples == 1:
        return np.asarray(imagecodecs.jpeg_decode(data))
    if image.is_ybr:
        return np.asarray(imagecodecs.jpeg_decode(data, colorspace="YCBCR", outcolorspace="YCBCR"))
    # a JFIF header says YCbCr whatever the data set says (and many say RGB)
    inside = "YCBCR" if b"JFIF" in data[:32] else "RGB"
    return np.asarray(imagecodecs.jpeg_decode(data, colorspace=inside, outcolorspace="RGB"))


def _jpeg_ls(data: bytes, image: Image) -> NDArray[Any]:
    _check_size(_jpeg_size(data), image)
    return np.asarray(imagecodecs.jpegls_decode(data))


def _jpeg_2000(data: bytes, image: Image) -> NDArray[Any]:
    _check_size(_jpeg_2000_size(data), image)
    return np.asarray(imagecodecs.jpeg2k_decode(data))


def _htj2k(data: bytes, image: Image) -> NDArray[Any]:
    _check_size(_jpeg_2000_size(data), image)
    return np.asarray(imagecodecs.htj2k_decode(data, planar=False))


def _jpeg_xl(data: bytes, image: Image) -> NDArray[Any]:
    rows, columns = _jpeg_xl_size(data)
    _check_size((rows, columns, image.samples), image)
    return np.asarray(imagecodecs.jpegxl_decode(data))


def _deflated_frame(data: bytes, image: Image) -> NDArray[Any]:
    """PS3.5 A.4.13: the native frame, deflated, bits packed from the frame's own first bit."""
    bits = image.rows * image.columns * image.samples * image.bits_allocated
    return native_values(zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, (bits + 7) // 8), image, 0)


def _jpeg_size(data: bytes) -> tuple[int, int, int]:
    """Return rows, columns and components of a JPEG or JPEG-LS codestream from its frame header (SOFn, SOF55)."""
    position = 2
    while position + 9 <= len(data):
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position] != 0xFF:
            break
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, components = struct.unpack_from(">HHB", data, position + 5)
            return rows, columns, components
        position += 1 if marker == 0xFF else 2 + length
    raise ValueError("no frame header")


def _jpeg_2000_size(data: bytes) -> tuple[int, int, int]:
    """Return rows, columns and components of a JPEG 2000 codestream from its image and tile size (SIZ)."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 1024)  # some wrap it in a JP2 file
    if start < 0:
        raise ValueError("no codestream")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    return bottom - top, right - left, components


def _jpeg_xl_size(data: bytes) -> tuple[int, int]:
    """Return rows and columns of a JPEG XL codestream from its SizeHeader (ISO/IEC 18181-1 D.1)."""
    start = data.find(b"\xff\x0a", 0, 1024)  # some wrap it in boxes
    if start < 0:
        raise ValueError("no codestream")
    bits, at = int.from_bytes(data[start + 2 : start + 14], "little"), 0

    def take(count: int) -> int:
        nonlocal at
        value = bits >> at & ((1 << count) - 1)
        at += count
        return value

    by_eight = take(1)

    def side() -> int:
        return (1 + take(5)) * 8 if by_eight else 1 + take((9, 13, 18, 30)[take(2)])

    rows = side()
    ratio = take(3)
    if ratio == 0:
        return rows, side()
    across, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return rows, rows * across // down


def _check_size(size: tuple[int, int, int], image: Image) -> None:
    """Refuse a codestream that would decode to something else than the data set says, before it takes memory."""
    if size != (image.rows, image.columns, image.samples):
        raise ValueError("the codestream has other rows, columns or components than the data set")


#: Transfer syntax of encapsulated pixel data -> its decoder.
DECODABLE: dict[str, Decode] = {
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
