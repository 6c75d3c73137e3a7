"""The table of live workers: who they are, which queues they serve, when they were last seen."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from imaging_ai.db.engine import Database
from imaging_ai.queue.presence import Presence, is_dead
from imaging_ai.queue.rows import workers

__all__ = ["Census", "Workers", "forget"]

#: A worker that was not seen for so long is forgotten; its leases ended long before.
_FORGET_AFTER = 3600.0


class Census(NamedTuple):
    """Owners known to be dead, and those whose lock shows that they live; others may be either."""

    dead: list[str]
    alive: list[str]


class Workers:
    """The worker rows of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def seen(self, presence: Presence, queues: Sequence[str], now: float) -> None:
        """Write that this worker lives, anew if its row was taken away."""
        with self._database.write() as session:
            connection = session.connection()
            found = connection.execute(
                update(workers).where(workers.c.owner == presence.owner).values(seen_at=now)
            ).rowcount
            if not found:
                connection.execute(insert(workers).values(_row(presence, queues, now)))

    def gone(self, presence: Presence) -> None:
        """Write that this worker has left."""
        with self._database.write() as session:
            forget(session.connection(), [presence.owner])

    def census(self, now: float) -> Census:
        """Find out which workers are dead, and which live, as far as that can be seen from here."""
        with self._database.read() as session:
            rows = session.connection().execute(select(workers)).mappings().all()
        dead, alive = [], []
        for row in rows:
            verdict = is_dead(row["host"], row["lock_path"])
            if verdict or (verdict is None and row["seen_at"] < now - _FORGET_AFTER):
                dead.append(row["owner"])
            elif verdict is False:
                alive.append(row["owner"])
        return Census(dead, alive)


def forget(connection: Connection, owners: Collection[str]) -> None:
    """Remove the rows of workers."""
    connection.execute(delete(workers).where(workers.c.owner.in_(owners)))


def _row(presence: Presence, queues: Sequence[str], now: float) -> dict[str, object]:
    return {
        "owner": presence.owner,
        "host": presence.host,
        "pid": os.getpid(),
        "queues": ",".join(queues),
        "lock_path": str(presence.lock_path),
        "started_at": now,
        "seen_at": now,
    }
