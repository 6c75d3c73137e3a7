"""Searching the trail: by time, action, actor, object and outcome, in the order of the events or against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from imaging_ai.audit.event import COLUMNS, Entry
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AuditEventRow

__all__ = ["Search", "find", "found_by"]

_TABLE = AuditEventRow.metadata.tables["audit_event"]
_COLUMNS = [_TABLE.c[name] for name in (*COLUMNS, "hash")]


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for; None and "" are anything. Times are seconds since the epoch: from `since`, before `until`."""

    since: float | None = None
    until: float | None = None
    action: str = ""
    actor: str = ""
    object_uid: str = ""
    outcome: str = ""


def find(
    connection: Connection, search: Search, *, after: int = 0, before: int | None = None, limit: int
) -> Sequence[Entry]:
    """Return up to `limit` entries between two numbers: with `before` the newest first, else the oldest first."""
    query = select(*_COLUMNS).where(_TABLE.c.id > after).limit(limit)
    query = query.order_by(_TABLE.c.id) if before is None else query.order_by(_TABLE.c.id.desc())
    if before is not None:
        query = query.where(_TABLE.c.id < before)
    if search.since is not None:
        query = query.where(_TABLE.c.at >= search.since)
    if search.until is not None:
        query = query.where(_TABLE.c.at < search.until)
    for name in ("action", "actor", "object_uid", "outcome"):
        if value := getattr(search, name):
            query = query.where(_TABLE.c[name] == value)
    return [Entry.of(tuple(row)) for row in connection.execute(query)]


def found_by(database: Database, search: Search, *, size: int = 1_000) -> Iterator[Sequence[Entry]]:
    """Give everything that is found, the oldest first, in pages that are transactions of their own."""
    after = 0
    while True:
        with database.read() as session:
            page = find(session.connection(), search, after=after, limit=size)
        if not page:
            return
        yield page
        after = page[-1].sequence
