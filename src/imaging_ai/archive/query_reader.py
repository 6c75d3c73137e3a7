"""Reading for searches: plain statements on the driver's own cursor, in one transaction that only reads.

A search is a handful of statements that take microseconds; what SQLAlchemy does around a statement would take longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import exc

from imaging_ai.archive.query_sql import POSTGRESQL, SQLITE, Dialect
from imaging_ai.db.engine import Database
from imaging_ai.errors import DatabaseUnavailable

__all__ = ["Reader", "Reading"]

#: Pages are read where the kernel has them: a page of results is on a hundred pages of the file.
_MAPPED = f"PRAGMA mmap_size = {1 << 32}"


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
    """Opens transactions on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._errors: Any = database.engine.dialect.loaded_dbapi
        self.dialect = SQLITE if database.is_sqlite else POSTGRESQL

    @contextmanager
    def open(self) -> Iterator[Reading]:
        """Open a transaction.

        Raises
        ------
        DatabaseUnavailable
            If the database does not answer.
        """
        try:
            connection = self._database.engine.raw_connection()
            try:
                cursor = connection.cursor()
                if self._database.is_sqlite:
                    cursor.execute(_MAPPED)
                    cursor.execute("BEGIN DEFERRED")
                yield Reading(cursor, self.dialect)
                cursor.close()
            except (self._errors.OperationalError, self._errors.InterfaceError):
                connection.invalidate()
                raise
            finally:
                connection.close()  # which rolls back
        except (self._errors.OperationalError, self._errors.InterfaceError, exc.OperationalError) as error:
            raise DatabaseUnavailable(f"the database does not answer: {type(error).__name__}") from error
        except exc.TimeoutError as error:
            raise DatabaseUnavailable("the database is too slow: every connection is in use") from error
