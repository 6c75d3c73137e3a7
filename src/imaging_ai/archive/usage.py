"""How much each sender has brought today: what quotas are held against.

The index knows it: a series names who sent its last instance. It is asked once a minute and by way of the newest ids,
so that replicas and restarts count together; in between each process counts what it keeps itself. A day is one of UTC.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection

from sqlalchemy import Connection, func, select
from sqlmodel import SQLModel

import imaging_ai.db.tables  # noqa: F401 - declares the tables
from imaging_ai.db.engine import Database

__all__ = ["DailyUse"]

_DAY = 86_400
_INSTANCE = SQLModel.metadata.tables["instance"]
_SERIES = SQLModel.metadata.tables["series"]


class DailyUse:
    """Bytes of instances kept since midnight (UTC), by calling AE title or principal. Threads may share it."""

    def __init__(self, database: Database, *, every: float = 60.0, clock: Callable[[], float] = time.time) -> None:
        self._database, self._every, self._clock = database, every, clock
        self._lock = threading.Lock()
        self._day = -1
        self._asked_at = 0.0
        self._last_id = 0
        self._known: Counter[str] = Counter()
        self._own: Counter[str] = Counter()

    def of(self, source: str) -> int:
        """Return the bytes that `source` has brought today; `DatabaseUnavailable` when the index cannot be asked."""
        with self._lock:
            self._refresh()
            return self._known[source] + self._own[source]

    def of_all_but(self, sources: Collection[str]) -> int:
        """Return the bytes that everybody else has brought today, together; raises as `of` does."""
        with self._lock:
            self._refresh()
            counted = (self._known, self._own)
            return sum(size for count in counted for source, size in count.items() if source not in sources)

    def add(self, source: str, size: int) -> None:
        """Note that an instance was kept."""
        with self._lock:
            self._own[source] += size

    def seconds_left(self) -> float:
        """Return the seconds until the next day begins."""
        return _DAY - self._clock() % _DAY

    def _refresh(self) -> None:
        now = self._clock()
        if now // _DAY != self._day or now - self._asked_at >= self._every:
            self._ask(now)

    def _ask(self, now: float) -> None:
        with self._database.read() as session:
            connection = session.connection()
            if now // _DAY != self._day:
                self._last_id = _last_before(connection, now // _DAY * _DAY)
                self._known.clear()
                self._day = int(now // _DAY)
            rows = connection.execute(
                select(_SERIES.c.source, func.sum(_INSTANCE.c.blob_length), func.max(_INSTANCE.c.id))
                .select_from(_INSTANCE.join(_SERIES, _SERIES.c.id == _INSTANCE.c.series_id))
                .where(_INSTANCE.c.id > self._last_id, _SERIES.c.origin == "received")
                .group_by(_SERIES.c.source)
            ).all()
        self._own.clear()
        for source, size, last in rows:
            self._known[source] += int(size)
            self._last_id = max(self._last_id, int(last))
        self._asked_at = now


def _last_before(connection: Connection, moment: float) -> int:
    """Return the id of the last instance that came before a moment: ids grow with time, so halving finds it."""
    low, high = 0, int(connection.execute(select(func.max(_INSTANCE.c.id))).scalar() or 0)
    while low < high:
        middle = (low + high + 1) // 2
        first = select(_INSTANCE.c.received_at).where(_INSTANCE.c.id >= middle).order_by(_INSTANCE.c.id).limit(1)
        if float(connection.execute(first).scalar() or 0.0) < moment:
            low = middle
        else:
            high = middle - 1
    return low
