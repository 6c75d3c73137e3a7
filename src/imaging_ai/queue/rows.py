"""Between the job table and `core.job` values: the columns, and the mapping in both directions."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import RowMapping, Table

from imaging_ai.core.identity import new_uid
from imaging_ai.core.job import Failure, Job, JobRequest, JobState, Priority, Stage
from imaging_ai.db.tables import JobRow, WorkerRow

__all__ = [
    "ended_columns",
    "failure_columns",
    "job_from",
    "jobs",
    "new_row",
    "series_key",
    "waiting_columns",
    "workers",
]

jobs: Table = JobRow.metadata.tables["job"]
workers: Table = WorkerRow.metadata.tables["worker"]


def new_row(request: JobRequest, *, now: float, max_attempts: int) -> dict[str, Any]:
    """Return the columns of a job that waits for its first claim."""
    return {
        "job_uid": request.job_uid or new_uid(),
        "dedupe_key": request.dedupe_key,
        "state": JobState.SCHEDULED.value,
        "priority": int(request.priority),
        "queue": request.queue,
        "study_instance_uid": request.study_instance_uid,
        "series_instance_uids": series_key(request.series_instance_uids),
        "inputs": _json(request.inputs),
        "revision": request.revision,
        "rule": request.rule,
        "model": request.model,
        "model_digest": request.model_digest,
        "destinations": _json(request.destinations),
        "parameters": _json(request.parameters),
        "attempt": 0,
        "failures": 0,
        "losses": 0,
        "max_attempts": max_attempts,
        "progress": 0,
        "stage": Stage.QUEUE.value,
        "created_at": now,
        "not_before": now,
        "lease_owner": "",
        "cancel_requested": False,
        "failure_stage": "",
        "failure_code": "",
        "failure_reason": "",
        "failure_permanent": False,
        "provenance": "{}",
    }


def series_key(series_instance_uids: tuple[str, ...]) -> str:
    """Return a set of series as its column has it: the same set is the same text."""
    return _json(sorted(series_instance_uids))


def failure_columns(failure: Failure | None) -> dict[str, Any]:
    """Return the columns that say why a job failed, or that it did not."""
    return {
        "failure_stage": failure.stage.value if failure else "",
        "failure_code": failure.code if failure else "",
        "failure_reason": failure.reason if failure else "",
        "failure_permanent": failure.permanent if failure else False,
    }


def ended_columns(now: float) -> dict[str, Any]:
    """Return the columns of a job that was canceled."""
    return {"state": JobState.CANCELED.value, "finished_at": now, "lease_owner": "", "lease_until": None}


def waiting_columns(not_before: float) -> dict[str, Any]:
    """Return the columns of a job that may be claimed from a time on."""
    return {
        "state": JobState.SCHEDULED.value,
        "not_before": not_before,
        "finished_at": None,
        "lease_owner": "",
        "lease_until": None,
    }


def job_from(row: RowMapping) -> Job:
    """Make the value of a row."""
    failure = None
    if row["failure_code"]:
        stage = Stage(row["failure_stage"])
        failure = Failure(stage, row["failure_code"], row["failure_reason"], row["failure_permanent"])
    return Job(
        id=row["id"],
        job_uid=row["job_uid"],
        state=JobState(row["state"]),
        priority=Priority(row["priority"]),
        queue=row["queue"],
        study_instance_uid=row["study_instance_uid"],
        series_instance_uids=tuple(msgspec.json.decode(row["series_instance_uids"])),
        revision=row["revision"],
        rule=row["rule"],
        model=row["model"],
        model_digest=row["model_digest"],
        destinations=tuple(msgspec.json.decode(row["destinations"])),
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        progress=row["progress"],
        stage=Stage(row["stage"]),
        created_at=row["created_at"],
        not_before=row["not_before"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        cancel_requested=row["cancel_requested"],
        failure=failure,
        supersedes=row["supersedes"],
        provenance=msgspec.json.decode(row["provenance"]),
        inputs=tuple(msgspec.json.decode(row["inputs"])),
        parameters=msgspec.json.decode(row["parameters"]),
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
