"""The index: studies, series, instances with their documents, and what was replaced or deleted."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from imaging_ai.db import text_index
from imaging_ai.db.tables.columns import key_column, time_column

__all__ = ["DeletedInstanceRow", "InstanceDocumentRow", "InstanceRow", "ReplacedInstanceRow", "SeriesRow", "StudyRow"]


class StudyRow(SQLModel, table=True):
    """A study with its patient, as its newest instance tells them."""

    __tablename__ = "study"
    __table_args__ = (
        Index("study_order", "sort_key", unique=True),
        Index("study_of_patient", "patient_id", "issuer_of_patient_id", "sort_key"),
    )
    id: int | None = key_column()
    study_instance_uid: str = Field(unique=True, max_length=64)
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_date: str = ""
    study_time: str = ""
    accession_number: str = Field(default="", index=True)
    study_id: str = ""
    study_description: str = ""
    referring_physician_name: str = ""
    # names as searches compare them (core.names), and the order of search results (core.order)
    patient_name_key: str = Field(default="", sa_column_kwargs={"server_default": ""})
    referring_physician_name_key: str = Field(default="", sa_column_kwargs={"server_default": ""})
    sort_key: int | None = Field(default=None, sa_column=Column(BigInteger(), nullable=True))
    created_at: float | None = time_column()
    updated_at: float | None = time_column()


class SeriesRow(SQLModel, table=True):
    """A series, and how complete it is.

    `state` is RECEIVING while instances may still come and SETTLED once the rules have seen `revision`.
    `settle_at` is when it counts as complete unless something more arrives; every arrival moves it.
    """

    __tablename__ = "series"
    __table_args__ = (
        UniqueConstraint("study_id", "series_instance_uid"),
        Index(
            "series_due",
            "settle_at",
            sqlite_where=text("state = 'RECEIVING'"),
            postgresql_where=text("state = 'RECEIVING'"),
        ),
        Index("series_order", "study_sort_key"),
        Index("series_of_modality", "modality", "study_sort_key", "study_id"),
        # all that the matches of a search tell of the series of a study
        Index("ix_series_study_id", "study_id", "modality", "instance_count", "timezone_offset_from_utc"),
    )
    id: int | None = key_column()
    study_id: int = Field(foreign_key="study.id")
    study_sort_key: int | None = Field(default=None, sa_column=Column(BigInteger(), nullable=True))  # of its study
    series_instance_uid: str = Field(max_length=64, index=True)
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
    timezone_offset_from_utc: str = Field(default="", sa_column_kwargs={"server_default": ""})
    frame_of_reference_uid: str = ""
    origin: str = "received"  # received | result
    source: str = ""  # calling AE title or principal that sent the last instance
    instance_count: int = 0
    expected_count: int | None = None
    state: str = "RECEIVING"  # RECEIVING | SETTLED
    revision: int = 0
    settle_at: float | None = time_column()
    last_received_at: float | None = time_column()
    created_at: float | None = time_column()


class InstanceRow(SQLModel, table=True):
    """An instance and where its bytes lie. The row exists only once they are durable."""

    __tablename__ = "instance"
    id: int | None = key_column()
    sop_instance_uid: str = Field(unique=True, max_length=64)
    series_id: int = Field(foreign_key="series.id", index=True)
    sop_class_uid: str = Field(max_length=64)
    transfer_syntax_uid: str = Field(max_length=64)
    instance_number: int | None = None
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int | None = None
    bits_allocated: int | None = None
    image_type: str = ""
    blob_key: str = Field(max_length=200, index=True)
    blob_offset: int = Field(sa_column=Column(BigInteger(), nullable=False))
    blob_length: int = Field(sa_column=Column(BigInteger(), nullable=False))
    received_at: float | None = time_column()


class InstanceDocumentRow(SQLModel, table=True):
    """The DICOM JSON (PS3.18 F, bulk data by URI) and frame table of an instance, made once after ingest."""

    __tablename__ = "instance_document"
    instance_id: int = Field(
        sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False)
    )
    series_id: int = Field(foreign_key="series.id", index=True)
    metadata_json: bytes = Field(sa_column=Column(LargeBinary(), nullable=False))  # see archive.document
    frames: bytes = Field(sa_column=Column(LargeBinary(), nullable=False))  # see archive.frames
    bulk: bytes = Field(sa_column=Column(LargeBinary(), nullable=False))  # see archive.document
    error: str = ""  # why it could not be described; then metadata_json is what the index row gives


class ReplacedInstanceRow(SQLModel, table=True):
    """An earlier content of a SOP Instance UID, kept aside by the `replace` policy."""

    __tablename__ = "replaced_instance"
    id: int | None = key_column()
    sop_instance_uid: str = Field(max_length=64, index=True)
    blob_key: str = Field(max_length=200)
    blob_offset: int = Field(sa_column=Column(BigInteger(), nullable=False))
    blob_length: int = Field(sa_column=Column(BigInteger(), nullable=False))
    replaced_at: float | None = time_column()


class DeletedInstanceRow(SQLModel, table=True):
    """An instance that was deleted, and the bytes of it that are to be removed; one row for each content it had.

    Rows stay: they tell what was here once, and that these bytes, should a crash leave them, are nobody's to recover.
    """

    __tablename__ = "deleted_instance"
    __table_args__ = (
        Index("deleted_instance_place", "study_instance_uid", "series_instance_uid", "sop_instance_uid"),
        Index(
            "deleted_instance_left",
            "id",
            sqlite_where=text("removed_at IS NULL"),
            postgresql_where=text("removed_at IS NULL"),
        ),
    )
    id: int | None = key_column()
    study_instance_uid: str = Field(max_length=64)
    series_instance_uid: str = Field(max_length=64)
    sop_instance_uid: str = Field(max_length=64)
    blob_key: str = Field(max_length=200, index=True)
    blob_offset: int = Field(sa_column=Column(BigInteger(), nullable=False))
    blob_length: int = Field(sa_column=Column(BigInteger(), nullable=False))
    deleted_at: float | None = time_column()
    removed_at: float | None = time_column(nullable=True)


text_index.create_with(StudyRow.metadata.tables["study"])
