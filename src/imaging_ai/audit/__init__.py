"""The audit trail: one event for each thing that touches patient data, in the transaction of what it records.

Events wait in their session and are numbered and sealed in one stroke at its commit (`audit.trail`), so that writers
queue for the end of the trail as late as can be, and what is rolled back leaves no gap. See docs/audit.md.
"""

from __future__ import annotations

import time

from sqlmodel import Session

from imaging_ai.audit.event import Event, Outcome
from imaging_ai.audit.trail import append, executor
from imaging_ai.db.engine import before_commit

__all__ = ["Event", "Outcome", "event", "record"]

_WAITING = "imaging_ai_audit_events"
_LONGEST = 1_000


def record(
    session: Session,
    action: str,
    *,
    object_type: str,
    object_uid: str,
    actor: str = "",
    origin: str = "",
    outcome: Outcome = "success",
    detail: str = "",
) -> None:
    """Add an event to the caller's transaction: `actor` did `action` to an object, from `origin`."""
    told = event(
        action,
        object_type=object_type,
        object_uid=object_uid,
        actor=actor,
        origin=origin,
        outcome=outcome,
        detail=detail,
    )
    session.info.setdefault(_WAITING, []).append(told)
    before_commit(session, _seal)


def event(
    action: str,
    *,
    object_type: str,
    object_uid: str,
    actor: str = "",
    origin: str = "",
    outcome: Outcome = "success",
    detail: str = "",
) -> Event:
    """Make an event of this moment, its words as every database can keep them."""
    words = (_kept(one) for one in (actor, origin, object_type, object_uid, detail))
    return Event(time.time(), action, outcome, *words)


def _kept(words: str) -> str:
    """PostgreSQL keeps no NUL, nobody half of a surrogate pair, and no peer fills the trail with long words."""
    return words[:_LONGEST].encode("utf-8", "replace").decode().replace("\0", "�")


def _seal(session: Session) -> None:
    connection = session.connection()
    shared = connection.dialect.name != "sqlite"
    append(executor(connection), session.info.pop(_WAITING), session.info, shared=shared)
