"""Subscribing, unsubscribing and suspending (PS3.4 Table CC.2.3-2, PS3.18 11.10 to 11.12).

An application has at most one subscription to the worklist, one to it through a filter (a later filter takes the place
of the earlier), and one to each item. What it says of an item goes before what it says of the worklist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from imaging_ai.db.engine import Database, after_commit
from imaging_ai.errors import NotFound
from imaging_ai.queue.events import GLOBAL, EventType, state_report
from imaging_ai.queue.subscriptions import FILTERED, dispatch, keys_of, notifications, notify, subscriptions
from imaging_ai.queue.workitem_match import Key
from imaging_ai.queue.workitem_search import matching
from imaging_ai.queue.workitem_views import Views, WorkItem, find

__all__ = ["Watch"]

#: To how many of the newest items a subscription reaches back.
_REACH = 10_000


class Watch:
    """The subscriptions of a database. `ae_title` is the station of this server."""

    def __init__(
        self,
        database: Database,
        ae_title: str,
        *,
        clock: Callable[[], float] = time.time,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._database = database
        self._ae_title = ae_title
        self._clock = clock
        self._on_change = on_change

    def subscribe(self, uid: str, ae_title: str, *, lock: bool, pairs: Sequence[tuple[str, str]] = ()) -> None:
        """Subscribe an application to an item, to the worklist (`GLOBAL`), or to what passes `pairs` (`FILTERED`).

        Raises
        ------
        NotFound
            If there is no such item.
        """
        state = "lock" if lock else "plain"
        with self._database.write() as session:
            connection = session.connection()
            dispatch(connection, self._ae_title)
            if uid == GLOBAL:
                self._globally(connection, ae_title, state)
            elif uid == FILTERED:
                self._by_filter(connection, ae_title, state, pairs)
            else:
                item = find(connection, uid)
                self._put(connection, ae_title, uid, state)
                self._tell_state(connection, ae_title, [item])
            if self._on_change is not None:
                after_commit(session, self._on_change)

    def unsubscribe(self, uid: str, ae_title: str) -> None:
        """End a subscription; that to the worklist takes all the others of the application with it.

        Raises
        ------
        NotFound
            If there is none.
        """
        with self._database.write() as session:
            connection = session.connection()
            dispatch(connection, self._ae_title)
            held = self._rows(connection, ae_title)
            if uid == GLOBAL:
                self._end_all(connection, ae_title, held)
            elif uid == FILTERED:
                self._end_filter(connection, ae_title, held)
            else:
                self._end_one(connection, uid, ae_title, held)

    def suspend(self, uid: str, ae_title: str) -> None:
        """Stop subscribing an application to new items; those that it is subscribed to it goes on to hear of.

        Raises
        ------
        NotFound
            If it has no such subscription.
        """
        with self._database.write() as session:
            connection = session.connection()
            dispatch(connection, self._ae_title)
            known = any(row["uid"] == uid for row in self._rows(connection, ae_title))
            if not known or uid not in (GLOBAL, FILTERED):
                raise NotFound(f"{ae_title} has no such subscription")
            mine = (subscriptions.c.ae_title == ae_title) & (subscriptions.c.uid == uid)
            fresh = update(subscriptions).where(mine, subscriptions.c.suspended_at.is_(None))
            connection.execute(fresh.values(suspended_at=self._clock()))

    # -- subscribing

    def _globally(self, connection: Connection, ae_title: str, state: str) -> None:
        held = {row["uid"]: row for row in self._rows(connection, ae_title)}
        before = held.get(GLOBAL)
        heard_all = before is not None and before["suspended_at"] is None
        connection.execute(
            delete(subscriptions).where(subscriptions.c.ae_title == ae_title, subscriptions.c.state == "none")
        )
        self._put(connection, ae_title, GLOBAL, state)
        if state == "lock" and not heard_all:
            known = {uid for uid, row in held.items() if row["state"] != "none"}
            items = [item for item in self._newest(connection, []) if item.uid not in known]
            self._tell_state(connection, ae_title, items)

    def _by_filter(self, connection: Connection, ae_title: str, state: str, pairs: Sequence[tuple[str, str]]) -> None:
        filter_text = msgspec.json.encode([list(pair) for pair in pairs]).decode()
        held = {row["uid"]: row for row in self._rows(connection, ae_title)}
        self._put(connection, ae_title, FILTERED, state, filter=filter_text)
        fresh = [item for item in self._newest(connection, keys_of(filter_text)) if item.uid not in held]
        for item in fresh:
            self._put(connection, ae_title, item.uid, state, by_filter=True)
        if state == "lock":
            self._tell_state(connection, ae_title, fresh)

    def _newest(self, connection: Connection, keys: Sequence[Key]) -> list[WorkItem]:
        views = Views(connection, self._ae_title)
        return [item for item, _ in matching(connection, views, keys, examined=_REACH, strict=False)]

    def _put(self, connection: Connection, ae_title: str, uid: str, state: str, **values: Any) -> None:
        mine = (subscriptions.c.ae_title == ae_title) & (subscriptions.c.uid == uid)
        values = {"state": state, "filter": "", "by_filter": False, "suspended_at": None} | values
        if not connection.execute(update(subscriptions).where(mine).values(**values)).rowcount:
            row = {"ae_title": ae_title, "uid": uid, "created_at": self._clock(), **values}
            connection.execute(insert(subscriptions).values(**row))

    def _tell_state(self, connection: Connection, ae_title: str, items: Sequence[WorkItem]) -> None:
        """Tell a new subscriber the state of items as it is."""
        now = self._clock()
        for item in reversed(items):
            told = msgspec.json.encode(state_report(item.state, item.readiness)).decode()
            notify(connection, [ae_title], now, item.uid, EventType.STATE_REPORT, told)

    # -- unsubscribing

    def _end_all(self, connection: Connection, ae_title: str, held: Sequence[RowMapping]) -> None:
        if not any(row["uid"] == GLOBAL for row in held):
            raise NotFound(f"{ae_title} has no subscription to the worklist")
        connection.execute(delete(subscriptions).where(subscriptions.c.ae_title == ae_title))
        connection.execute(delete(notifications).where(notifications.c.ae_title == ae_title))

    def _end_filter(self, connection: Connection, ae_title: str, held: Sequence[RowMapping]) -> None:
        if not any(row["uid"] == FILTERED for row in held):
            raise NotFound(f"{ae_title} has no subscription to the worklist through a filter")
        ended = (subscriptions.c.uid == FILTERED) | subscriptions.c.by_filter.is_(True)
        connection.execute(delete(subscriptions).where(subscriptions.c.ae_title == ae_title, ended))
        still = connection.scalar(select(subscriptions.c.id).where(subscriptions.c.ae_title == ae_title).limit(1))
        if still is None:
            connection.execute(delete(notifications).where(notifications.c.ae_title == ae_title))

    def _end_one(self, connection: Connection, uid: str, ae_title: str, held: Sequence[RowMapping]) -> None:
        everywhere = any(row["uid"] == GLOBAL for row in held)
        named = next((row for row in held if row["uid"] == uid), None)
        if (named is None or named["state"] == "none") and not everywhere:
            raise NotFound(f"{ae_title} has no subscription to this work item")
        if everywhere:
            find(connection, uid)
            self._put(connection, ae_title, uid, "none")
        else:
            mine = (subscriptions.c.ae_title == ae_title) & (subscriptions.c.uid == uid)
            connection.execute(delete(subscriptions).where(mine))
        waiting = (notifications.c.ae_title == ae_title) & (notifications.c.uid == uid)
        connection.execute(delete(notifications).where(waiting))

    @staticmethod
    def _rows(connection: Connection, ae_title: str) -> Sequence[RowMapping]:
        chosen = select(subscriptions).where(subscriptions.c.ae_title == ae_title)
        return connection.execute(chosen).mappings().all()
