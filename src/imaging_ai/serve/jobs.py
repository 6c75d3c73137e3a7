"""`/api/jobs`: what the ledger knows of each job, for people and programs. It holds UIDs and no patient data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Router, get
from litestar.openapi import ResponseSpec
from litestar.params import Parameter
from sqlalchemy import Connection, func, or_, select
from sqlmodel import SQLModel

from imaging_ai.core.job import Failure, Job, JobState
from imaging_ai.db.engine import Database
from imaging_ai.queue.evaluations import evaluations_of
from imaging_ai.queue.ledger import Ledger
from imaging_ai.serve.problem import Problem

__all__ = ["READS", "Limit", "Offset", "Page", "Uid", "jobs_router", "moment"]

_tables = SQLModel.metadata.tables
_JOB, _RESULT, _DELIVERY = _tables["job"], _tables["result"], _tables["delivery"]

READS = {"needs": "read"}

_BIG = 2**63 - 1  # what a database key can be
Limit = Annotated[int, Parameter(ge=1, le=1000, description="How many at most")]
Offset = Annotated[int, Parameter(ge=0, le=_BIG, description="How many to leave out")]
_UID = Parameter(pattern=r"^[0-9.]{1,64}$(?!\n)", description="A UID")
Uid = Annotated[str, _UID]
_Uid = Annotated[str | None, _UID]
_Name = Annotated[
    str | None, Parameter(pattern=r"^[^\x00-\x1f]{0,64}$(?!\n)", description="A name; empty: nothing ran")
]
_State = Annotated[JobState | None, Parameter(query="state")]  # litestar keeps `state` for itself
_Key = Annotated[int, Parameter(ge=1, le=_BIG)]


class FailureView(msgspec.Struct, frozen=True):
    """Why a job ended without a result, or why its last attempt did."""

    stage: str
    code: str
    reason: str
    permanent: bool


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job in a list."""

    id: int
    job_uid: str
    state: str
    priority: str
    queue: str
    study_instance_uid: str
    series_instance_uids: tuple[str, ...]
    revision: int
    rule: str
    model: str
    model_digest: str
    destinations: tuple[str, ...]
    attempt: int
    progress: int
    stage: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    failure: FailureView | None
    supersedes: int | None


class ResultView(msgspec.Struct, frozen=True):
    """An object that a job produced."""

    kind: str
    sop_instance_uid: str
    sop_class_uid: str
    created_at: datetime


class DeliveryView(msgspec.Struct, frozen=True):
    """A result on its way to a destination."""

    sop_instance_uid: str
    destination: str
    state: str
    attempts: int
    reason: str
    sent_at: datetime | None
    confirmed_at: datetime | None


class EvaluationView(msgspec.Struct, frozen=True):
    """What a classifier said: of the whole series (or study) where `instances` is empty, else of these."""

    label: str
    finding: tuple[str, str, str]
    present: bool
    probability: float
    threshold: float
    calibrated: bool
    instances: tuple[str, ...]
    tracking_identifier: str
    tracking_uid: str


class JobDetail(msgspec.Struct, frozen=True, kw_only=True):
    """All of a job: `queue_position` counts from 1 and is told of jobs that wait, `eta_seconds` where it can be."""

    job: JobView
    eta_seconds: float | None
    queue_position: int | None
    inputs: tuple[str, ...]
    parameters: dict[str, Any]
    provenance: dict[str, Any]
    results: tuple[ResultView, ...]
    deliveries: tuple[DeliveryView, ...]
    evaluations: tuple[EvaluationView, ...]


class Page(msgspec.Struct, frozen=True):
    """Where a list was cut; `next_offset` is none at its end."""

    limit: int
    offset: int
    next_offset: int | None

    @classmethod
    def of(cls, found: Sequence[object], limit: int, offset: int) -> Page:
        """Describe a page of which one more than `limit` was asked for."""
        return cls(limit, offset, offset + limit if len(found) > limit else None)


class JobList(msgspec.Struct, frozen=True):
    """Jobs, the newest first."""

    jobs: tuple[JobView, ...]
    page: Page


