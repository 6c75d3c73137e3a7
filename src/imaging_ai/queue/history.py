"""Reading the ledger: one job, many jobs, what a job replaces, and when it may end."""

from __future__ import annotations

from statistics import median

import msgspec
from sqlalchemy import CompoundSelect, Connection, and_, null, or_, select

from imaging_ai.core.identity import is_uid
from imaging_ai.core.job import Job, JobState
from imaging_ai.errors import NotFound
from imaging_ai.queue.rows import job_from, jobs, series_key, workers

__all__ = ["eta", "find", "get", "open_on", "predecessor", "why_not_again"]

#: The recent runs of a model whose median tells how long it takes.
_RECENT = 21


def get(connection: Connection, job_id: int) -> Job:
    """Return a job, or raise `NotFound`."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return job_from(row)


def find(
    connection: Connection,
    *,
    state: JobState | None,
    study: str,
    series: str,
    model: str | None,
    limit: int,
    offset: int,
) -> list[Job]:
    """Return the jobs that match, the newest first."""
    chosen = select(jobs).order_by(jobs.c.id.desc()).limit(limit).offset(offset)
    if state is not None:
        chosen = chosen.where(jobs.c.state == state)
    if study:
        chosen = chosen.where(jobs.c.study_instance_uid == study)
    if series:
        if not is_uid(series):  # a UID has no character that LIKE or JSON would read
            return []
        chosen = chosen.where(jobs.c.series_instance_uids.like(f'%"{series}"%'))
    if model is not None:
        chosen = chosen.where(jobs.c.model == model)
    return [job_from(row) for row in connection.execute(chosen).mappings()]


def open_on(connection: Connection, study_instance_uid: str, inputs: frozenset[str]) -> list[int]:
    """Return the ids of the jobs of a study that wait or run, and were made for any of these instances."""
    is_open = jobs.c.state.in_([JobState.SCHEDULED, JobState.IN_PROGRESS])
    rows = connection.execute(
        select(jobs.c.id, jobs.c.inputs).where(jobs.c.study_instance_uid == study_instance_uid, is_open)
    )
    return [row.id for row in rows if not inputs.isdisjoint(msgspec.json.decode(row.inputs))]


def predecessor(connection: Connection, job: Job) -> Job | None:
    """Return the newest completed job of the same model and rule on an older revision of the same series."""
    same = (
        (jobs.c.study_instance_uid == job.study_instance_uid)
        & (jobs.c.model == job.model)
        & (jobs.c.rule == job.rule)
        & (jobs.c.series_instance_uids == series_key(job.series_instance_uids))
        & (jobs.c.revision < job.revision)
        & (jobs.c.state == JobState.COMPLETED)
    )
    newest = select(jobs).where(same).order_by(jobs.c.revision.desc(), jobs.c.id.desc()).limit(1)
    row = connection.execute(newest).mappings().first()
    return None if row is None else job_from(row)


def eta(connection: Connection, job: Job, now: float) -> float | None:
    """Estimate the seconds until a job ends; None when it has ended or its model never finished a run."""
    duration = _duration(connection, job.model)
    if duration is None or job.state in (JobState.COMPLETED, JobState.CANCELED):
        return None
    if job.state is JobState.IN_PROGRESS:
        return max(0.0, duration - (now - (job.started_at or now)))
    ahead = 0.0
    known: dict[str, float] = {job.model: duration}
    for model, started_at in connection.execute(_before(job)):
        if model not in known:
            known[model] = _duration(connection, model) or duration
        ahead += max(0.0, known[model] - (now - started_at)) if started_at is not None else known[model]
    pause = max(0.0, job.not_before - now)
    return max(pause, ahead / _workers(connection, job.queue)) + duration


def _before(job: Job) -> CompoundSelect[str, float | None]:
    sooner = or_(
        jobs.c.priority > int(job.priority),
        and_(jobs.c.priority == int(job.priority), jobs.c.created_at < job.created_at),
    )
    running = select(jobs.c.model, jobs.c.started_at).where(jobs.c.state == JobState.IN_PROGRESS)
    waiting = select(jobs.c.model, null()).where(jobs.c.state == JobState.SCHEDULED, sooner)
    return running.where(jobs.c.queue == job.queue).union_all(waiting.where(jobs.c.queue == job.queue))


def _duration(connection: Connection, model: str) -> float | None:
    recent = (
        select(jobs.c.finished_at - jobs.c.started_at)
        .where(jobs.c.model == model, jobs.c.state == JobState.COMPLETED)
        .order_by(jobs.c.id.desc())
        .limit(_RECENT)
    )
    durations = list(connection.execute(recent).scalars())
    return float(median(durations)) if durations else None


def _workers(connection: Connection, queue: str) -> int:
    served = connection.execute(select(workers.c.queues)).scalars()
    return max(1, sum(queue in queues.split(",") for queues in served))


def why_not_again(job: Job) -> str:
    """Say why a job cannot be run again by hand."""
    if job.state is not JobState.CANCELED:
        return f"it is {job.state}"
    return "it only records why nothing ran" if not job.model else "newer instances have superseded it"
