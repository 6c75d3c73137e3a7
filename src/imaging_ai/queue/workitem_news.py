"""What the ledger tells of its jobs, which are work items (PS3.4 CC.1.1): each change of state in its own transaction.

A job that waits for another attempt is IN PROGRESS for the world: a procedure step never goes back to SCHEDULED.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, select

from imaging_ai.core.job import FINAL_STATES, Job, JobState, Stage
from imaging_ai.db.tables import JobRow
from imaging_ai.queue.events import (
    EventType,
    assigned,
    cancel_requested,
    progress_report,
    record,
    state_report,
)
from imaging_ai.queue.workitem_elements import Elements, code, elements, said

__all__ = [
    "SCHEME",
    "asked_to_stop",
    "changed",
    "progress_of",
    "progressed",
    "reason_codes",
    "reopened",
    "scheduled",
    "station_of",
    "ups_state",
]

#: The coding scheme of this project's own codes, models and stations (PS3.16 8: private schemes begin with 99).
SCHEME = "99IMAGINGAI"

_JOB: Table = JobRow.metadata.tables["job"]

#: Why a step was discontinued (PS3.16 CID 9300, 9301), by the code of the failure; otherwise by its stage.
_REASONS = {
    "cancelled": ("110513", "Discontinued for unspecified reason"),
    "superseded": ("110528", "Discontinued Procedure Step rescheduled"),
    "inputs-refused": ("110522", "Object Types not supported"),
    "time-limit": ("110527", "Resource inadequate"),
    "model-out-of-memory": ("110527", "Resource inadequate"),
    "worker-lost": ("110501", "Equipment failure"),
}
_UNSUITABLE = ("110522", "Object Types not supported")
_FAILED = ("110501", "Equipment failure")


def ups_state(job: Job) -> JobState:
    """Return the Procedure Step State of a job: a step never goes back to SCHEDULED."""
    return JobState.IN_PROGRESS if job.state is JobState.SCHEDULED and job.attempt else job.state


def reason_codes(failure_code: str, stage: str) -> list[Elements]:
    """Return the item of Procedure Step Discontinuation Reason Code Sequence for a failure."""
    usual = _UNSUITABLE if stage in (Stage.READ, Stage.ROUTE) else _FAILED
    value, meaning = _REASONS.get(failure_code, usual)
    return [code(value, "DCM", meaning)]


def progress_of(percent: int, stage: str, *, waits: bool = False, reason: str = "") -> Elements:
    """Return the progress of a job as one item of Procedure Step Progress Information Sequence."""
    about = f"waits for its next attempt: {reason}" if waits else stage
    return elements(ProcedureStepProgress=percent, ProcedureStepProgressDescription=about[:1024])


def station_of(ae_title: str) -> Elements:
    """Return the code of a station of ours: its AE title."""
    return code(ae_title, SCHEME, ae_title)


def scheduled(connection: Connection, job_id: int, ae_title: str) -> None:
    """Tell of a new job, and that it is assigned to this station."""
    row = _row(connection, job_id)
    record(connection, row["job_uid"], EventType.STATE_REPORT, state_report(JobState.SCHEDULED), created=True)
    told = assigned(elements(ScheduledStationNameCodeSequence=[station_of(ae_title)])) if ae_title else None
    if told:
        record(connection, row["job_uid"], EventType.ASSIGNED, told)


def changed(connection: Connection, job_id: int) -> None:
    """Tell of the state that a job has come into: taken up, ended, or waiting for its next attempt."""
    row = _row(connection, job_id)
    uid, state = row["job_uid"], JobState(row["state"])
    if state in FINAL_STATES:
        if state is JobState.CANCELED and not row["attempt"]:  # by way of IN PROGRESS (PS3.4 CC.2.2.3)
            record(connection, uid, EventType.STATE_REPORT, state_report(JobState.IN_PROGRESS))
        record(connection, uid, EventType.STATE_REPORT, _final(row))
    elif state is JobState.SCHEDULED and not row["attempt"]:
        record(connection, uid, EventType.STATE_REPORT, state_report(JobState.SCHEDULED))
    elif state is JobState.IN_PROGRESS and row["attempt"] == 1:
        record(connection, uid, EventType.STATE_REPORT, state_report(JobState.IN_PROGRESS))
    else:
        record(connection, uid, EventType.PROGRESS_REPORT, _progress(row))


def reopened(connection: Connection, job_id: int) -> None:
    """Tell that an operator has a canceled job run again."""
    row = _row(connection, job_id)
    state = JobState.IN_PROGRESS if row["attempt"] else JobState.SCHEDULED
    record(connection, row["job_uid"], EventType.STATE_REPORT, state_report(state), created=True)


def progressed(connection: Connection, job_id: int) -> None:
    """Tell how far a job is."""
    row = _row(connection, job_id)
    record(connection, row["job_uid"], EventType.PROGRESS_REPORT, _progress(row))


def asked_to_stop(connection: Connection, job_id: int, actor: str, given: Mapping[str, Any] | None = None) -> None:
    """Tell what became of the wish to stop a job: it is canceled, or its worker was asked."""
    row = _row(connection, job_id)
    if row["state"] == JobState.IN_PROGRESS:
        requesting = said(given or {}, "RequestingAE") or actor
        record(connection, row["job_uid"], EventType.CANCEL_REQUESTED, cancel_requested(requesting, given))
    else:
        changed(connection, job_id)


def _row(connection: Connection, job_id: int) -> RowMapping:
    return connection.execute(select(_JOB).where(_JOB.c.id == job_id)).mappings().one()


def _progress(row: RowMapping) -> Elements:
    waits = row["state"] == JobState.SCHEDULED
    return progress_report(progress_of(row["progress"], row["stage"], waits=waits, reason=row["failure_reason"]))


def _final(row: RowMapping) -> Elements:
    if row["state"] == JobState.COMPLETED:
        return state_report(JobState.COMPLETED)
    codes = reason_codes(row["failure_code"], row["failure_stage"])
    return state_report(JobState.CANCELED, reason=row["failure_reason"], codes=codes)
