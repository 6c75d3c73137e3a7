"""The tables. Rows do not travel: functions elsewhere return `core` values built from them.

Times are seconds since the epoch, UTC, as double precision. JSON columns hold text that this program wrote.
SQLModel tables do not validate, so rows are built only from values that are already valid.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from imaging_ai.db import text_index

__all__ = [
    "AuditEventRow",
    "DeletedInstanceRow",
    "DeliveryRow",
    "EvaluationRow",
    "FindingRow",
    "InstanceDocumentRow",
    "InstanceRow",
    "JobRow",
    "NotificationRow",
    "ReplacedInstanceRow",
    "ResultRow",
    "SeriesRow",
    "StudyRow",
    "SubscriberRow",
    "SubscriptionRow",
    "TokenRow",
    "WorkItemEventRow",
    "WorkItemRow",
    "WorkerRow",
]


def _key() -> Any:
    return Field(
        default=None,
        sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    )


def _time(*, nullable: bool = False, index: bool = False) -> Any:
    return Field(default=None, sa_column=Column(Double(), nullable=nullable, index=index))


class StudyRow(SQLModel, table=True):
    """A study with its patient, as its newest instance tells them."""

    __tablename__ = "study"
    __table_args__ = (
        Index("study_order", "sort_key", unique=True),
        Index("study_of_patient", "patient_id", "issuer_of_patient_id", "sort_key"),
    )
    id: int | None = _key()
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
    created_at: float | None = _time()
    updated_at: float | None = _time()


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
    id: int | None = _key()
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
    settle_at: float | None = _time()
    last_received_at: float | None = _time()
    created_at: float | None = _time()


class InstanceRow(SQLModel, table=True):
    """An instance and where its bytes lie. The row exists only once they are durable."""

    __tablename__ = "instance"
    id: int | None = _key()
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
    received_at: float | None = _time()


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
    id: int | None = _key()
    sop_instance_uid: str = Field(max_length=64, index=True)
    blob_key: str = Field(max_length=200)
    blob_offset: int = Field(sa_column=Column(BigInteger(), nullable=False))
    blob_length: int = Field(sa_column=Column(BigInteger(), nullable=False))
    replaced_at: float | None = _time()


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
    id: int | None = _key()
    study_instance_uid: str = Field(max_length=64)
    series_instance_uid: str = Field(max_length=64)
    sop_instance_uid: str = Field(max_length=64)
    blob_key: str = Field(max_length=200, index=True)
    blob_offset: int = Field(sa_column=Column(BigInteger(), nullable=False))
    blob_length: int = Field(sa_column=Column(BigInteger(), nullable=False))
    deleted_at: float | None = _time()
    removed_at: float | None = _time(nullable=True)


class JobRow(SQLModel, table=True):
    """A job; see `core.job.Job`. `dedupe_key` makes asking twice for the same work the same work."""

    __tablename__ = "job"
    __table_args__ = (
        Index("job_next", "state", text("priority DESC"), "created_at", "id"),
        Index("job_due", "state", "not_before", "queue"),
        Index("job_of_study", "study_instance_uid", "model"),
        Index("job_lease", "state", "lease_until"),
    )
    id: int | None = _key()
    job_uid: str = Field(unique=True, max_length=64)
    dedupe_key: str = Field(unique=True, max_length=64)
    state: str = Field(default="SCHEDULED", index=True)
    priority: int = 1
    queue: str = "inference-cpu"
    study_instance_uid: str = Field(max_length=64)
    series_instance_uids: str = Field(sa_column=Column(Text(), nullable=False))  # JSON list
    inputs: str = Field(default="[]", sa_column=Column(Text(), nullable=False))  # JSON list of SOP Instance UIDs
    revision: int = 0
    rule: str = ""
    model: str = Field(default="", index=True)
    model_digest: str = ""
    destinations: str = "[]"  # JSON list of names
    parameters: str = Field(default="{}", sa_column=Column(Text(), nullable=False))
    attempt: int = 0  # claims; guards what a worker may still write
    failures: int = 0  # attempts that failed
    losses: int = 0  # attempts whose worker died
    max_attempts: int = 3
    progress: int = 0
    stage: str = "queue"
    created_at: float | None = _time()
    not_before: float | None = _time()
    started_at: float | None = _time(nullable=True)
    finished_at: float | None = _time(nullable=True)
    lease_owner: str = ""
    lease_until: float | None = _time(nullable=True)
    cancel_requested: bool = False
    failure_stage: str = ""
    failure_code: str = ""
    failure_reason: str = Field(default="", sa_column=Column(Text(), nullable=False))
    failure_permanent: bool = False
    supersedes: int | None = None
    provenance: str = Field(default="{}", sa_column=Column(Text(), nullable=False))


class ResultRow(SQLModel, table=True):
    """One object that a job produced; written in the commit that completes the job."""

    __tablename__ = "result"
    id: int | None = _key()
    job_id: int = Field(foreign_key="job.id", index=True)
    kind: str  # SEG | SR | PM | SC | KO
    sop_instance_uid: str = Field(unique=True, max_length=64)
    sop_class_uid: str = Field(max_length=64)
    created_at: float | None = _time()


class FindingRow(SQLModel, table=True):
    """A coded finding of a job with its measurements, so that results can be queried without parsing DICOM."""

    __tablename__ = "finding"
    id: int | None = _key()
    job_id: int = Field(foreign_key="job.id", index=True)
    tracking_uid: str = Field(max_length=64, index=True)
    segment_number: int = 0
    label: str = ""
    type_code: str = ""
    type_scheme: str = ""
    type_meaning: str = ""
    found: bool = False
    measurements: str = Field(default="[]", sa_column=Column(Text(), nullable=False))  # JSON


class EvaluationRow(SQLModel, table=True):
    """What a classifier said of a class, of one instance or (`sop_instance_uid` is "") of the whole series."""

    __tablename__ = "evaluation"
    id: int | None = _key()
    job_id: int = Field(foreign_key="job.id", index=True)
    tracking_identifier: str = ""
    tracking_uid: str = Field(max_length=64, index=True)
    label: str = ""
    finding_code: str = ""
    finding_scheme: str = ""
    finding_meaning: str = ""
    sop_instance_uid: str = Field(default="", max_length=64, index=True)
    probability: float = 0.0
    threshold: float = 0.5
    present: bool = False
    calibrated: bool = True


class DeliveryRow(SQLModel, table=True):
    """One result on its way to one destination; see `core.job.DeliveryState`."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "destination"),
        Index("delivery_next", "state", "next_attempt_at"),
    )
    id: int | None = _key()
    job_id: int = Field(foreign_key="job.id", index=True)
    sop_instance_uid: str = Field(max_length=64)
    destination: str
    state: str = "WAITING"
    attempts: int = 0
    next_attempt_at: float | None = _time()
    lease_owner: str = ""
    lease_until: float | None = _time(nullable=True)
    reason: str = ""
    sent_at: float | None = _time(nullable=True)
    confirmed_at: float | None = _time(nullable=True)


