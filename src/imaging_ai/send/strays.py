"""Deliveries whose destination is named by no settings any more, and what can be done with those that wait, by hand.

They go nowhere, and are not lost: once a destination is called so again, they are sent. Until then their rows say why
they wait. Whatever waits can be given up, or be sent to another destination instead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, func, literal, or_, select, update
from sqlmodel import SQLModel

from imaging_ai import audit
from imaging_ai.core.job import DeliveryState
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import DeliveryRow
from imaging_ai.errors import NotFound
from imaging_ai.send.deliveries import NEVER

__all__ = ["give_up", "redirect", "stray", "tell_strays"]

_log = logging.getLogger(__name__)

_TABLE = SQLModel.metadata.tables[str(DeliveryRow.__tablename__)]
_WAITING, _SENT, _DEAD = (state.value for state in (DeliveryState.WAITING, DeliveryState.SENT, DeliveryState.DEAD))
_REASON = "waits: no [[destinations]] has this name; see `imaging-ai deliveries`"


def stray(database: Database, known: Collection[str]) -> dict[str, int]:
    """Return how many deliveries wait for each destination that is none of the `known`."""
    query = select(_TABLE.c.destination, func.count()).where(_waits(), _TABLE.c.destination.not_in(known))
    with database.read() as session:
        rows = session.connection().execute(query.group_by(_TABLE.c.destination).order_by(_TABLE.c.destination))
        return {name: int(count) for name, count in rows}


def tell_strays(database: Database, known: Collection[str]) -> int:
    """Have the rows of such deliveries say why they wait, and the log; return how many did not say so yet."""
    untold = and_(_waits(), _TABLE.c.destination.not_in(known), _TABLE.c.reason != _REASON)
    with database.read() as session:
        if not session.connection().scalar(select(exists().where(untold))):
            return 0
    with database.write() as session:
        told = session.connection().execute(update(_TABLE).where(untold).values(reason=_REASON))
        count = int(told.rowcount)
    _log.warning("%d results wait for destinations that no settings name: `imaging-ai deliveries list`", count)
    return count


def give_up(database: Database, destination: str, *, job_id: int | None = None, actor: str) -> int:
    """Send what waits for a destination no more (that of one job alone, where it is given); return how many.

    What was sent already is not looked for there any longer. What is being sent just now stays untouched.

    Raises
    ------
    NotFound
        If nothing waits there.
    """
    values = {"state": case((_TABLE.c.state == _WAITING, _DEAD), else_=_TABLE.c.state), "next_attempt_at": NEVER}
    where = and_(_waits(), *_of(destination, job_id))
    return _change(database, where, {**values, "reason": "given up by hand"}, "give-up", destination, actor)


def redirect(database: Database, destination: str, to: str, *, job_id: int | None = None, actor: str) -> int:
    """Send what waits for a destination, or did not get there, to another one instead; return how many.

    What goes there by itself is given up at the first.

    Raises
    ------
    NotFound
        If there is nothing of the kind.
    """
    other = _TABLE.alias("other")
    twice = exists().where(other.c.sop_instance_uid == _TABLE.c.sop_instance_uid, other.c.destination == to)
    begun = {"state": _WAITING, "attempts": 0, "next_attempt_at": time.time(), "reason": ""}
    undelivered = and_(_TABLE.c.state.in_((_WAITING, _DEAD)), *_of(destination, job_id))
    ended = {"state": _DEAD, "next_attempt_at": NEVER, "reason": f"goes to {to} anyway"}
    moved = _change(database, and_(undelivered, ~twice), {**begun, "destination": to}, "redirect", destination, actor)
    spare = and_(_TABLE.c.state == _WAITING, *_of(destination, job_id))
    return moved + _change(database, spare, ended, "give-up", destination, actor, needed=not moved)


def _waits() -> ColumnElement[bool]:
    """Deliveries that something is still to be done for."""
    checked = and_(_TABLE.c.state == _SENT, _TABLE.c.next_attempt_at < NEVER)
    return or_(_TABLE.c.state == _WAITING, checked)


def _of(destination: str, job_id: int | None) -> list[ColumnElement[bool]]:
    return [_TABLE.c.destination == destination, literal(True) if job_id is None else _TABLE.c.job_id == job_id]


def _change(
    database: Database,
    where: ColumnElement[bool],
    values: Mapping[str, Any],
    action: str,
    destination: str,
    actor: str,
    *,
    needed: bool = True,
) -> int:
    """Change deliveries, each with its audit event."""
    with database.write() as session:
        changed = session.connection().execute(
            update(_TABLE).where(where).values(**values).returning(_TABLE.c.sop_instance_uid, _TABLE.c.destination)
        )
        rows = changed.all()
        for row in rows:
            told = f"to {row.destination}" if row.destination != destination else ""
            audit.record(
                session,
                action,
                object_type="instance",
                object_uid=row.sop_instance_uid,
                actor=actor,
                origin=destination,
                detail=told,
            )
    if needed and not rows:
        raise NotFound(f"nothing waits for {destination}; `imaging-ai deliveries list` shows what does")
    return len(rows)
