"""The encoder of each transfer syntax: one decoded frame to its codestream (PS3.5 8.2, A.4 and G).

What cannot be encoded so that a reader gets the very same values is refused; `near` and baseline JPEG, which are lossy
by nature, are bounded: near-lossless JPEG-LS is off by at most `NEAR` stored values. JPEG 2000 and HTJ2K are always
reversible, also where their transfer syntax would permit loss.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
from numpy.typing import NDArray

from imaging_ai.archive.decoders import Image

__all__ = ["ENCODERS", "NEAR", "Encoder"]

NEAR = 2
_QUALITY = 92

Encode = Callable[[NDArray[Any], Image, str], bytes]


@dataclass(frozen=True, slots=True)
class Encoder:
    """How frames become codestreams of a transfer syntax.

    `method` is the Lossy Image Compression Method (0028,2114), "" where nothing is lost.
    """

    encode: Encode
    refuses: Callable[[Image], str]
    interpretation: Callable[[str], str] = str
    method: str = ""


def _unsigned(frame: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(frame).view(f"u{frame.dtype.itemsize}")


def _bits(frame: NDArray[Any], image: Image) -> int:
    """Return the precision of a codestream: that of the values, where a decoder then still gives their type."""
    container = frame.dtype.itemsize * 8
    return image.bits_stored if container - 8 < image.bits_stored <= container and image.bits_stored > 1 else container


# -- the codestreams


def _rle(frame: NDArray[Any], _image: Image, _interpretation: str) -> bytes:
    """PS3.5 G: byte planes, the most significant first; no run crosses the end of a row."""
    width = frame.dtype.itemsize
    samples = frame.reshape(*frame.shape[:2], -1)
    big_endian = np.ascontiguousarray(samples, samples.dtype.newbyteorder(">")).view(np.uint8)
    planes = big_endian.reshape(*frame.shape[:2], samples.shape[2] * width)
    segments = []
    for plane in range(planes.shape[2]):
        packed = bytes(imagecodecs.packbits_encode(np.ascontiguousarray(planes[..., plane])))
        segments.append(packed + b"\0" * (len(packed) % 2))
    offsets, position = [], 64
    for segment in segments:
        offsets.append(position)
        position += len(segment)
    head = struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments)))
    return b"".join([head, *segments])


def _jpeg_baseline(frame: NDArray[Any], _image: Image, interpretation: str) -> bytes:
    frame = np.ascontiguousarray(frame)
    if frame.ndim == 2:
        return bytes(imagecodecs.jpeg_encode(frame, _QUALITY))
    inside = "RGB" if interpretation == "RGB" else "YCBCR"
    return bytes(imagecodecs.jpeg_encode(frame, _QUALITY, colorspace=inside, outcolorspace="YCBCR", subsampling="422"))


def _jpeg_lossless(frame: NDArray[Any], image: Image, _interpretation: str) -> bytes:
    bits = frame.dtype.itemsize * 8 if image.signed else _bits(frame, image)
    options: dict[str, Any] = {"lossless": True, "predictor": 1, "bitspersample": bits}
    if frame.ndim == 3:  # whatever the colours are, nothing transforms them
        options |= {"colorspace": "RGB", "outcolorspace": "RGB"}
    return bytes(imagecodecs.jpeg_encode(_unsigned(frame), **options))


def _jpeg_ls(frame: NDArray[Any], _image: Image, _interpretation: str) -> bytes:
    return bytes(imagecodecs.jpegls_encode(_unsigned(frame)))


def _jpeg_ls_near(frame: NDArray[Any], image: Image, interpretation: str) -> bytes:
    """With the precision of the values, so that no error carries one over their greatest."""
    options: dict[str, Any] = {}
    if frame.ndim == 3:
        options = {"interleave_mode": 2}
    rows, columns = frame.shape[:2]
    return bytes(
        jpeg_ls.encode_pixel_data(
            np.ascontiguousarray(frame).tobytes(),
            lossy_error=NEAR,
            rows=rows,
            columns=columns,
            samples_per_pixel=image.samples,
            bits_stored=image.bits_stored,
            photometric_interpretation=interpretation,
            **options,
        )
    )


def _jpeg_2000(frame: NDArray[Any], image: Image, interpretation: str) -> bytes:
    return bytes(
        imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(frame),
            codecformat="J2K",
            reversible=True,
            bitspersample=_bits(frame, image),
            mct=interpretation == "RGB",
        )
    )


def _htj2k(frame: NDArray[Any], _image: Image, interpretation: str) -> bytes:
    """In RPCL order with tile-part lengths, as 1.2.840.10008.1.2.4.202 wants it."""
    options: dict[str, Any] = {"rgb": interpretation == "RGB", "planar": False} if frame.ndim == 3 else {}
    return bytes(imagecodecs.htj2k_encode(np.ascontiguousarray(frame), reversible=True, tlm=True, **options))


# -- what they cannot take


def _not_lossless(image: Image) -> str:
    if image.floating:
        return "floating point pixels cannot be compressed"
    if image.bits_allocated not in (8, 16):
        return f"pixels of {image.bits_allocated} bits cannot be compressed"
    if image.samples not in (1, 3):
        return f"pixels of {image.samples} samples cannot be compressed"
    return ""


def _not_lossy(image: Image) -> str:
    if refused := _not_lossless(image):
        return refused
    if image.photometric_interpretation == "PALETTE COLOR":
        return "indices into a palette cannot be compressed with loss"
    return "signed pixels cannot be compressed with loss" if image.signed else ""


def _not_baseline(image: Image) -> str:
    if refused := _not_lossy(image):
        return refused
    return "" if image.bits_allocated == image.bits_stored == 8 else "JPEG baseline is for pixels of 8 bits only"


def _reversible_colour(interpretation: str) -> str:
    return "YBR_RCT" if interpretation == "RGB" else interpretation


def _subsampled(interpretation: str) -> str:
    return "YBR_FULL_422" if interpretation in ("RGB", "YBR_FULL") else interpretation


#: Transfer syntax -> its encoder.
ENCODERS: Mapping[str, Encoder] = MappingProxyType(
    {
        "1.2.840.10008.1.2.5": Encoder(_rle, _not_lossless),
        "1.2.840.10008.1.2.4.50": Encoder(_jpeg_baseline, _not_baseline, _subsampled, "ISO_10918_1"),
        "1.2.840.10008.1.2.4.57": Encoder(_jpeg_lossless, _not_lossless),
        "1.2.840.10008.1.2.4.70": Encoder(_jpeg_lossless, _not_lossless),
        "1.2.840.10008.1.2.4.80": Encoder(_jpeg_ls, _not_lossless),
        "1.2.840.10008.1.2.4.81": Encoder(_jpeg_ls_near, _not_lossy, method="ISO_14495_1"),
        "1.2.840.10008.1.2.4.90": Encoder(_jpeg_2000, _not_lossless, _reversible_colour),
        "1.2.840.10008.1.2.4.91": Encoder(_jpeg_2000, _not_lossless, _reversible_colour),
        "1.2.840.10008.1.2.4.201": Encoder(_htj2k, _not_lossless, _reversible_colour),
        "1.2.840.10008.1.2.4.202": Encoder(_htj2k, _not_lossless, _reversible_colour),
        "1.2.840.10008.1.2.4.203": Encoder(_htj2k, _not_lossless, _reversible_colour),
    }
)
