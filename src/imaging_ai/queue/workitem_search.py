"""Searching the worklist (PS3.18 11.9): jobs and work items together, the newest first, with stable pages.

What the database can decide (state, priority, UIDs) it decides; other keys are matched on the data sets themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, literal, select, union_all

from imaging_ai.core.job import JobState, Priority
from imaging_ai.errors import TooLarge
from imaging_ai.queue.rows import job_from, jobs
from imaging_ai.queue.workitem_elements import Elements, tag
from imaging_ai.queue.workitem_match import Key
from imaging_ai.queue.workitem_views import Views, WorkItem, work_items

__all__ = ["Page", "matching", "search"]

_CHUNK = 200
#: What lists instances: returned by a search only when it is asked for.
_LISTS = (tag("InputInformationSequence"), tag("UnifiedProcedureStepPerformedProcedureSequence"))


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the work items that match, and how many more there are after them."""

    found: tuple[Elements, ...]
    remaining: int


def search(
    connection: Connection,
    views: Views,
    keys: Sequence[Key],
    *,
    limit: int,
    offset: int,
    lists: bool = False,
    examined: int = 20_000,
) -> Page:
    """Return the work items that match all keys; `lists` has them tell each instance they read or made.

    Raises
    ------
    TooLarge
        If more than `examined` data sets would have to be looked into.
    """
    rest = [key for key in keys if not key.universal and _clauses(key) is None]
    if not rest:
        candidates = _candidates(keys).subquery()
        total = connection.scalar(select(func.count()).select_from(candidates)) or 0
        chosen = list(_loaded(connection, _ordered(connection, keys, limit, offset))) if limit else []
        views.prepare(chosen)
        made = tuple(views.dataset(item, whole=lists) for item in chosen)
        return Page(made, max(0, total - offset - len(made)))
    found: list[Elements] = []
    matches = 0
    for item, _ in matching(connection, views, keys, examined=examined):
        if offset <= matches < offset + limit:
            found.append(views.dataset(item, whole=lists))
        matches += 1
    return Page(tuple(found), max(0, matches - offset - len(found)))


def matching(
    connection: Connection, views: Views, keys: Sequence[Key], *, examined: int = 20_000, strict: bool = True
) -> Iterator[tuple[WorkItem, Elements]]:
    """Go through the work items that match all keys, the newest first.

    After `examined` of them it ends; when `strict`, with `TooLarge`.
    """
    rest = [key for key in keys if not key.universal and _clauses(key) is None]
    whole = any(key.path[0] in _LISTS for key in rest)
    candidates = _ordered(connection, keys, examined + 1, 0)
    for start in range(0, min(len(candidates), examined), _CHUNK):
        chunk = list(_loaded(connection, candidates[start : start + _CHUNK]))
        views.prepare(chunk)
        for item in chunk:
            dataset = views.dataset(item, whole=whole)
            if all(key.holds(dataset) for key in rest):
                yield item, dataset
    if strict and len(candidates) > examined:
        raise TooLarge(f"this would look into more than {examined} work items; narrow it, by state or study")


def _ordered(connection: Connection, keys: Sequence[Key], limit: int, offset: int) -> Sequence[Row[Any]]:
    """Return the kinds and keys of candidates, the newest first."""
    ordered = _candidates(keys).order_by("created_at_desc", "is_job", "key_desc")
    return connection.execute(ordered.limit(limit).offset(offset)).all()


def _loaded(connection: Connection, page: Sequence[Row[Any]]) -> Iterator[WorkItem]:
    job_ids = [-row.key_desc for row in page if row.is_job]
    row_ids = [-row.key_desc for row in page if not row.is_job]
    held = {row["id"]: row for row in connection.execute(select(jobs).where(jobs.c.id.in_(job_ids))).mappings()}
    made = connection.execute(select(work_items).where(work_items.c.job_id.in_(job_ids))).mappings().all()
    of_job = {row["job_id"]: row for row in made}
    plain = connection.execute(select(work_items).where(work_items.c.id.in_(row_ids))).mappings().all()
    alone = {row["id"]: row for row in plain}
    for row in page:
        if row.is_job:
            job = job_from(held[-row.key_desc])
            yield WorkItem(job.job_uid, job.created_at, job, of_job.get(job.id))
        else:
            item = alone[-row.key_desc]
            yield WorkItem(item["uid"], item["created_at"], None, item)


def _candidates(keys: Sequence[Key]) -> Any:
    """Select the time, kind and key of every work item that the database cannot rule out."""
    of_jobs: Select[Any] = select(
        (-jobs.c.created_at).label("created_at_desc"), literal(1).label("is_job"), (-jobs.c.id).label("key_desc")
    ).where(jobs.c.model != "")
    of_items: Select[Any] = select(
        (-work_items.c.created_at).label("created_at_desc"), literal(0).label("is_job"), (-work_items.c.id).label("k")
    ).where(work_items.c.job_id.is_(None), work_items.c.removed_at.is_(None))
    for key in keys:
        clauses = None if key.universal else _clauses(key)
        if clauses is not None:
            of_jobs, of_items = of_jobs.where(clauses[0]), of_items.where(clauses[1])
    return union_all(of_jobs, of_items)


def _clauses(key: Key) -> tuple[ColumnElement[bool], ColumnElement[bool]] | None:
    """Return what a key says of jobs and of work items, where their columns tell."""
    if len(key.path) > 1:
        return None
    path = key.path[0]
    if path == tag("ProcedureStepState"):
        return _job_state(key.text.strip()), work_items.c.state == key.text.strip()
    if path == tag("ScheduledProcedureStepPriority"):
        wanted = int(Priority[key.text]) if key.text in Priority.__members__ else -1
        return jobs.c.priority == wanted, work_items.c.priority == wanted
    if path == tag("SOPInstanceUID"):
        return jobs.c.job_uid.in_(key.uids), work_items.c.uid.in_(key.uids)
    if path == tag("StudyInstanceUID"):
        return jobs.c.study_instance_uid.in_(key.uids), work_items.c.study_instance_uid.in_(key.uids)
    return None


def _job_state(state: str) -> ColumnElement[bool]:
    """Say what the ledger has for a Procedure Step State: a job that waits again is IN PROGRESS for the world."""
    waits = jobs.c.state == JobState.SCHEDULED
    if state == JobState.SCHEDULED:
        return waits & (jobs.c.attempt == 0)
    if state == JobState.IN_PROGRESS:
        return (jobs.c.state == state) | (waits & (jobs.c.attempt > 0))
    return jobs.c.state == state
