"""Compressed bulk data: which transfer syntax it is in (PS3.18 8.7.3.3.2), and what its codestream says of the image.

A media type has a default transfer syntax; without a `transfer-syntax` parameter the codestream itself is believed,
since a JPEG baseline stream is none of JPEG lossless whatever the default is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from imaging_ai.core.contexts import TRANSFER_SYNTAXES, UNCOMPRESSED
from imaging_ai.errors import NotDicom, UnsupportedTransferSyntax
from imaging_ai.serve.dicomweb.media import OCTET_STREAM, MediaType

__all__ = ["HEAD_BYTES", "Codestream", "read_codestream", "transfer_syntax_of"]

#: As much of a codestream as is looked at.
HEAD_BYTES = 64 << 10

_J = "1.2.840.10008.1.2.4."
_JPEG, _JPEG_LS, _JPEG_2000 = (
    (_J + "70", _J + "50", _J + "51", _J + "57"),
    (_J + "80", _J + "81"),
    (_J + "90", _J + "91"),
)
_RLE = ("1.2.840.10008.1.2.5",)
_HTJ2K = (_J + "201", _J + "202", _J + "203")
_MPEG2 = (_J + "101", _J + "100", _J + "101.1", _J + "100.1")
_MP4 = tuple(_J + number for number in ("102", "103", "104", "105", "106", "102.1", "103.1", "104.1", "105.1", "106.1"))

#: Media type -> its transfer syntaxes, the default first (table 8.7.3-5, and names of earlier editions).
_TRANSFER_SYNTAXES: Mapping[str, tuple[str, ...]] = {
    "image/jpeg": _JPEG,
    "image/dicom-rle": _RLE,
    "image/x-dicom-rle": _RLE,
    "image/jls": _JPEG_LS,
    "image/x-jls": _JPEG_LS,
    "image/jp2": _JPEG_2000,
    "image/jpx": (_J + "92", _J + "93"),
    "image/jphc": _HTJ2K,
    "image/jph": _HTJ2K,
    "image/jxl": (_J + "110", _J + "111", _J + "112"),
    "video/mpeg": _MPEG2,
    "video/mpeg2": _MPEG2,
    "video/mp4": _MP4,
    "video/h265": (_J + "107", _J + "108"),
}
_SOS = 0xDA
_START_OF_FRAME = {0xC0: _J + "50", 0xC1: _J + "51", 0xC3: _J + "70", 0xF7: _J + "80"}
_COD, _SIZ = 0x52, 0x51


@dataclass(frozen=True, slots=True)
class Codestream:
    """What the headers of a JPEG, JPEG-LS or JPEG 2000 codestream say (PS3.3 C.7.6.3.1)."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    samples: int
    bits: int
    is_signed: bool
    photometric_interpretation: str

    def description(self) -> dict[str, dict[str, object]]:
        """Return the attributes of the Image Pixel Description Macro, in DICOM JSON."""
        allocated = 8 if self.bits <= 8 else 16
        numbers = {"00280010": self.rows, "00280011": self.columns, "00280002": self.samples, "00280100": allocated}
        numbers |= {"00280101": self.bits, "00280102": self.bits - 1, "00280103": int(self.is_signed)}
        if self.samples > 1:
            numbers["00280006"] = 0
        described: dict[str, dict[str, object]] = {tag: {"vr": "US", "Value": [one]} for tag, one in numbers.items()}
        return described | {"00280004": {"vr": "CS", "Value": [self.photometric_interpretation]}}


def transfer_syntax_of(media_type: MediaType, codestream: Codestream | None) -> str:
    """Return the transfer syntax of pixel data that came as `media_type`; "" when it is not compressed.

    Raises
    ------
    UnsupportedTransferSyntax
        If no instance can be made of it.
    """
    said = media_type.transfer_syntax
    if media_type.essence == OCTET_STREAM:
        if said in UNCOMPRESSED or not said:
            return ""
        if said in TRANSFER_SYNTAXES:
            return said
        raise UnsupportedTransferSyntax("the transfer syntax of the pixel data is not one that is stored here")
    possible = _TRANSFER_SYNTAXES.get(media_type.essence, ())
    if not possible or (said and said not in possible):
        raise UnsupportedTransferSyntax("pixel data of this media type and transfer syntax is not stored here")
    if not said and codestream is not None and codestream.transfer_syntax_uid in possible:
        return codestream.transfer_syntax_uid
    return said or possible[0]


