"""What waits for a subscriber, read in order and kept until it is known to have arrived.

Notifications are rows, so any web process can send them, and a connection that breaks loses none. The newest connection
of an application has them: it puts its name in the `subscriber` row, and an older one sees that and ends. Nothing is
removed before it is confirmed (`acknowledge`), or has waited too long.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection, RowMapping, Table, delete, false, insert, select, update
from sqlmodel import SQLModel

from imaging_ai.db.engine import Database
from imaging_ai.queue.events import GLOBAL, EventType, message, outbox, record, status_change
from imaging_ai.queue.subscriptions import FILTERED, dispatch, notifications, notify, serialize, subscriptions
from imaging_ai.queue.workitem_views import work_items

__all__ = ["Feed", "Notification"]

_SUBSCRIBER: Table = SQLModel.metadata.tables["subscriber"]

#: How long, and how many, notifications wait for a subscriber that is away.
_KEEP_SECONDS, _KEEP_MOST = 7 * 86_400.0, 100_000
#: How long work items in a final state are kept, and how much longer a deletion lock keeps them.
_RETENTION, _LONGEST_LOCK = 30 * 86_400.0, 90 * 86_400.0
_BATCH = 100
#: The row that is no application's: its `connection` names the start of the server that subscribers were told of last.
_SERVER = ""


@dataclass(frozen=True, slots=True)
class Notification:
    """An event for one subscriber: its number, and the message that tells it."""

    number: int
    data: bytes


class Feed:
    """The notifications of a database. `ae_title` is the station of this server."""

    def __init__(
        self, database: Database, ae_title: str, *, clock: Callable[[], float] = time.time, most: int = _KEEP_MOST
    ) -> None:
        self._database = database
        self._most = most
        self._ae_title = ae_title
        self._clock = clock

    def dispatch(self) -> int:
        """Hand the recorded events on, if there are any; return how many there were."""
        with self._database.read() as session:
            if session.connection().scalar(select(outbox.c.id).limit(1)) is None:
                return 0
        with self._database.write() as session:
            return dispatch(session.connection(), self._ae_title)

    # -- one connection

    def open(self, ae_title: str, after: int | None = None) -> str:
        """Make a connection the one of its application, and return its name; `after` confirms up to that number.

        An application for which events had to be given up is told so first, with an SCP Status Change.
        """
        name = secrets.token_hex(8)
        mine = _SUBSCRIBER.c.ae_title == ae_title
        with self._database.write() as session:
            connection = session.connection()
            serialize(connection)
            row = connection.execute(select(_SUBSCRIBER).where(mine)).mappings().first()
            _put(connection, ae_title, connection=name, opened_at=self._clock(), dropped=False)
            if row is not None and row["dropped"]:
                told = msgspec.json.encode(status_change()).decode()
                notify(connection, [ae_title], self._clock(), GLOBAL, EventType.SCP_STATUS_CHANGE, told)
        if after is not None:
            self.acknowledge(ae_title, name, after)
        return name

    def after(self, ae_title: str, name: str, number: int) -> list[Notification] | None:
        """Return what follows a number, some at a time; None when another connection has taken over."""
        with self._database.read() as session:
            connection = session.connection()
            holder = connection.scalar(select(_SUBSCRIBER.c.connection).where(_SUBSCRIBER.c.ae_title == ae_title))
            if holder != name:
                return None
            chosen = select(notifications).where(notifications.c.ae_title == ae_title, notifications.c.id > number)
            rows = connection.execute(chosen.order_by(notifications.c.id).limit(_BATCH)).mappings().all()
        return [_notification(row) for row in rows]

    def acknowledge(self, ae_title: str, name: str, number: int) -> None:
        """Remove what a subscriber is known to have, unless another connection has taken over."""
        mine = select(_SUBSCRIBER.c.ae_title).where(
            _SUBSCRIBER.c.ae_title == ae_title, _SUBSCRIBER.c.connection == name
        )
        had = delete(notifications).where(notifications.c.ae_title.in_(mine), notifications.c.id <= number)
        with self._database.write() as session:
            session.connection().execute(had)

    # -- upkeep

    def started(self, server: str) -> None:
        """Tell every subscriber that a server was started (PS3.4 CC.2.4.3), once for all processes of that start."""
        now = self._clock()
        itself = _SUBSCRIBER.c.ae_title == _SERVER
        with self._database.write() as session:
            connection = session.connection()
            serialize(connection)
            if connection.scalar(select(_SUBSCRIBER.c.connection).where(itself)) == server:
                return
            _put(connection, _SERVER, connection=server, opened_at=now)
            if connection.scalar(select(subscriptions.c.id).limit(1)) is not None:
                record(connection, GLOBAL, EventType.SCP_STATUS_CHANGE, status_change(), now=now)

    def prune(self) -> None:
        """Give up what has waited too long, and remove work items whose retention is over."""
        now = self._clock()
        with self._database.write() as session:
            connection = session.connection()
            serialize(connection)
            waiting = connection.execute(select(notifications.c.ae_title).distinct()).scalars().all()
            for ae_title in waiting:
                mine = notifications.c.ae_title == ae_title
                newest = select(notifications.c.id).where(mine).order_by(notifications.c.id.desc())
                edge = connection.scalar(newest.offset(self._most).limit(1)) or 0
                old = (notifications.c.at < now - _KEEP_SECONDS) | (notifications.c.id <= edge)
                if connection.execute(delete(notifications).where(mine, old)).rowcount:
                    _put(connection, ae_title, dropped=True)
            _remove_items(connection, now)


def _put(to: Connection, ae_title: str, **values: object) -> None:
    """Write what a subscriber's row shall have, and the row where there is none."""
    mine = update(_SUBSCRIBER).where(_SUBSCRIBER.c.ae_title == ae_title)
    if not to.execute(mine.values(**values)).rowcount:
        usual = {"ae_title": ae_title, "connection": "", "opened_at": 0.0, "dropped": False}
        to.execute(insert(_SUBSCRIBER).values(**usual | values))


def _remove_items(connection: Connection, now: float) -> None:
    """Leave of work items that ended long ago, and that no deletion lock keeps, nothing but their UID."""
    locks = select(subscriptions.c.uid).where(subscriptions.c.state == "lock")
    all_locked = connection.scalar(locks.where(subscriptions.c.uid == GLOBAL).limit(1)) is not None
    over = work_items.c.finished_at < now - _RETENTION
    unlocked = false() if all_locked else work_items.c.uid.not_in(locks)
    removable = over & (unlocked | (work_items.c.finished_at < now - _RETENTION - _LONGEST_LOCK))
    removed = update(work_items).where(work_items.c.removed_at.is_(None), work_items.c.job_id.is_(None), removable)
    emptied = removed.values(removed_at=now, dataset="{}", transaction_uid="").returning(work_items.c.uid)
    uids = connection.execute(emptied).scalars().all()
    if uids:
        connection.execute(delete(subscriptions).where(subscriptions.c.uid.in_(uids)))
    forgotten = subscriptions.c.created_at < now - _RETENTION - _LONGEST_LOCK
    connection.execute(delete(subscriptions).where(forgotten, subscriptions.c.uid.not_in([GLOBAL, FILTERED])))


def _notification(row: RowMapping) -> Notification:
    return Notification(row["id"], message(row["id"], row["uid"], row["type"], row["payload"]))
