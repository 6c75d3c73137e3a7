"""The ledger of jobs: what is to be done, who does it, how it went (design promises 2, 3 and 7).

A job row is claimed in one statement, so that two workers never share it; its worker renews a lease, and may write to
it only while the row still names that attempt. A lost worker costs its lease, or nothing where its death can be seen.
A failure that may pass is tried again after a pause that doubles; one that will not ends the job as CANCELED with the
stage, a code and a reason: that row is the dead letter, and `retry` replays it.

Jobs are work items of UPS-RS: what changes their state leaves an event in the same transaction (`workitem_news`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Update, case, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from imaging_ai import audit
from imaging_ai.core.job import Failure, Job, JobRequest, JobState, Stage
from imaging_ai.db.engine import Database, after_commit
from imaging_ai.errors import WrongState
from imaging_ai.queue import history, workitem_news
from imaging_ai.queue.recovery import recover
from imaging_ai.queue.rows import ended_columns, failure_columns, job_from, jobs, new_row, series_key, waiting_columns

__all__ = ["Ledger"]

_WAITING, _RUNNING = jobs.c.state == JobState.SCHEDULED, jobs.c.state == JobState.IN_PROGRESS


class Ledger:
    """The jobs of a database.

    `max_attempts` bounds the attempts that fail, `max_losses` those whose worker dies: a job that kills whoever
    runs it must stop somewhere, but workers are also killed for reasons of their own. `retry_after` is the first
    pause after a passing failure, in seconds. `ae_title` is the station that jobs are assigned to, and `on_change` is
    called after each commit that changed what a work item tells.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_attempts: int = 3,
        max_losses: int = 20,
        retry_after: float = 5.0,
        clock: Callable[[], float] = time.time,
        ae_title: str = "",
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.database = database
        self._ae_title = ae_title
        self._on_change = on_change
        self._max_attempts = max_attempts
        self._max_losses = max_losses
        self._retry_after = retry_after
        self._clock = clock

    # -- before a run

    def schedule(self, session: Session, request: JobRequest) -> int | None:
        """Add a job in the caller's transaction and return its id; None when it is already known.

        Older revisions of the same work are superseded: cancelled when they wait, asked to stop when they run.
        """
        now = self._clock()
        connection = session.connection()
        job_id = _insert(connection, new_row(request, now=now, max_attempts=self._max_attempts))
        if job_id is None:
            return None
        self._supersede(session, job_id, request)
        _record(session, "job.schedule", job_id)
        if not request.job_uid:  # else it was made as a work item, and is known as that
            workitem_news.scheduled(connection, job_id, self._ae_title)
        self._tell(session)
        return job_id

    def note(self, session: Session, request: JobRequest, failure: Failure) -> int | None:
        """Record, in the caller's transaction, why nothing runs on these series; None when that is already known."""
        now = self._clock()
        row = new_row(request, now=now, max_attempts=0) | failure_columns(failure)
        row |= {"state": JobState.CANCELED.value, "model": "", "queue": "", "finished_at": now, "stage": failure.stage}
        return _insert(session.connection(), row)

    def withdraw(self, session: Session, study_instance_uid: str, gone: Collection[str], *, actor: str = "") -> int:
        """Stop, in the caller's transaction, what waits or runs on instances that are deleted; return how many jobs."""
        why = Failure(Stage.READ, "inputs-deleted", "instances that the job was made for were deleted", permanent=True)
        which = jobs.c.id.in_(history.open_on(session.connection(), study_instance_uid, frozenset(gone)))
        stopped = self._stop_all(session, which, why, actor=actor)
        self._tell(session)
        return stopped

    def _stop_all(self, session: Session, which: ColumnElement[bool], why: Failure, *, actor: str = "") -> int:
        connection = session.connection()
        stopped = _stop(which, self._clock()).values(**failure_columns(why)).returning(jobs.c.id)
        ids = connection.execute(stopped).scalars().all()
        for each in ids:
            _record(session, "job.cancel", each, actor=actor, detail=why.code)
            workitem_news.asked_to_stop(connection, each, actor or self._ae_title)
        return len(ids)

    def _supersede(self, session: Session, job_id: int, request: JobRequest) -> None:
        connection = session.connection()
        older = (
            (jobs.c.study_instance_uid == request.study_instance_uid)
            & (jobs.c.model == request.model)
            & (jobs.c.rule == request.rule)
            & (jobs.c.series_instance_uids == series_key(request.series_instance_uids))
            & (jobs.c.revision < request.revision)
        )
        why = Failure(Stage.QUEUE, "superseded", "newer instances have arrived", permanent=True)
        self._stop_all(session, older, why)
        done = select(jobs.c.id).where(older, jobs.c.state == JobState.COMPLETED).order_by(jobs.c.id.desc()).limit(1)
        if (predecessor := connection.execute(done).scalar()) is not None:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(supersedes=predecessor))

    # -- during a run

    def claim(self, queue: str | Sequence[str], owner: str, lease_seconds: float) -> Job | None:
        """Take the next job of a queue, or of several: the highest priority first, then the oldest."""
        now = self._clock()
        queues = [queue] if isinstance(queue, str) else queue
        due = (
            jobs.c.not_before + 0.0 <= now
        )  # no column alone: the rows shall come in the order of the index `job_next`
        following = (
            select(jobs.c.id)
            .where(jobs.c.queue.in_(queues), _WAITING, due, jobs.c.cancel_requested.is_(False))
            .order_by(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        claimed = (
            update(jobs)
            .where(jobs.c.id == following)
            .values(
                state=JobState.IN_PROGRESS,
                attempt=jobs.c.attempt + 1,
                progress=0,
                stage=Stage.QUEUE,
                started_at=now,
                finished_at=None,
                lease_owner=owner,
                lease_until=now + lease_seconds,
            )
            .returning(*jobs.c)
        )
        with self.database.write() as session:
            row = session.connection().execute(claimed).mappings().first()
            if row is not None:
                self._changed(session, row["id"])
        return None if row is None else job_from(row)

    def renew(self, owner: str, lease_seconds: float, running: Collection[int] | None = None) -> int:
        """Extend the leases of an owner and return how many; with `running`, only those of these jobs.

        A worker names what it runs: a claim whose answer got lost on the way is then given up by its lease.
        """
        if running is not None and not running:
            return 0
        renewed = update(jobs).where(jobs.c.lease_owner == owner, _RUNNING)
        if running is not None:
            renewed = renewed.where(jobs.c.id.in_(running))
        with self.database.write() as session:
            return session.connection().execute(renewed.values(lease_until=self._clock() + lease_seconds)).rowcount

    def progress(self, job_id: int, attempt: int, percent: int, stage: Stage) -> None:
        """Write how far an attempt is; it never goes back, and is ignored when the attempt is no longer ours."""
        percent = max(0, min(100, percent))
        ahead = case((jobs.c.progress < percent, percent), else_=jobs.c.progress)
        with self.database.write() as session:
            written = update(jobs).where(_ours(job_id, attempt)).values(progress=ahead, stage=stage)
            if session.connection().execute(written).rowcount:
                workitem_news.progressed(session.connection(), job_id)
                self._tell(session)

    def complete(
        self, session: Session, job_id: int, attempt: int, provenance: dict[str, object], refused: Failure | None = None
    ) -> None:
        """End a job in the caller's transaction, the one that registers its results.

        It is COMPLETED, or CANCELED when the model `refused` to read its series and all that it has is a report of it.

        Raises
        ------
        WrongState
            If the attempt is no longer ours, or was asked to stop.
        """
        done = (
            update(jobs)
            .where(_ours(job_id, attempt), jobs.c.cancel_requested.is_(False))
            .values(
                **ended_columns(self._clock())
                | failure_columns(refused)
                | ({} if refused else {"state": JobState.COMPLETED, "progress": 100}),
                provenance=msgspec.json.encode(provenance).decode(),
            )
        )
        if not session.connection().execute(done).rowcount:
            raise WrongState(f"attempt {attempt} of job {job_id} was cancelled or given to another worker")
        _record(session, "job.refuse" if refused else "job.complete", job_id)
        self._changed(session, job_id)

    # -- ends other than success

    def fail(self, job_id: int, attempt: int, failure: Failure) -> JobState | None:
        """End an attempt that failed and return the state the job is in now; None when the attempt is no longer ours.

        The job waits for its next attempt, unless the failure is permanent, it was the last attempt, or the job was
        asked to stop.
        """
        with self.database.write() as session:
            row = _lock(session.connection(), job_id, attempt)
            if row is None:
                return None
            failures = row["failures"] + 1
            if row["cancel_requested"]:
                values: dict[str, Any] = {}
            else:
                values = failure_columns(failure) | {"failures": failures}
            if row["cancel_requested"] or failure.permanent or failures >= row["max_attempts"]:
                values |= ended_columns(self._clock())
                if not row["cancel_requested"]:
                    values["failure_permanent"] = True
            else:
                values |= waiting_columns(self._clock() + self._pause(failures))
            session.connection().execute(update(jobs).where(jobs.c.id == job_id).values(**values))
            _record(session, "job.fail", job_id, outcome="failure", detail=f"{failure.stage}: {failure.code}")
            self._changed(session, job_id)
        return JobState(values["state"])

    def _pause(self, failures: int) -> float:
        return float(min(self._retry_after * 2 ** (failures - 1), 600.0) * random.uniform(0.8, 1.2))  # noqa: S311

    def release(self, job_id: int, attempt: int) -> None:
        """Give a running job back unharmed, as a worker does that must stop; it is claimable at once."""
        with self.database.write() as session:
            row = _lock(session.connection(), job_id, attempt)
            if row is not None:
                values = ended_columns(self._clock()) if row["cancel_requested"] else waiting_columns(self._clock())
                session.connection().execute(update(jobs).where(jobs.c.id == job_id).values(**values))
                self._changed(session, job_id)

    def stopped(self, job_id: int, attempt: int) -> None:
        """Write that a running job which was asked to stop has stopped."""
        with self.database.write() as session:
            ended = update(jobs).where(_ours(job_id, attempt), jobs.c.cancel_requested.is_(True))
            if session.connection().execute(ended.values(**ended_columns(self._clock()))).rowcount:
                self._changed(session, job_id)

    def cancel(
        self,
        job_id: int,
        *,
        actor: str = "",
        origin: str = "",
        reason: str = "",
        given: Mapping[str, Any] | None = None,
    ) -> Job:
        """Cancel a job that waits, or ask the worker of one that runs to stop it; return the job as it is then.

        `given` is what a request to cancel told beside its reason (PS3.4 Table CC.2.2-1).
        """
        why = failure_columns(Failure(Stage.QUEUE, "cancelled", reason or "cancelled by hand", permanent=True))
        with self.database.write() as session:
            connection = session.connection()
            stopped = _stop(jobs.c.id == job_id, self._clock()).values(**why)
            if not connection.execute(stopped).rowcount:
                state = history.get(connection, job_id).state
                raise WrongState(f"job {job_id} is {state} and cannot be cancelled any more")
            _record(session, "job.cancel", job_id, actor=actor, origin=origin)
            workitem_news.asked_to_stop(connection, job_id, actor, given)
            self._tell(session)
            return history.get(connection, job_id)

    def retry(self, job_id: int, *, actor: str = "") -> Job:
        """Schedule a cancelled job again, with all its attempts before it; return the job as it is then."""
        with self.database.write() as session:
            connection = session.connection()
            again = (
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state == JobState.CANCELED)
                .where(jobs.c.model != "", jobs.c.failure_code != "superseded")
                .values(**waiting_columns(self._clock()), failures=0, losses=0, cancel_requested=False)
            )
            if not connection.execute(again).rowcount:
                job = history.get(connection, job_id)
                raise WrongState(f"job {job_id} cannot be run again: {history.why_not_again(job)}")
            _record(session, "job.retry", job_id, actor=actor)
            workitem_news.reopened(connection, job_id)
            self._tell(session)
            return history.get(connection, job_id)

    def sweep(self, now: float | None = None) -> list[str]:
        """Take the jobs of lost workers back and return the queues that have claimable work."""
        at = self._clock() if now is None else now
        recover(self.database, at, max_losses=self._max_losses)
        return self.due_queues(at)

    def _changed(self, session: Session, job_id: int) -> None:
        workitem_news.changed(session.connection(), job_id)
        self._tell(session)

    def _tell(self, session: Session) -> None:
        if self._on_change is not None:
            after_commit(session, self._on_change)

    # -- reading

    def get(self, job_id: int) -> Job:
        """Return a job.

        Raises
        ------
        NotFound
            If there is none with this id.
        """
        with self.database.read() as session:
            return history.get(session.connection(), job_id)

    def find(
        self,
        *,
        state: JobState | None = None,
        study: str = "",
        series: str = "",
        model: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Job]:
        """Return the jobs that match, the newest first."""
        with self.database.read() as session:
            return history.find(
                session.connection(), state=state, study=study, series=series, model=model, limit=limit, offset=offset
            )

    def predecessor(self, job: Job) -> Job | None:
        """Return the newest completed job on an older revision of the same series: its results are replaced."""
        with self.database.read() as session:
            return history.predecessor(session.connection(), job)

    def eta(self, job: Job) -> float | None:
        """Estimate the seconds until a job ends, from the jobs before it and what its model took; None if unknown."""
        with self.database.read() as session:
            return history.eta(session.connection(), job, self._clock())

    def due_queues(self, now: float | None = None) -> list[str]:
        """Return the queues that have claimable work."""
        at = self._clock() if now is None else now
        with self.database.read() as session:
            due = select(jobs.c.queue).distinct().where(_WAITING, jobs.c.not_before <= at)
            return list(session.connection().execute(due).scalars())

    def next_due(self) -> float | None:
        """Return when the next job that pauses may be claimed; None when none pauses."""
        with self.database.read() as session:
            pausing = select(jobs.c.not_before).where(_WAITING, jobs.c.not_before > self._clock())
            return session.connection().execute(pausing.order_by(jobs.c.not_before).limit(1)).scalar()


def _insert(connection: Connection, row: dict[str, Any]) -> int | None:
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    added = insert(jobs).values(row).on_conflict_do_nothing(index_elements=["dedupe_key"]).returning(jobs.c.id)
    return connection.execute(added).scalar()


def _ours(job_id: int, attempt: int) -> Any:
    return (jobs.c.id == job_id) & (jobs.c.attempt == attempt) & _RUNNING


def _lock(connection: Connection, job_id: int, attempt: int) -> Any:
    return connection.execute(select(jobs).where(_ours(job_id, attempt)).with_for_update()).mappings().first()


def _stop(which: ColumnElement[bool], now: float) -> Update:
    """End what waits and ask what runs to stop, in one statement: a job may go from one to the other meanwhile."""
    return (
        update(jobs)
        .where(which, jobs.c.state.in_([JobState.SCHEDULED, JobState.IN_PROGRESS]))
        .values(
            state=case((_WAITING, JobState.CANCELED.value), else_=jobs.c.state),
            finished_at=case((_WAITING, now), else_=jobs.c.finished_at),
            cancel_requested=_RUNNING,
        )
    )


def _record(session: Session, action: str, job_id: int, **event: Any) -> None:
    uid = session.connection().execute(select(jobs.c.job_uid).where(jobs.c.id == job_id)).scalar_one()
    audit.record(session, action, object_type="job", object_uid=uid, **event)
