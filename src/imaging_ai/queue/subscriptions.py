"""Who hears of which work items (PS3.4 CC.2.3), and handing events to them (CC.2.4.3).

`dispatch` takes the events that were recorded and makes a notification of each for each subscriber. One dispatch runs
at a time, so the numbers of notifications grow as they become visible, and a reader can go by them. Changing a
subscription dispatches first: what happened before it is told by the old subscriptions, what comes after by the new.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
from sqlalchemy import Connection, RowMapping, Table, delete, insert, select, text
from sqlmodel import SQLModel

from imaging_ai.errors import NotFound
from imaging_ai.queue.events import GLOBAL, EventType, outbox
from imaging_ai.queue.rows import jobs
from imaging_ai.queue.workitem_elements import Elements
from imaging_ai.queue.workitem_match import Key, parse_key
from imaging_ai.queue.workitem_views import Views, find, work_items

__all__ = [
    "FILTERED",
    "dispatch",
    "has_subscribers",
    "keys_of",
    "notifications",
    "notify",
    "serialize",
    "subscriptions",
]

#: UPS Filtered Global Subscription SOP Instance (PS3.4 CC.3.2).
FILTERED = "1.2.840.10008.5.1.4.34.5.1"

subscriptions: Table = SQLModel.metadata.tables["subscription"]
notifications: Table = SQLModel.metadata.tables["notification"]

_LOCK = 7_210_312  # any number that nobody else locks
_BATCH = 500


def serialize(connection: Connection) -> None:
    """Wait until no other transaction dispatches or changes subscriptions. (SQLite has one writer anyway.)"""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def notify(connection: Connection, ae_titles: Iterable[str], at: float, uid: str, kind: int, payload: str) -> None:
    """Make a notification for each of some subscribers, in the caller's transaction."""
    rows = [
        {"ae_title": ae_title, "at": at, "uid": uid, "type": kind, "payload": payload} for ae_title in sorted(ae_titles)
    ]
    if rows:
        connection.execute(insert(notifications), rows)


def dispatch(connection: Connection, ae_title: str) -> int:
    """Hand the recorded events to their subscribers, in the caller's transaction; return how many there were.

    `ae_title` is the station of this server, which filters may ask for.
    """
    serialize(connection)
    done = 0
    while rows := connection.execute(select(outbox).order_by(outbox.c.id).limit(_BATCH)).mappings().all():
        audience = _Audience.read(connection, {row["uid"] for row in rows})
        for row in rows:
            if row["created"]:
                audience.welcome(connection, row, ae_title)
            notify(connection, audience.of(connection, row), row["at"], row["uid"], row["type"], row["payload"])
        connection.execute(delete(outbox).where(outbox.c.id.in_([row["id"] for row in rows])))
        done += len(rows)
    return done


def has_subscribers(connection: Connection, uid: str, created_at: float) -> bool:
    """Say whether anybody would hear of an event of this item."""
    audience = _Audience.read(connection, {uid})
    return bool(audience.hearing(uid, created_at))


def keys_of(filter_text: str) -> list[Key]:
    """Return the matching keys of a filter, as its column has it."""
    pairs: list[list[str]] = msgspec.json.decode(filter_text or "[]")
    return [key for name, value in pairs if (key := parse_key(name, value)) is not None]


@dataclass(slots=True)
class _Audience:
    """The subscriptions that matter for some items."""

    everywhere: Sequence[RowMapping]
    of_item: dict[str, dict[str, str]] = field(default_factory=dict)  # uid → AE title → state

    @classmethod
    def read(cls, connection: Connection, uids: set[str]) -> _Audience:
        chosen = select(subscriptions).where(subscriptions.c.uid.in_({*uids, GLOBAL, FILTERED}))
        rows = connection.execute(chosen).mappings().all()
        audience = cls([row for row in rows if row["uid"] in (GLOBAL, FILTERED)])
        for row in rows:
            if row["uid"] not in (GLOBAL, FILTERED):
                audience.of_item.setdefault(row["uid"], {})[row["ae_title"]] = row["state"]
        return audience

    def hearing(self, uid: str, created_at: float) -> set[str]:
        """Return who is subscribed to an item: by name, or through the whole worklist."""
        named = self.of_item.get(uid, {})
        hearing = {ae_title for ae_title, state in named.items() if state != "none"}
        for row in self.everywhere:
            if row["uid"] == GLOBAL and row["ae_title"] not in named:
                suspended = row["suspended_at"]
                if suspended is None or created_at <= suspended:
                    hearing.add(row["ae_title"])
        return hearing

    def of(self, connection: Connection, event: RowMapping) -> set[str]:
        """Return who is to hear an event."""
        if event["type"] == EventType.SCP_STATUS_CHANGE:
            told = select(subscriptions.c.ae_title).distinct().where(subscriptions.c.state != "none")
            return set(connection.execute(told).scalars())
        suspended = any(row["suspended_at"] is not None for row in self.everywhere)
        created_at = event["at"] if event["created"] or not suspended else _created_at(connection, event["uid"])
        return self.hearing(event["uid"], created_at)

    def welcome(self, connection: Connection, event: RowMapping, ae_title: str) -> None:
        """Subscribe those to a new item whose filter it passes."""
        filtered = [row for row in self.everywhere if row["uid"] == FILTERED and row["suspended_at"] is None]
        if not filtered:
            return
        try:
            item = find(connection, event["uid"])
        except NotFound:
            return
        told: Elements = msgspec.json.decode(event["payload"])
        dataset = Views(connection, ae_title).dataset(item) | told  # as it was when it was made
        named = self.of_item.setdefault(event["uid"], {})
        for row in filtered:
            if row["ae_title"] not in named and all(key.holds(dataset) for key in keys_of(row["filter"])):
                named[row["ae_title"]] = row["state"]
                connection.execute(
                    insert(subscriptions).values(
                        ae_title=row["ae_title"],
                        uid=event["uid"],
                        state=row["state"],
                        filter="",
                        by_filter=True,
                        created_at=event["at"],
                    )
                )


def _created_at(connection: Connection, uid: str) -> float:
    made = connection.scalar(select(work_items.c.created_at).where(work_items.c.uid == uid))
    if made is None:
        made = connection.scalar(select(jobs.c.created_at).where(jobs.c.job_uid == uid))
    return float("inf") if made is None else float(made)