def is_video(transfer_syntax_uid: str) -> bool:
    """Say whether all frames are one stream."""
    return transfer_syntax_uid.startswith(_J + "10")


def read_codestream(head: bytes, media_type: MediaType) -> Codestream | None:
    """Read the headers of a codestream; None when it is of a kind that is not read here, or damaged."""
    try:
        if media_type.essence in ("image/jp2", "image/jpx", "image/jphc", "image/jph"):
            start = head.find(b"\xff\x4f\xff\x51", 0, 1024)  # some wrap it in a JP2 file
            return _jpeg_2000(head, start + 2, is_high_throughput="jph" in media_type.essence) if start >= 0 else None
        if media_type.essence in ("image/jpeg", "image/jls", "image/x-jls"):
            return _jpeg(head)
    except (struct.error, IndexError, NotDicom):
        return None
    return None


def _segments(head: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    """Give marker and payload of the segments of a codestream's header."""
    while position + 4 <= len(head) and head[position] == 0xFF:
        if (marker := head[position + 1]) == 0xFF:
            position += 1
            continue
        (length,) = struct.unpack_from(">H", head, position + 2)
        yield marker, head[position + 4 : position + 2 + length]
        position += 2 + length


def _jpeg(head: bytes) -> Codestream | None:
    frame, is_jfif, is_rgb = None, False, False
    for marker, payload in _segments(head, 2):
        if marker == 0xE0:
            is_jfif = payload.startswith(b"JFIF")
        elif marker == 0xEE and payload.startswith(b"Adobe"):
            is_rgb = payload[11] == 0
        elif marker in _START_OF_FRAME:
            frame = marker, payload
        elif marker == _SOS and frame is not None:
            return _jpeg_frame(*frame, scan=payload, is_rgb=is_rgb and not is_jfif)
    return None


def _jpeg_frame(marker: int, frame: bytes, *, scan: bytes, is_rgb: bool) -> Codestream:
    bits, rows, columns, samples = struct.unpack_from(">BHHB", frame)
    selection_or_near = scan[1 + 2 * scan[0]]  # Ss: the predictor of JPEG lossless; NEAR: the error of JPEG-LS
    uid = _START_OF_FRAME[marker]
    if marker == 0xC3 and selection_or_near != 1:
        uid = _J + "57"
    if marker == 0xF7 and selection_or_near > 0:
        uid = _J + "81"
    photometric = "MONOCHROME2"
    if samples == 3:
        lossless = marker in (0xC3, 0xF7)
        is_subsampled = frame[7] != 0x11
        photometric = "RGB" if lossless or is_rgb else "YBR_FULL_422" if is_subsampled else "YBR_FULL"
    return Codestream(uid, rows, columns, samples, bits, False, photometric)


def _jpeg_2000(head: bytes, start: int, *, is_high_throughput: bool) -> Codestream | None:
    image = None
    for marker, payload in _segments(head, start):
        if marker == _SIZ:
            _, right, bottom, left, top = struct.unpack_from(">H4I", payload)
            (samples,) = struct.unpack_from(">H", payload, 34)
            image = bottom - top, right - left, samples, (payload[36] & 0x7F) + 1, bool(payload[36] & 0x80)
        elif marker == _COD and image is not None:
            is_mixed, is_reversible = payload[4] == 1, payload[9] == 1
            mixed = "YBR_RCT" if is_reversible else "YBR_ICT"
            photometric = "MONOCHROME2" if image[2] == 1 else mixed if is_mixed else "RGB"
            uids = (_HTJ2K[2], _HTJ2K[0]) if is_high_throughput else (_JPEG_2000[1], _JPEG_2000[0])
            return Codestream(uids[is_reversible], *image, photometric)
    return None