class WorkerRow(SQLModel, table=True):
    """A live worker process. On its own host its lock file tells whether it lives; elsewhere the lease does."""

    __tablename__ = "worker"
    owner: str = Field(primary_key=True, max_length=100)
    host: str = ""
    pid: int = 0
    queues: str = ""
    lock_path: str = ""
    started_at: float | None = _time()
    seen_at: float | None = _time()


class TokenRow(SQLModel, table=True):
    """A bearer token: whose it is and what it may. The secret itself is nowhere, only its digest."""

    __tablename__ = "token"
    id: int | None = _key()
    name: str = Field(unique=True, max_length=100)
    digest: str = Field(unique=True, max_length=64)
    role: str
    created_at: float | None = _time()
    expires_at: float | None = _time(nullable=True)
    revoked_at: float | None = _time(nullable=True)


class AuditEventRow(SQLModel, table=True):
    """Who did what to which object, from where, and how it went. UIDs and codes only."""

    __tablename__ = "audit_event"
    id: int | None = _key()
    at: float | None = _time(index=True)
    action: str = Field(index=True)
    outcome: str = "success"  # success | refused | failure
    actor: str = ""
    origin: str = ""
    object_type: str = ""
    object_uid: str = Field(default="", index=True)
    detail: str = Field(default="", sa_column=Column(Text(), nullable=False))


class WorkItemRow(SQLModel, table=True):
    """A work item that a client made (PS3.4 CC). One that names a model of ours (`model`) is run as a job of its UID.

    `dataset` is DICOM JSON without the Transaction UID. When retention is over only the UID stays (`removed_at`).
    """

    __tablename__ = "work_item"
    __table_args__ = (
        Index("work_item_state", "state", "created_at"),
        Index("work_item_first_input", "series_instance_uid", "state"),
    )
    id: int | None = _key()
    uid: str = Field(unique=True, max_length=64)
    state: str = "SCHEDULED"
    transaction_uid: str = ""
    priority: int = 1
    study_instance_uid: str = Field(default="", max_length=64)
    model: str = ""
    series_instance_uid: str = Field(default="", max_length=64)  # the first of the inputs of a model
    job_id: int | None = Field(default=None, foreign_key="job.id", unique=True)
    dataset: str = Field(default="{}", sa_column=Column(Text(), nullable=False))
    created_at: float | None = _time()
    updated_at: float | None = _time()
    finished_at: float | None = _time(nullable=True)
    removed_at: float | None = _time(nullable=True)


class WorkItemEventRow(SQLModel, table=True):
    """What happened to a work item or a job, until it is handed to its subscribers."""

    __tablename__ = "work_item_event"
    id: int | None = _key()
    at: float | None = _time(index=True)
    uid: str = Field(max_length=64)
    type: int
    created: bool = False  # the first event of a new item: global subscriptions reach out to it
    payload: str = Field(default="{}", sa_column=Column(Text(), nullable=False))


class SubscriptionRow(SQLModel, table=True):
    """What an application wants to hear of: the worklist, the worklist through a filter, or one item.

    `state` is plain, lock (keep final items for me) or none (an item left out of a global subscription).
    """

    __tablename__ = "subscription"
    __table_args__ = (UniqueConstraint("ae_title", "uid"),)
    id: int | None = _key()
    ae_title: str = Field(max_length=16)
    uid: str = Field(max_length=64, index=True)
    state: str = "plain"
    filter: str = Field(default="", sa_column=Column(Text(), nullable=False))
    by_filter: bool = False
    created_at: float | None = _time()
    suspended_at: float | None = _time(nullable=True)


class NotificationRow(SQLModel, table=True):
    """One event for one subscriber, until it is acknowledged. Numbers never come twice, nor out of order."""

    __tablename__ = "notification"
    __table_args__ = (Index("notification_next", "ae_title", "id"), {"sqlite_autoincrement": True})
    id: int | None = _key()
    ae_title: str = Field(max_length=16)
    at: float | None = _time(index=True)
    uid: str = Field(max_length=64)
    type: int
    payload: str = Field(default="{}", sa_column=Column(Text(), nullable=False))


class SubscriberRow(SQLModel, table=True):
    """The notification connection of an application: which one it is now."""

    __tablename__ = "subscriber"
    ae_title: str = Field(primary_key=True, max_length=16)
    connection: str = ""
    opened_at: float | None = _time()
    dropped: bool = False  # events were given up: it was away for too long


text_index.create_with(StudyRow.metadata.tables["study"])
