"""Taking back the jobs of workers that are lost: dead on this host, or silent past their lease elsewhere."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import select, update
from sqlmodel import Session

from imaging_ai import audit
from imaging_ai.core.job import Failure, JobState, Stage
from imaging_ai.db.engine import Database
from imaging_ai.queue import workitem_news
from imaging_ai.queue.rows import failure_columns, jobs
from imaging_ai.queue.workers import Workers, forget

__all__ = ["recover"]

logger = logging.getLogger(__name__)

#: How long past its lease a job is left to a worker whose lock shows that it lives: the database may have been away.
_PATIENCE = 60.0

#: A job is taken up again at once after its first lost workers; from then on after a pause that doubles.
_FREE_LOSSES, _LONGEST_PAUSE = 3, 60.0


def recover(database: Database, now: float, *, max_losses: int) -> None:
    """Schedule the jobs of lost workers again, or end them: those asked to stop, and those that lost too many."""
    dead, alive = Workers(database).census(now)
    silent = (jobs.c.lease_until < now) & jobs.c.lease_owner.not_in(alive)
    orphaned = jobs.c.lease_owner.in_(dead) | silent | (jobs.c.lease_until < now - _PATIENCE)
    lost = select(jobs).where(jobs.c.state == JobState.IN_PROGRESS, orphaned)
    with database.read() as session:
        anything = dead or session.connection().execute(lost.limit(1)).first()
    if not anything:
        return
    with database.write() as session:
        connection = session.connection()
        for row in connection.execute(lost.with_for_update(skip_locked=True)).mappings().all():
            _take_back(session, row, now, max_losses)
        forget(connection, dead)


def _take_back(session: Session, row: Any, now: float, max_losses: int) -> None:
    losses = row["losses"] + 1
    values: dict[str, Any] = {"losses": losses, "lease_owner": "", "lease_until": None}
    if row["cancel_requested"]:
        values |= {"state": JobState.CANCELED.value, "finished_at": now}
    elif losses > max_losses:
        why = Failure(Stage(row["stage"]), "worker-lost", f"{losses} workers died while they ran it", permanent=True)
        values |= {"state": JobState.CANCELED.value, "finished_at": now} | failure_columns(why)
    else:
        pause = min(2.0 ** (losses - _FREE_LOSSES), _LONGEST_PAUSE) if losses > _FREE_LOSSES else 0.0
        values |= {"state": JobState.SCHEDULED.value, "not_before": now + pause}
    session.connection().execute(update(jobs).where(jobs.c.id == row["id"]).values(**values))
    workitem_news.changed(session.connection(), row["id"])
    if losses > max_losses:
        audit.record(session, "job.fail", object_type="job", object_uid=row["job_uid"], outcome="failure")
    logger.warning("job %d lost its worker (%d times) and is now %s", row["id"], losses, values["state"])
