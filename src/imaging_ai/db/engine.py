"""The engine and the scope of a transaction, the same on SQLite and PostgreSQL.

A transaction says beforehand whether it writes. On SQLite a writer starts with BEGIN IMMEDIATE, so two
writers queue for the lock (`busy_timeout`) instead of failing when one upgrades; readers see a snapshot
(WAL) and never wait. Errors of the connection come out as `DatabaseUnavailable`, and a value that the database cannot
keep or compare (NUL in a text on PostgreSQL) as `InputError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError, TimeoutError
from sqlmodel import Session

from imaging_ai.db.why import is_damage, why
from imaging_ai.errors import DatabaseUnavailable, InputError

__all__ = ["Database", "after_commit", "before_commit"]

_WRITES = "imaging_ai_writes"
_BEFORE_COMMIT = "imaging_ai_before_commit"
_AFTER_COMMIT = "imaging_ai_after_commit"

#: libpq: a server that vanished without a word is noticed within half a minute, not when TCP gives up.
_SIGNS_OF_LIFE = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}

#: SQLite settings of every connection. NORMAL: a commit survives kill -9 at once and a power cut from the
#: next checkpoint on; what a power cut takes of the index is rebuilt from the synced objects.
_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON", "temp_store=MEMORY")

#: How many statements a connection to SQLite keeps prepared, at about 10 kB each.
_PREPARED = 48


class Database:
    """One database, its connection pool, and transactions on it.

    `url` is a SQLAlchemy URL: ``sqlite:///…`` or ``postgresql+psycopg://…`` (``postgresql://`` is taken as that).
    """

    def __init__(self, url: str, *, pool_size: int = 20, max_overflow: int = 20, pool_timeout: float = 10.0) -> None:
        self.url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        self.is_sqlite = self.url.startswith("sqlite")
        self.info: dict[str, object] = {}  # what every session of this database has as its `info`
        options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": max_overflow, "pool_timeout": pool_timeout}
        options["pool_use_lifo"] = True  # what each connection has read stays in its own memory
        options["hide_parameters"] = True  # an error quotes its statement, and would quote the patient with it
        if self.is_sqlite:
            options["connect_args"] = {"check_same_thread": False, "timeout": 10.0, "cached_statements": _PREPARED}
        else:
            options["pool_pre_ping"] = True
            options["connect_args"] = _SIGNS_OF_LIFE
        self.engine: Engine = create_engine(self.url, **options)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that only reads."""
        with self._session(writes=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session whose work is committed when the block ends, and rolled back when it raises."""
        with self._session(writes=True) as session:
            yield session
            session.flush()
            for last in tuple(session.info.get(_BEFORE_COMMIT, ())):
                last(session)
            session.commit()
            calls = tuple(session.info.get(_AFTER_COMMIT, ()))
        for call in calls:
            call()

    @contextmanager
    def _session(self, *, writes: bool) -> Iterator[Session]:
        try:
            with self.engine.connect() as connection:
                bound = connection.execution_options(**{_WRITES: writes})
                with Session(bind=bound, expire_on_commit=False, info=self.info) as session:
                    yield session
        except (OperationalError, InterfaceError) as error:
            raise DatabaseUnavailable(f"the database does not answer: {why(error.orig)}") from error
        except TimeoutError as error:
            raise DatabaseUnavailable("the database is too slow: every connection is in use") from error
        except DataError as error:
            raise InputError("a value is none that the database can keep, or look for") from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise DatabaseUnavailable("the connection to the database was lost") from error
            if is_damage(error.orig):
                raise DatabaseUnavailable(f"the database does not answer: {why(error.orig)}") from error
            raise

    def ping(self) -> None:
        """Raise `DatabaseUnavailable` unless the database answers a query."""
        with self.read() as session:
            session.connection().execute(text("SELECT 1"))

    def flush(self) -> None:
        """Make every transaction committed so far durable, also those that did not wait for the disk."""
        if self.is_sqlite:
            with self.read() as session:
                _sync_wal(session.connection().connection.driver_connection)
            return
        with self.write() as session:
            session.connection().exec_driver_sql("SET LOCAL synchronous_commit = on")
            session.connection().exec_driver_sql("SELECT txid_current()")  # with an id, it waits for the log

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def before_commit(session: Session, call: Callable[[Session], object]) -> None:
    """Have `call` called, once, as the last act of the transaction of `Database.write` that a session belongs to."""
    session.info.setdefault(_BEFORE_COMMIT, {})[call] = None


def after_commit(session: Session, call: Callable[[], object]) -> None:
    """Have `call` called, once, when the block of `Database.write` that a session belongs to is committed."""
    session.info.setdefault(_AFTER_COMMIT, {})[call] = None


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get(_WRITES, True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN DEFERRED")


def _sync_wal(connection: Any) -> None:
    """Sync the write-ahead log of SQLite: with synchronous=NORMAL only checkpoints do."""
    for _, _, file in connection.execute("PRAGMA database_list"):
        log = Path(f"{file}-wal")
        if file and log.exists():
            descriptor = os.open(log, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
