"""What an index on SQLite said, remembered for as long as nothing is committed to it.

SQLite tells whether anything was, by whatever process, in a fraction of the time of a selection (PRAGMA data_version);
so who is answered from here sees every deletion and replacement as one who selects does.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from imaging_ai.db.engine import Database

__all__ = ["Unchanged"]

_MOST_REMEMBERED = 20_000


Row = tuple[Any, ...]
T = TypeVar("T")


class Unchanged(Generic[T]):
    """What is made of the row that a statement selects by a key, over a connection of its own, which never writes."""

    def __init__(self, database: Database, statement: str, make: Callable[[Row], T]) -> None:
        self._database, self._statement, self._make = database, statement, make
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._found: dict[str, T] = {}
        self._version = -1
        event.listen(database.engine, "engine_disposed", lambda _engine: self.close())

    def get(self, key: str) -> T | None:
        """Return what there is of a key; None if there is nothing, or the index cannot be asked now."""
        with self._lock:
            try:
                connection = self._connection or self._connect()
                (version,) = connection.execute("PRAGMA data_version").fetchone()
                if version != self._version or len(self._found) > _MOST_REMEMBERED:
                    self._found.clear()
                    self._version = version
                if (found := self._found.get(key)) is None:
                    row = connection.execute(self._statement, (key,)).fetchone()
                    if row is not None:
                        found = self._found[key] = self._make(row)
                return found
            except (sqlite3.Error, SQLAlchemyError):
                self._close()
                return None

    def close(self) -> None:
        """Let the connection go; the next `get` makes another."""
        with self._lock:
            self._close()

    def _connect(self) -> sqlite3.Connection:
        pooled = self._database.engine.raw_connection()
        connection: sqlite3.Connection = cast("Any", pooled.driver_connection)
        pooled.detach()  # the pool would take it back
        self._connection = connection
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._version = None, -1
        self._found.clear()
