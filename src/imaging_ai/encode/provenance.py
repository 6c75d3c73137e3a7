"""What every object of a job says of itself: whose, by what, from what, when (PS3.3 C.7.5.1, C.12.1; IHE AIR).

The same job always makes the same bytes: UIDs are derived from the job's, times come from it, and nothing here
looks at a clock.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import highdicom as hd
from highdicom.sr import CodedConcept
from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.config import disable_value_validation
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from imaging_ai import __version__
from imaging_ai.core.finding import Algorithm, Code, ResultKind
from imaging_ai.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, derive_uid, is_uid
from imaging_ai.core.volume import Volume
from imaging_ai.encode.iod import module
from imaging_ai.encode.objects import Predecessor
from imaging_ai.encode.source import clean, patient_and_study, text
from imaging_ai.errors import ResultInvalid

__all__ = [
    "Provenance",
    "code_item",
    "equipment",
    "instance_item",
    "serialize",
    "stand_in",
    "trace",
]

_SERIES_OF_KIND = {"SEG": 1, "SR": 2, "PM": 3, "SC": 4, "KO": 5}
_REFERRED_BY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_FURTHER_SERIES = 10  # and more, where a kind has several series
_ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
_PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
_COPIED_EQUIPMENT = ("ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "StationName", "DeviceUID")


@dataclass(frozen=True, slots=True, eq=False)
class Provenance:
    """What the objects of one job have in common.

    `header` is that of the first source instance; `subject` its patient and study attributes, cleaned; `sources` all
    volumes that the model saw, the one that the results are drawn on first.
    """

    job_uid: str
    created: datetime
    algorithm: Algorithm
    header: Dataset
    subject: Dataset
    sources: tuple[Volume, ...]
    content_qualification: str
    supersedes: tuple[Predecessor, ...]
    remark: str = ""

    def uid(self, kind: ResultKind, what: str) -> str:
        """Return the UID that `what` (``instance``, ``series``, …) of this job's object of that kind always has."""
        return derive_uid(self.job_uid, kind, what)

    @property
    def study_instance_uid(self) -> str:
        """The study of the source, which is the study of the results."""
        return str(self.header.StudyInstanceUID)

    def source_instances(self) -> dict[tuple[str, str], list[tuple[str, str]]]:
        """Return (SOP class, SOP instance) of all that the model saw, by (study, series), in plane order."""
        series: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
        for header in (header for volume in self.sources for header in volume.headers):
            key = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
            series.setdefault(key, {})[str(header.SOPClassUID), str(header.SOPInstanceUID)] = None
        return {key: list(instances) for key, instances in series.items()}

    @property
    def further_instances(self) -> frozenset[str]:
        """The SOP Instance UIDs of the volumes that the results are not drawn on."""
        return frozenset(str(header.SOPInstanceUID) for volume in self.sources[1:] for header in volume.headers)

    def complete(self, ds: Dataset, kind: ResultKind, part: str = "", number: int = 1) -> None:
        """Write into `ds` what highdicom was not told, and replace what it made up.

        `part` names the series where a kind has several, `number` the instance in its series.
        """
        with disable_value_validation():  # the identity is taken over verbatim
            ds.update(self.subject)
        ds.SpecificCharacterSet = "ISO_IR 192"
        if offset := _timezone_offset(self.header):
            ds.TimezoneOffsetFromUTC = offset
        date, time = f"{self.created:%Y%m%d}", f"{self.created:%H%M%S.%f}"
        ds.InstanceCreationDate = ds.ContentDate = ds.SeriesDate = date
        ds.InstanceCreationTime = ds.ContentTime = ds.SeriesTime = time
        which = [str(number)] if number > 1 else []
        ds.SOPInstanceUID = self.uid(kind, " ".join(("instance", *part.split(), *which)))
        ds.SeriesInstanceUID = self.uid(kind, " ".join(("series", *part.split())))
        ds.SeriesNumber = _series_number(self.header, kind) + (_FURTHER_SERIES if part else 0)
        ds.SeriesDescription = _series_description(self.algorithm, " ".join(filter(None, (kind, part, self.remark))))
        ds.InstanceNumber = number
        ds.ContentQualification = self.content_qualification
        ds.update(equipment(self.algorithm))
        ds.ContributingEquipmentSequence = [*_acquisition_equipment(self.header), self._processing_equipment()]

    def _processing_equipment(self) -> Dataset:
        item = equipment(self.algorithm)
        item.PurposeOfReferenceCodeSequence = [code_item(_PROCESSING_EQUIPMENT)]
        item.ContributionDateTime = f"{self.created:%Y%m%d%H%M%S.%f}"
        item.ContributionDescription = "; ".join(
            (f"model digest {self.algorithm.digest}", *(f"{name}={value}" for name, value in self.algorithm.parameters))
        )[:1024]
        return item


