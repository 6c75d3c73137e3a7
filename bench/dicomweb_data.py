"""What both servers of `dicomweb.py` are given: series of a CT, and a little instance of each of many studies."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence

from http_load import request
from ingest import SHAPES, UID_WIDTH, template

__all__ = ["CT_STUDY", "MULTI_STUDY", "TINY_STUDY", "files", "searches", "small", "stow"]

CT_STUDY, MULTI_STUDY, TINY_STUDY = "1.2.840.999.1", "1.2.840.999.2", "1.2.840.999.5"
_BOUNDARY = "bench-boundary-7f3a"


def files(shape: str, study: str, count: int, series: str = "", prefix: str = "") -> Iterator[bytes]:
    """Make PS3.10 files of one series that differ in their UIDs and numbers."""
    from pydicom import dcmread, dcmwrite
    from pydicom.uid import ExplicitVRLittleEndian

    data, _ = template(SHAPES[shape])
    ds = dcmread(io.BytesIO(data), force=True)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series or f"{study}.1"
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    whole, old = buffer.getvalue(), str(ds.SOPInstanceUID).encode()
    for number in range(1, count + 1):
        new = f"{prefix or study}.9.{number}".encode()
        new += b"." + b"3" * (UID_WIDTH - len(new) - 1)
        yield whole.replace(old, new)


def small(number: int) -> bytes:
    """Make a little instance of a study of its own."""
    from pydicom import Dataset, dcmwrite
    from pydicom.uid import ExplicitVRLittleEndian

    rng = random.Random(number)
    ds = Dataset()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4" if number % 3 == 0 else "1.2.840.10008.5.1.4.1.1.2"
    ds.StudyInstanceUID = f"1.2.840.999.3.{number}"
    ds.SeriesInstanceUID, ds.SOPInstanceUID = f"{ds.StudyInstanceUID}.1", f"{ds.StudyInstanceUID}.1.1"
    ds.StudyDate, ds.StudyTime = (
        f"20{rng.randrange(10, 26)}{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}",
        "101112",
    )
    ds.Modality, ds.AccessionNumber = "MR" if number % 3 == 0 else "CT", f"A{number:07}"
    family = rng.choice(("Smith", "Schmidt", "Jones", "Brown", "Garcia", "Mueller", "Rossi", "Sato"))
    ds.PatientName, ds.PatientID = f"{family}^{rng.choice('ABCDEFGH')}{number}", f"P{number:06}"
    ds.PatientBirthDate, ds.PatientSex, ds.ReferringPhysicianName = "19600101", "O", "Doe^Jane"
    ds.StudyDescription, ds.SeriesDescription, ds.StudyID = "CHEST", "AXIAL", str(number)
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", 8, 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = bytes(128)
    buffer = io.BytesIO()
    ds.ensure_file_meta()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def stow(port: int, parts: Sequence[bytes]) -> bytes:
    """Make a STOW request of several instances."""
    head = f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + part + b"\r\n" for part in parts) + f"--{_BOUNDARY}--\r\n".encode()
    content_type = f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}'
    return request(
        "/dicom-web/studies", port, "application/dicom+json", method="POST", body=body, content_type=content_type
    )


def searches() -> dict[str, str]:
    """Return queries for such studies, by what a person would call them."""
    return {
        "PatientID exact": "PatientID=P000777",
        "PatientName Smith*": "PatientName=Smith*&limit=25",
        "PatientName *mit*": "PatientName=*mit*&limit=25",
        "StudyDate month": "StudyDate=20200301-20200331&limit=100",
        "StudyDate year": "StudyDate=20200101-20201231&limit=25",
        "ModalitiesInStudy": "ModalitiesInStudy=MR&limit=25",
        "modality and date": "ModalitiesInStudy=MR&StudyDate=20200101-20201231&limit=25",
        "limit 25": "limit=25",
        "limit 100": "limit=100",
    }
