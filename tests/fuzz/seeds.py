"""What fuzzing begins with: small inputs that are right, of each kind."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from types import MappingProxyType

import pydicom
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from e2e.raw import fragments

__all__ = ["SEEDS"]

_CT = "1.2.840.10008.5.1.4.1.1.2"


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def _request() -> bytes:
    syntaxes = b"".join(_item(0x40, uid.encode()) for uid in (ImplicitVRLittleEndian, ExplicitVRLittleEndian))
    contexts = [_item(0x20, bytes((number, 0, 0, 0)) + _item(0x30, _CT.encode()) + syntaxes) for number in (1, 3)]
    user = _item(0x51, struct.pack(">I", 16_384)) + _item(0x52, b"1.2.3") + _item(0x55, b"FUZZ")
    titles = b"IMAGINGAI".ljust(16) + b"FUZZ".ljust(16)
    head = struct.pack(">HH", 1, 0) + titles + bytes(32)
    return head + _item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(contexts) + _item(0x50, user)


def _command(field: int = 1, uid: str = "1.2.3.4") -> bytes:
    values = {
        0x0002: _CT.encode(),
        0x0100: struct.pack("<H", field),
        0x0110: b"\x01\0",
        0x0700: b"\0\0",
        0x0800: b"\x01\x01" if field == 0x30 else b"\0\0",
        0x1000: uid.encode() + b"\0" * (len(uid) % 2),
    }
    body = b"".join(struct.pack("<HHI", 0, number, len(value)) + value for number, value in values.items())
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _data_set() -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = _CT, "1.2.3.4"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName, ds.PatientID, ds.Modality, ds.StudyDate = "A^B", "P", "CT", "20260101"
    ds.InstanceNumber, ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 2, 2, 16, 16, 15
    ds.SamplesPerPixel, ds.PixelRepresentation, ds.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    ds.NumberOfFrames = 2
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "1", "99X"
    ds.ProcedureCodeSequence = [code]
    ds.PixelData = bytes(range(16))
    return ds


def _file(syntax: str, *, pixels: bytes | None = None) -> bytes:
    ds = _data_set()
    if pixels is not None:
        ds.PixelData = pixels
        ds["PixelData"].is_undefined_length = True
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    pydicom.dcmwrite(file, ds, enforce_file_format=True)
    return file.getvalue()


def _files() -> list[bytes]:
    plain = [
        _file(uid)
        for uid in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
    ]
    return [*plain, _file(RLELossless, pixels=encapsulate([b"\1" * 64 + b"\2" * 8] * 2))]


def _bare(data: bytes) -> bytes:
    """A file without preamble and File Meta Information."""
    (length,) = struct.unpack_from("<I", data, 140)
    return data[144 + length :]


def _association() -> list[bytes]:
    store = fragments(_command(), control=1) + fragments(_bare(_file(ImplicitVRLittleEndian)))
    echo = fragments(_command(0x30), control=1)
    release = struct.pack(">BBII", 5, 0, 4, 0)
    return [store + release, echo + store + release, echo + struct.pack(">BBII", 7, 0, 4, 0)]


def _multipart() -> list[bytes]:
    body = (
        b"--b\r\nContent-Type: application/dicom\r\n\r\nxyz\r\n--b\r\nContent-Location: a\r\n\r\n\r\n--b\r\n--b--\r\n"
    )
    return [b"\x00" + body, b"\x07" + body, b"\xff" + b"preamble\r\n" + body + b"epilogue"]


def _json() -> list[bytes]:
    ds = _data_set()
    del ds.PixelData
    whole = ds.to_json_dict()
    bulk = {**whole, "7FE00010": {"vr": "OW", "BulkDataURI": "a"}, "00420011": {"vr": "OB", "InlineBinary": "AAA="}}
    return [json.dumps(one).encode() for one in (whole, bulk, {"00280030": {"vr": "DS", "Value": [0.5, "1e3", None]}})]


def _xml() -> list[bytes]:
    attribute = '<DicomAttribute tag="{}" vr="{}" keyword="x">{}</DicomAttribute>'
    name = attribute.format(
        "00100010", "PN", '<PersonName number="1"><Alphabetic><FamilyName>A</FamilyName></Alphabetic></PersonName>'
    )
    inner = attribute.format("00080100", "SH", '<Value number="1">1</Value>')
    sequence = attribute.format("00081032", "SQ", f'<Item number="1">{inner}</Item>')
    bulk = attribute.format("7FE00010", "OW", '<BulkData uri="a"/>') + attribute.format(
        "00420011", "OB", "<InlineBinary>AAA=</InlineBinary>"
    )
    return [f"<NativeDicomModel>{one}</NativeDicomModel>".encode() for one in (name, sequence, name + sequence + bulk)]


_QUERIES = (
    b"PatientName=Sm*th^J%3Fn&fuzzymatching=true",
    b"StudyDate=20200101-20211231&StudyTime=-1200&limit=5&offset=2",
    b"StudyInstanceUID=1.2.3,1.2.4%5C1.2.5&includefield=all",
    b"00081032.00080100=1&ModalitiesInStudy=CT&includefield=00091010,PatientAge",
    b"Rows=512&SliceThickness=1.5&PatientBirthDate=19500101&emptyvaluematching=true",
)
_ACCEPTS = (
    b'multipart/related; type="application/dicom"; transfer-syntax=*;q=0.5, */*;q=0',
    b"application/dicom+json, image/jpeg;q=0.1, image/*",
)

SEEDS: Mapping[str, Callable[[], list[bytes]]] = MappingProxyType(
    {
        "associate": lambda: [_request()],
        "command": lambda: [_command(), _command(0x30)],
        "association": _association,
        "part10": _files,
        "bare_data_set": lambda: [bytes((number,)) + _bare(data) for number, data in enumerate(_files())],
        "multipart": _multipart,
        "dicom_json": _json,
        "dicom_xml": _xml,
        "search": lambda: list(_QUERIES),
        "accept": lambda: list(_ACCEPTS),
    }
)