def trace(
    sources: Sequence[Volume],
    algorithm: Algorithm,
    *,
    job_uid: str,
    created_at: float,
    content_qualification: str,
    supersedes: Sequence[Predecessor],
    remark: str = "",
) -> Provenance:
    """Collect what the objects of a job share; `remark` ends the Series Description.

    Raises
    ------
    ResultInvalid
        If a source cannot be referred to.
    """
    for keyword in _REFERRED_BY:
        if not all(is_uid(str(header.get(keyword, ""))) for source in sources for header in source.headers):
            raise ResultInvalid(f"the {keyword} of the source is no UID: nothing can refer to it")
    header = sources[0].headers[0]
    return Provenance(
        job_uid=job_uid,
        created=_moment(created_at, header),
        algorithm=algorithm,
        header=header,
        subject=patient_and_study(header),
        sources=tuple(sources),
        content_qualification=content_qualification,
        supersedes=tuple(supersedes),
        remark=remark,
    )


def equipment(algorithm: Algorithm) -> Dataset:
    """Return the model as the equipment that made an object (PS3.3 C.7.5.1); new weights, new Device UID."""
    item = Dataset()
    item.Manufacturer = text(algorithm.manufacturer, 64) or "unknown"
    item.ManufacturerModelName = text(algorithm.name, 64)
    item.DeviceSerialNumber = algorithm.digest.removeprefix("sha256:")[:64]
    item.SoftwareVersions = [text(algorithm.version, 64), f"imaging-ai {__version__}", f"highdicom {hd.__version__}"]
    item.DeviceUID = algorithm.device_uid
    return item


def code_item(code: Code) -> CodedConcept:
    """Return `code` as an item of a code sequence (PS3.3 8.8)."""
    return CodedConcept(code.value, code.scheme_designator, text(code.meaning, 64))


def instance_item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """Return a reference to an instance (PS3.3 table 10-11)."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def stand_in(study_instance_uid: str, series_instance_uid: str, sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """Return an instance as highdicom wants to be shown it: two by two pixels and nobody's.

    So highdicom neither copies a bad value nor logs a patient's name, and its work does not grow with the source.
    """
    ds = Dataset()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_instance_uid, series_instance_uid
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, sop_instance_uid
    for name in ("patient", "general-study"):
        for keyword, attribute in module(name).items():
            if attribute.type == "2":
                setattr(ds, keyword, "")
    ds.Rows = ds.Columns = 2
    ds.FrameOfReferenceUID = study_instance_uid
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [0, 0, 0]
    ds.PixelSpacing = [1, 1]
    ds.SliceThickness = 1
    if sop_class_uid == CTImageStorage:
        ds.Modality = "CT"
    return ds


def serialize(ds: Dataset) -> bytes:
    """Return `ds` as a file (PS3.10 section 7), Explicit VR Little Endian."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID(ds.SOPClassUID)
    meta.MediaStorageSOPInstanceUID = UID(ds.SOPInstanceUID)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    ds.file_meta = meta
    buffer = io.BytesIO()
    with disable_value_validation():
        dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def _timezone_offset(header: Dataset) -> str:
    offset = str(header.get("TimezoneOffsetFromUTC", "")).strip()
    well_formed = len(offset) == 5 and offset[0] in "+-" and offset[1:].isdigit()
    return offset if well_formed and int(offset[1:3]) <= 14 and int(offset[3:]) < 60 else ""


def _moment(created_at: float, header: Dataset) -> datetime:
    """Return the time in the zone of the source, so that an object's dates agree with one another."""
    moment = datetime.fromtimestamp(created_at, UTC)
    if offset := _timezone_offset(header):
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        return moment.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))
    return moment.astimezone()


def _series_number(header: Dataset, kind: ResultKind) -> int:
    try:
        number = int(header.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return abs(number) % 10_000_000 * 100 + _SERIES_OF_KIND[kind]


def _series_description(algorithm: Algorithm, what: str) -> str:
    """Say model, version and what it is in 64 characters, at the cost of the model's name."""
    rest = text(f" {algorithm.version} {what}", 40)
    return f"{text(algorithm.name, 63 - len(rest))} {rest}"


def _acquisition_equipment(header: Dataset) -> list[Dataset]:
    kept = clean(header, {name: module("general-equipment")[name] for name in ("Manufacturer", *_COPIED_EQUIPMENT)})
    if kept is None or not kept.get("Manufacturer"):
        return []
    kept.PurposeOfReferenceCodeSequence = [code_item(_ACQUISITION_EQUIPMENT)]
    return [kept]
