"""Reading for searches: plain statements on the driver's own cursor, in one transaction that only reads.

A search is a handful of statements that take microseconds; what SQLAlchemy does around a statement would take longer,
and so would its pool: connections to SQLite are kept here, detached from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import event, exc

from imaging_ai.archive.query_sql import POSTGRESQL, SQLITE, Dialect
from imaging_ai.db.engine import Database
from imaging_ai.errors import DatabaseUnavailable

__all__ = ["Reader", "Reading"]

#: Pages are read where the kernel has them: a page of results is on a hundred pages of the file.
_MAPPED = f"PRAGMA mmap_size = {1 << 32}"
#: So many connections wait for the next search: each keeps what it has read and prepared.
_KEPT = 8
#: And for so long: what a connection has mapped of a large index counts as this process's, for each that has.
_KEPT_SECONDS = 60.0
_READER = "imaging_ai_reader"


class Reading:
    """One transaction."""

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self._cursor = cursor
        self.dialect = dialect

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return what a statement selects."""
        self._cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def by_ids(self, statement: str, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return what a statement selects whose ``{}`` stands for the marks of a list of ids; nothing of none."""
        return self.rows(statement.format(self.dialect.marks(len(ids))), tuple(ids)) if ids else []


class Reader:
    """Opens transactions on one database; `of` gives the one that all share, and the connections that wait with it."""

    @classmethod
    def of(cls, database: Database) -> Reader:
        """Return the reader of a database."""
        if not isinstance(reader := database.info.get(_READER), cls):
            reader = database.info[_READER] = cls(database)
        return reader

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._errors: Any = database.engine.dialect.loaded_dbapi
        self._idle: list[tuple[Any, float]] = []  # with the time when each was made
        self.dialect = SQLITE if database.is_sqlite else POSTGRESQL
        event.listen(database.engine, "engine_disposed", lambda _engine: self._close())

    @contextmanager
    def open(self) -> Iterator[Reading]:
        """Open a transaction.

        Raises
        ------
        DatabaseUnavailable
            If the database does not answer.
        """
        try:
            with self._from_file() if self._database.is_sqlite else self._from_pool() as cursor:
                yield Reading(cursor, self.dialect)
        except (self._errors.OperationalError, self._errors.InterfaceError, exc.OperationalError) as error:
            raise DatabaseUnavailable(f"the database does not answer: {type(error).__name__}") from error
        except exc.TimeoutError as error:
            raise DatabaseUnavailable("the database is too slow: every connection is in use") from error

    @contextmanager
    def _from_file(self) -> Iterator[Any]:
        try:
            connection, made = self._idle.pop()
        except IndexError:
            connection, made = self._connect(), self._clock()
        try:
            cursor = connection.cursor()
            cursor.execute("BEGIN DEFERRED")
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        now = self._clock()
        if len(self._idle) < _KEPT and now < made + _KEPT_SECONDS:
            self._idle.append((connection, made))
        else:
            connection.close()
            self._close_older_than(now - _KEPT_SECONDS)

    def _connect(self) -> Any:
        pooled = self._database.engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()
        connection.execute(_MAPPED)
        return connection

    @contextmanager
    def _from_pool(self) -> Iterator[Any]:
        connection = self._database.engine.raw_connection()
        try:
            cursor = connection.cursor()
            yield cursor
            cursor.close()
        except (self._errors.OperationalError, self._errors.InterfaceError):
            connection.invalidate()
            raise
        finally:
            connection.close()  # which rolls back

    def _close_older_than(self, then: float) -> None:
        """Close those that nobody has asked for, for long; other threads may take one meanwhile."""
        for one in tuple(self._idle):
            with suppress(ValueError):
                if one[1] < then:
                    self._idle.remove(one)
                    one[0].close()

    def _close(self) -> None:
        while self._idle:
            self._idle.pop()[0].close()
