"""Legal holds: while one is in force on a study, nothing of the study is deleted, by nobody.

Placing one locks the series of the study as a deletion does, so that of the two the second always sees the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, insert, select, update
from sqlmodel import Session

from imaging_ai.archive.deletion import lock_series
from imaging_ai.archive.find import STUDY
from imaging_ai.audit import record
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import HoldRow
from imaging_ai.errors import InputError, NotFound, OnHold, WrongState

__all__ = ["Hold", "Holds", "require_no_hold"]

_HOLD = HoldRow.metadata.tables["hold"]
_LONGEST_REASON = 1_000


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold on a study: why, by whom and since when (seconds since the epoch); `lifted_at` None while in force."""

    study_instance_uid: str
    reason: str
    placed_by: str
    placed_at: float
    lifted_by: str = ""
    lifted_at: float | None = None


def require_no_hold(session: Session, study_instance_uid: str) -> None:
    """Raise `OnHold` if nothing of a study may be deleted. The caller holds the lock of `lock_series`."""
    if session.connection().execute(_in_force(study_instance_uid)).first() is not None:
        raise OnHold("the study is under a legal hold: nothing of it is deleted until the hold is lifted")


def _in_force(study_instance_uid: str) -> Select[Any]:
    return select(_HOLD).where(_HOLD.c.study_instance_uid == study_instance_uid, _HOLD.c.lifted_at.is_(None))


class Holds:
    """The holds that one database knows."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def place(self, study_instance_uid: str, reason: str, *, actor: str = "", origin: str = "") -> Hold:
        """Put a study on hold.

        Raises
        ------
        InputError
            If there is no reason; `NotFound` if there is no such study; `WrongState` if it is on hold already.
        """
        if not 0 < len(reason := reason.strip()) <= _LONGEST_REASON:
            raise InputError(f"a hold needs a reason of 1 to {_LONGEST_REASON} characters")
        hold = Hold(study_instance_uid, reason, actor, self._clock())
        with self._database.write() as session:
            lock_series(session, study_instance_uid)
            connection = session.connection()
            there = select(STUDY.c.id).where(STUDY.c.study_instance_uid == study_instance_uid)
            if connection.execute(there).first() is None:
                raise NotFound(f"there is no study {study_instance_uid}")
            if connection.execute(_in_force(study_instance_uid)).first() is not None:
                raise WrongState(f"study {study_instance_uid} is on hold already; lift that hold to change its reason")
            values = {
                "study_instance_uid": study_instance_uid,
                "reason": reason,
                "placed_by": actor,
                "placed_at": hold.placed_at,
                "lifted_by": "",
            }
            connection.execute(insert(_HOLD).values(values))
            record(
                session, "place-hold", object_type="study", object_uid=study_instance_uid, actor=actor, origin=origin
            )
        return hold

    def lift(self, study_instance_uid: str, *, actor: str = "", origin: str = "") -> None:
        """End the hold on a study. Raises `NotFound` if there is none."""
        with self._database.write() as session:
            done = session.connection().execute(
                update(_HOLD)
                .where(_HOLD.c.study_instance_uid == study_instance_uid, _HOLD.c.lifted_at.is_(None))
                .values(lifted_by=actor, lifted_at=self._clock())
            )
            if not done.rowcount:
                raise NotFound(f"study {study_instance_uid} is not on hold")
            record(session, "lift-hold", object_type="study", object_uid=study_instance_uid, actor=actor, origin=origin)

    def entries(self, study_instance_uid: str | None = None, *, lifted: bool = False) -> Sequence[Hold]:
        """Return the holds in force, the oldest first, of one study or of all; with those that were lifted if asked."""
        query = select(_HOLD).order_by(_HOLD.c.id)
        if study_instance_uid is not None:
            query = query.where(_HOLD.c.study_instance_uid == study_instance_uid)
        if not lifted:
            query = query.where(_HOLD.c.lifted_at.is_(None))
        with self._database.read() as session:
            rows = session.connection().execute(query).all()
        return [_hold(row) for row in rows]


def _hold(row: Any) -> Hold:
    names = ("study_instance_uid", "reason", "placed_by", "placed_at", "lifted_by", "lifted_at")
    return Hold(*(getattr(row, name) for name in names))