def moment(seconds: float | None) -> datetime | None:
    """Turn seconds since the epoch into a date and time."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def jobs_router(database: Database, ledger: Ledger) -> Router:
    """Answer `/jobs` and `/jobs/{id}`."""

    @get("/", opt=READS, sync_to_thread=True, summary="Search for jobs", responses=_bad(400))
    def search_for_jobs(
        job_state: _State = None,
        study: _Uid = None,
        series: _Uid = None,
        model: _Name = None,
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> JobList:
        found = ledger.find(
            state=job_state, study=study or "", series=series or "", model=model, limit=limit + 1, offset=offset
        )
        return JobList(tuple(_view(job) for job in found[:limit]), Page.of(found, limit, offset))

    @get("/{job_id:int}", opt=READS, sync_to_thread=True, summary="All of one job", responses=_bad(400, 404))
    def retrieve_job(job_id: _Key) -> JobDetail:
        job = ledger.get(job_id)
        with database.read() as session:
            connection = session.connection()
            return JobDetail(
                job=_view(job),
                eta_seconds=ledger.eta(job),
                queue_position=_position(connection, job) if job.state is JobState.SCHEDULED else None,
                inputs=job.inputs,
                parameters=dict(job.parameters),
                provenance=dict(job.provenance),
                results=_results(connection, job_id),
                deliveries=_deliveries(connection, job_id),
                evaluations=_evaluations(connection, job_id),
            )

    return Router("/jobs", route_handlers=[search_for_jobs, retrieve_job], tags=["jobs"])


def _bad(*statuses: int) -> dict[int, ResponseSpec]:
    return {status: ResponseSpec(data_container=Problem, description="A problem (RFC 9457)") for status in statuses}


def _view(job: Job) -> JobView:
    created_at = moment(job.created_at)
    assert created_at is not None
    return JobView(
        id=job.id,
        job_uid=job.job_uid,
        state=job.state.value,
        priority=job.priority.name,
        queue=job.queue,
        study_instance_uid=job.study_instance_uid,
        series_instance_uids=job.series_instance_uids,
        revision=job.revision,
        rule=job.rule,
        model=job.model,
        model_digest=job.model_digest,
        destinations=job.destinations,
        attempt=job.attempt,
        progress=job.progress,
        stage=job.stage.value,
        created_at=created_at,
        started_at=moment(job.started_at),
        finished_at=moment(job.finished_at),
        cancel_requested=job.cancel_requested,
        failure=_failure(job.failure),
        supersedes=job.supersedes,
    )


def _failure(failure: Failure | None) -> FailureView | None:
    if failure is None:
        return None
    return FailureView(failure.stage.value, failure.code, failure.reason, failure.permanent)


def _position(connection: Connection, job: Job) -> int:
    ahead = select(func.count()).where(
        _JOB.c.queue == job.queue,
        _JOB.c.state == JobState.SCHEDULED,
        or_(
            _JOB.c.priority > int(job.priority),
            (_JOB.c.priority == int(job.priority)) & (_JOB.c.created_at < job.created_at),
            (_JOB.c.priority == int(job.priority)) & (_JOB.c.created_at == job.created_at) & (_JOB.c.id < job.id),
        ),
    )
    return int(connection.scalar(ahead) or 0) + 1


def _results(connection: Connection, job_id: int) -> tuple[ResultView, ...]:
    query = select(_RESULT.c.kind, _RESULT.c.sop_instance_uid, _RESULT.c.sop_class_uid, _RESULT.c.created_at)
    rows = connection.execute(query.where(_RESULT.c.job_id == job_id).order_by(_RESULT.c.id))
    return tuple(ResultView(kind, uid, sop_class, datetime.fromtimestamp(at, UTC)) for kind, uid, sop_class, at in rows)


def _evaluations(connection: Connection, job_id: int) -> tuple[EvaluationView, ...]:
    return msgspec.convert([one.as_tree() for one in evaluations_of(connection, job_id)], tuple[EvaluationView, ...])


def _deliveries(connection: Connection, job_id: int) -> tuple[DeliveryView, ...]:
    rows = connection.execute(select(_DELIVERY).where(_DELIVERY.c.job_id == job_id).order_by(_DELIVERY.c.id))
    return tuple(
        DeliveryView(
            row.sop_instance_uid,
            row.destination,
            row.state,
            row.attempts,
            row.reason,
            moment(row.sent_at),
            moment(row.confirmed_at),
        )
        for row in rows
    )
