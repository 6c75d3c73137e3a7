"""The ledger: jobs, their results, what they found, and the deliveries and workers."""

from __future__ import annotations

from sqlalchemy import Column, Index, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from imaging_ai.db.tables.columns import key_column, time_column

__all__ = ["DeliveryRow", "EvaluationRow", "FindingRow", "JobRow", "ResultRow", "WorkerRow"]


class JobRow(SQLModel, table=True):
    """A job; see `core.job.Job`. `dedupe_key` makes asking twice for the same work the same work."""

    __tablename__ = "job"
    __table_args__ = (
        Index("job_next", "state", text("priority DESC"), "created_at", "id"),
        Index("job_due", "state", "not_before", "queue"),
        Index("job_of_study", "study_instance_uid", "model"),
        Index("job_lease", "state", "lease_until"),
    )
    id: int | None = key_column()
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
    created_at: float | None = time_column()
    not_before: float | None = time_column()
    started_at: float | None = time_column(nullable=True)
    finished_at: float | None = time_column(nullable=True)
    lease_owner: str = ""
    lease_until: float | None = time_column(nullable=True)
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
    id: int | None = key_column()
    job_id: int = Field(foreign_key="job.id", index=True)
    kind: str  # SEG | SR | PM | SC | KO
    sop_instance_uid: str = Field(unique=True, max_length=64)
    sop_class_uid: str = Field(max_length=64)
    created_at: float | None = time_column()


class FindingRow(SQLModel, table=True):
    """A coded finding of a job with its measurements, so that results can be queried without parsing DICOM."""

    __tablename__ = "finding"
    id: int | None = key_column()
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
    id: int | None = key_column()
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
    """One result on its way to one destination; see `core.job.DeliveryState`. `priority` is that of its job."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "destination"),
        Index("delivery_next", "state", "next_attempt_at"),
        Index("delivery_turn", "destination", "state", "priority", "next_attempt_at"),
    )
    id: int | None = key_column()
    job_id: int = Field(foreign_key="job.id", index=True)
    sop_instance_uid: str = Field(max_length=64)
    destination: str
    priority: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    state: str = "WAITING"
    attempts: int = 0
    next_attempt_at: float | None = time_column()
    lease_owner: str = ""
    lease_until: float | None = time_column(nullable=True)
    reason: str = ""
    sent_at: float | None = time_column(nullable=True)
    confirmed_at: float | None = time_column(nullable=True)


class WorkerRow(SQLModel, table=True):
    """A live worker process. On its own host its lock file tells whether it lives; elsewhere the lease does."""

    __tablename__ = "worker"
    owner: str = Field(primary_key=True, max_length=100)
    host: str = ""
    pid: int = 0
    queues: str = ""
    lock_path: str = ""
    started_at: float | None = time_column()
    seen_at: float | None = time_column()
