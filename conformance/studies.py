"""Small synthetic studies under UIDs of their own: modalities, character sets, frames, reports, private attributes.

Every run has a word of its own in names and identifiers, so that the other content of a server is never matched.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

__all__ = ["CREATOR", "Collection", "base", "collection", "image"]

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.2"
BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
CREATOR = "CONFORMANCE SUITE"
SIDE = 32


@dataclass(frozen=True)
class Collection:
    """What the tests of search and retrieval find stored."""

    word: str
    ct: tuple[Dataset, ...]
    mr: Dataset
    sr: Dataset
    multi_frame: Dataset
    compressed: Dataset
    colour: Dataset
    list: tuple[Dataset, ...]

    @property
    def all(self) -> tuple[Dataset, ...]:
        return (*self.ct, self.mr, self.sr, self.multi_frame, self.compressed, self.colour, *self.list)

    @property
    def study(self) -> str:
        """The study of three series: CT, MR and SR."""
        return str(self.mr.StudyInstanceUID)


def collection() -> Collection:
    """Make one, under a new word and new UIDs."""
    word = "".join(random.choices("bcdfghjklmnpqrstvwxz", k=8)).capitalize()
    ct = _ct(word)
    mr = image(base(ct[0], modality="MR", sop_class=MR), 16)
    mr.SeriesNumber, mr.SeriesDescription = 2, "Conformance MR"
    return Collection(
        word, ct, mr, _report(ct[0]), _multi_frame(word), _compressed(word), _colour(word), _worklist(word)
    )


def base(
    of: Dataset | None = None, *, modality: str = "OT", sop_class: str = SECONDARY_CAPTURE, **more: str
) -> Dataset:
    """Make an instance of a new series, in the study of another one or in a new study."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber, ds.ConversionType = modality, 1, 1, "WSD"
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20240229"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "101112"
    ds.AccessionNumber = ds.StudyID = ds.ReferringPhysicianName = ds.PatientBirthDate = ds.PatientSex = ""
    ds.PatientName, ds.PatientID = "Conformance^Nobody", generate_uid()[-16:]
    for keyword, text in more.items():
        setattr(ds, keyword, text)
    if of is not None:
        same = ("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription")
        for keyword in (*same, "ReferringPhysicianName", "PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
            if keyword in of:
                setattr(ds, keyword, of[keyword].value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def image(ds: Dataset, bits: int = 8, frames: int = 1, samples: int = 1) -> Dataset:
    """Give it pixels: a ramp, brighter frame by frame."""
    ds.Rows = ds.Columns = SIDE
    ds.SamplesPerPixel, ds.PhotometricInterpretation = samples, "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits, bits - 1, 0
    if frames > 1:
        ds.NumberOfFrames = frames
    size = SIDE * SIDE * samples
    if bits == 16:
        ramp = [(8 * position) % 2000 + 64 for position in range(size * frames)]
        ds.PixelData = struct.pack(f"<{size * frames}H", *ramp)
    else:
        ds.PixelData = bytes((position + 40 * frame) % 251 for frame in range(frames) for position in range(size))
    ds["PixelData"].VR = "OW" if bits == 16 else "OB"
    return ds


def _ct(word: str) -> tuple[Dataset, ...]:
    first = base(modality="CT", sop_class=CT, PatientName=f"{word}^John", PatientID=f"{word}-1")
    first.AccessionNumber, first.StudyID, first.StudyDescription = "CONF1", "7", "Conformance CT and MR"
    first.ReferringPhysicianName, first.PatientBirthDate, first.PatientSex = "Doctor^Who", "19700101", "M"
    series, frame_of_reference = first.SeriesInstanceUID, generate_uid()
    slices = []
    for number in range(1, 4):
        ds = image(base(first, modality="CT", sop_class=CT), 16)
        ds.SeriesInstanceUID, ds.InstanceNumber, ds.SeriesDescription = series, number, "Conformance CT"
        ds.ImageType, ds.FrameOfReferenceUID = ["ORIGINAL", "PRIMARY", "AXIAL"], frame_of_reference
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness, ds.KVP = [1, 1], "1", "120"
        ds.RescaleSlope, ds.RescaleIntercept = "1", "-1024"
        ds.WindowCenter, ds.WindowWidth = "40", "400"
        ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = "20240229", "101010"
        request = Dataset()
        request.RequestedProcedureID, request.ScheduledProcedureStepID = f"RP{word}", f"SP{word}"
        ds.RequestAttributesSequence = Sequence([request])
        block = ds.private_block(0x0099, CREATOR, create=True)
        block.add_new(0x01, "LO", f"private {word}")
        block.add_new(0x02, "OB", bytes(position % 256 for position in range(8192)))
        slices.append(ds)
    return tuple(slices)


def _report(of: Dataset) -> Dataset:
    ds = base(of, modality="SR", sop_class=BASIC_TEXT_SR)
    ds.SeriesNumber, ds.SeriesDescription = 3, "Conformance SR"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = Sequence([_code("18748-4", "LN", "Diagnostic imaging report")])
    text = Dataset()
    text.RelationshipType, text.ValueType, text.TextValue = "CONTAINS", "TEXT", "Nothing to see here."
    text.ConceptNameCodeSequence = Sequence([_code("121071", "DCM", "Finding")])
    ds.ContentSequence = Sequence([text])
    ds.PerformedProcedureCodeSequence = ds.ReferencedPerformedProcedureStepSequence = Sequence([])
    return ds


def _code(code: str, scheme: str, meaning: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = code, scheme, meaning
    return ds


def _multi_frame(word: str) -> Dataset:
    """Four frames; the patient's name in Japanese, in escape sequences (PS3.5 H.3)."""
    ds = base(sop_class=MULTI_FRAME, PatientID=f"{word}-2", StudyDescription="Conformance multi-frame")
    ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    ds.PatientName = f"{word}^Tarou=山田^太郎=やまだ^たろう"
    ds.FrameIncrementPointer, ds.FrameTime = 0x00181063, "40"
    return image(ds, frames=4)


def _compressed(word: str) -> Dataset:
    """One frame in RLE Lossless (PS3.5 Annex G), a run of literals for each row; the name in Latin-1."""
    ds = image(base(PatientName=f"{word}^Jörg", PatientID=f"{word}-3", SpecificCharacterSet="ISO_IR 100"))
    pixels = ds.PixelData
    rows = (pixels[start : start + SIDE] for start in range(0, len(pixels), SIDE))
    segment = b"".join(bytes([len(row) - 1]) + row for row in rows)
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + segment
    ds.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2)])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = RLELossless
    return ds


def _colour(word: str) -> Dataset:
    return image(base(PatientName=f"{word}^Colour", PatientID=f"{word}-4", PatientSex="F"), samples=3)


def _worklist(word: str) -> tuple[Dataset, ...]:
    """Twenty-four studies of one patient, a day apart."""
    return tuple(
        image(
            base(
                modality="CR" if day % 2 else "DX",
                PatientName=f"{word}^Many",
                PatientID=f"{word}-5",
                StudyDate=f"202303{day:02d}",
                AccessionNumber=f"A{day:02d}" if day > 1 else "",
                StudyDescription=f"Day {day}",
            )
        )
        for day in range(1, 25)
    )
