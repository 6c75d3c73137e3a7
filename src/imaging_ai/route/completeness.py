"""When a series counts as complete, as state in the database: it survives restarts and serves any number of receivers.

DICOM has no sign for "that was all". What tells best comes first:

    the sender released the association (or STOW ended) and the expected count is reached   at once
    the sender released, but the number of instances is not known or not reached            after `quiet` seconds
    the association was aborted, or is still open                                           after `silence` seconds

An instance that arrives later opens the series again (the archive does so as it indexes it), and the series settles
anew as its next revision, after the quiet time, so that late instances make one new run and not one each.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Table, and_, case, func, select, update
from sqlmodel import Session

from imaging_ai.db.engine import Database
from imaging_ai.db.tables import SeriesRow, StudyRow

__all__ = ["QuietTimes", "claim_due", "due_studies", "next_due", "put_off", "released"]

_SERIES: Table = SeriesRow.metadata.tables["series"]
_STUDY: Table = StudyRow.metadata.tables["study"]


@dataclass(frozen=True, slots=True)
class QuietTimes:
    """How many seconds without a new instance make a series complete."""

    quiet: float = 2.0
    silence: float = 10.0


def released(
    database: Database,
    series_ids: Collection[int],
    *,
    graceful: bool,
    timing: QuietTimes,
    now: float | None = None,
) -> None:
    """Note that the association (or STOW request) that carried these series has ended."""
    if not series_ids:
        return
    now = time.time() if now is None else now
    counted = and_(_SERIES.c.revision == 0, _SERIES.c.instance_count >= _SERIES.c.expected_count)
    settle_at = case((counted, now), else_=now + timing.quiet) if graceful else now + timing.silence
    with database.write() as session:
        session.connection().execute(
            update(_SERIES)
            .where(_SERIES.c.id.in_(sorted(series_ids)), _SERIES.c.state == "RECEIVING")
            .values(settle_at=settle_at)
        )


def next_due(session: Session) -> float | None:
    """Return when the next series will be complete unless more arrives; None when none is being received."""
    moment = session.connection().scalar(select(func.min(_SERIES.c.settle_at)).where(_SERIES.c.state == "RECEIVING"))
    return None if moment is None else float(moment)


def due_studies(session: Session, now: float, limit: int = 32) -> list[str]:
    """Return the Study Instance UIDs with complete series that nobody has claimed, the longest due first."""
    rows = session.connection().execute(
        select(_STUDY.c.study_instance_uid)
        .join(_SERIES, _SERIES.c.study_id == _STUDY.c.id)
        .where(*_due(now))
        .group_by(_STUDY.c.study_instance_uid)
        .order_by(func.min(_SERIES.c.settle_at))
        .limit(limit)
    )
    return [row.study_instance_uid for row in rows]


def claim_due(session: Session, now: float, series_ids: Collection[int] | None = None) -> dict[int, int]:
    """Settle the series that are due (of those named), in the caller's transaction; return their new revisions by id.

    However many routers ask at once, each revision of a series is handed to one of them: on PostgreSQL rows that
    another has locked are skipped, on SQLite there is one writer.
    """
    due = select(_SERIES.c.id).where(*_due(now))
    if series_ids is not None:
        due = due.where(_SERIES.c.id.in_(sorted(series_ids)))
    rows = session.connection().execute(
        update(_SERIES)
        .where(_SERIES.c.id.in_(due.with_for_update(skip_locked=True)), *_due(now))
        .values(state="SETTLED", revision=_SERIES.c.revision + 1)
        .returning(_SERIES.c.id, _SERIES.c.revision)
    )
    return {row.id: row.revision for row in rows}


def put_off(session: Session, series_ids: Collection[int], now: float, until: float) -> None:
    """Let the due series among these wait until another moment."""
    session.connection().execute(
        update(_SERIES).where(_SERIES.c.id.in_(sorted(series_ids)), *_due(now)).values(settle_at=until)
    )


def _due(now: float) -> tuple[ColumnElement[bool], ...]:
    return _SERIES.c.state == "RECEIVING", _SERIES.c.settle_at <= now
