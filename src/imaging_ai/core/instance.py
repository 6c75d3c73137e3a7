"""What the index knows of an instance: the attributes that queries, rules and workers need."""

from __future__ import annotations

from dataclasses import dataclass, field

from imaging_ai.core.blob import BlobRef

__all__ = ["InstanceHeader", "SeriesSummary", "StoredInstance"]


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """The attributes of one instance that the index keeps, decoded to Unicode.

    Text is as in the data set, trailing padding removed, "" when absent or empty; multi-valued text
    keeps its backslashes. Numbers are None when absent or unparsable.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    # patient and study (PS3.3 C.7.1, C.7.2)
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_date: str = ""
    study_time: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_description: str = ""
    referring_physician_name: str = ""
    # series (PS3.3 C.7.3)
    modality: str = ""
    series_number: int | None = None
    series_description: str = ""
    series_date: str = ""
    series_time: str = ""
    body_part_examined: str = ""
    protocol_name: str = ""
    manufacturer: str = ""
    manufacturer_model_name: str = ""
    station_name: str = ""
    institution_name: str = ""
    performed_procedure_step_start_date: str = ""
    performed_procedure_step_start_time: str = ""
    timezone_offset_from_utc: str = ""
    frame_of_reference_uid: str = ""
    # instance
    instance_number: int | None = None
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int | None = None
    bits_allocated: int | None = None
    image_type: str = ""
    images_in_acquisition: int | None = None


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One instance as a worker or a sender meets it: who it is and where its bytes are.

    The blob is a complete DICOM file (PS3.10): preamble, File Meta Information, data set as received.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    instance_number: int | None
    blob: BlobRef


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """A series as the rules see it.

    `attributes` maps DICOM keywords to their text (multi-valued joined by a backslash), taken from a
    representative instance, with the study's and patient's; `instances` is the number held now.
    """

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    instances: int
    revision: int
    attributes: dict[str, str] = field(default_factory=dict)
