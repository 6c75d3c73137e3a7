"""From a stored file to what goes over an association: the bare data set, in a transfer syntax the peer accepted.

A data set goes out byte for byte as it is stored wherever the peer takes its transfer syntax. Where it does not, an
uncompressed one is written anew in the other little endian encoding (PS3.5 A); pixels are never touched.
"""

from __future__ import annotations

from collections.abc import Collection
from io import BytesIO

from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from imaging_ai.errors import NotDicom

__all__ = ["alternatives", "choose", "dataset_of", "rewritten"]

_NATIVE: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_LONG_VRS = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UR", b"UT", b"UN", b"SV", b"UV"})


def alternatives(transfer_syntax_uid: str) -> tuple[str, ...]:
    """Return the transfer syntaxes that a stored one can be rewritten to without touching pixels."""
    if transfer_syntax_uid in (*_NATIVE, DeflatedExplicitVRLittleEndian):
        return tuple(uid for uid in _NATIVE if uid != transfer_syntax_uid)
    return ()


def choose(transfer_syntax_uid: str, accepted: Collection[str]) -> str | None:
    """Return the accepted transfer syntax to send a stored one in: itself if possible, None if nothing fits."""
    return next((uid for uid in (transfer_syntax_uid, *alternatives(transfer_syntax_uid)) if uid in accepted), None)


def dataset_of(data: bytes) -> memoryview:
    """Return the data set of a PS3.10 file: what follows preamble and File Meta Information (PS3.10 7.1)."""
    if data[128:132] != b"DICM":
        raise NotDicom("the stored object is no DICOM file: the prefix DICM is missing")
    offset = 132
    while data[offset : offset + 2] == b"\x02\x00":
        is_long = data[offset + 4 : offset + 6] in _LONG_VRS
        start, end = (offset + 8, offset + 12) if is_long else (offset + 6, offset + 8)
        offset = end + int.from_bytes(data[start:end], "little")
    if offset > len(data):
        raise NotDicom("the stored object is cut off within its File Meta Information")
    return memoryview(data)[offset:]


def rewritten(data: bytes, transfer_syntax_uid: str) -> bytes:
    """Return the data set of a PS3.10 file in another uncompressed little endian transfer syntax."""
    target = DicomBytesIO()
    target.is_implicit_VR = transfer_syntax_uid == ImplicitVRLittleEndian
    target.is_little_endian = True
    write_dataset(target, dcmread(BytesIO(data)))
    return target.getvalue()
