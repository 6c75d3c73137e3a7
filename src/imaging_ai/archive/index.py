"""The index on its hot path: the connection that writes arrived instances, one transaction for each batch."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import exc
from sqlalchemy.pool import PoolProxiedConnection

from imaging_ai.archive import find
from imaging_ai.archive.batch import Arrival, Batch, KnownRows
from imaging_ai.audit.trail import append
from imaging_ai.db.engine import Database
from imaging_ai.errors import DatabaseUnavailable

__all__ = ["Index"]

_KNOWN_SERIES = 10_000


class Index:
    """Writes arrivals, one batch at a time.

    `synced` makes each transaction durable by itself, for stores that cannot name what the index has missed.
    """

    def __init__(self, database: Database, *, silence: float, synced: bool, retry_seconds: float = 5.0) -> None:
        self._database = database
        self._silence = silence
        self._synced = synced
        self._unflushed_seconds = 0.0
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._connection: PoolProxiedConnection | None = None
        self._known = KnownRows()
        self._newest_deletion: int | None = None
        self._recent: deque[tuple[float, Arrival]] = deque()
        self._errors: Any = database.engine.dialect.loaded_dbapi
        self._translations: dict[str, str] = {}

    def insert(self, arrivals: Sequence[Arrival]) -> None:
        """Index a batch in one transaction; a database that is briefly away is waited for.

        Raises
        ------
        DatabaseUnavailable
            If it does not come back in time. Nothing of the batch counts as stored then; what a commit whose answer
            was lost may have written is recognised by its blob when it comes again.
        """
        deadline = time.monotonic() + self._retry_seconds
        pause = 0.05
        with self._lock:
            while True:
                try:
                    return self._transaction(arrivals)
                except self._errors.IntegrityError:
                    if not self._known.series:
                        raise
                    self._known.clear()  # a study or series that we knew was deleted meanwhile
                except (self._errors.OperationalError, self._errors.InterfaceError, exc.SQLAlchemyError) as error:
                    self._disconnect()
                    if time.monotonic() + pause > deadline:
                        raise DatabaseUnavailable("the database does not answer") from error
                time.sleep(pause)
                pause = min(pause * 2, 1.0)

    def flush(self) -> None:
        """Make every row committed so far durable."""
        self._database.flush()

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            self._disconnect()

    def _transaction(self, arrivals: Sequence[Arrival]) -> None:
        connection = self._connection or self._connect()
        cursor = connection.cursor()
        batch = Batch(
            partial(self._execute, cursor),
            self._known,
            time.time(),
            self._silence,
        )
        try:
            if self._database.is_sqlite:
                cursor.execute("BEGIN IMMEDIATE")
                self._forget_deleted(cursor)
            batch.put(arrivals)
            if batch.events:
                shared = not self._database.is_sqlite
                append(partial(self._execute, cursor), batch.events, self._database.info, shared=shared)
            self._doubt(arrivals, True)
            connection.commit()
            self._doubt(arrivals, False)
        except BaseException:
            self._roll_back(connection)
            batch.undo()
            raise
        finally:
            cursor.close()
        if len(self._known.series) > _KNOWN_SERIES:
            self._known.clear()
        self._known.update(batch.made)
        self._remember(arrivals)

    def _forget_deleted(self, cursor: Any) -> None:
        """Where something was deleted, SQLite may give the number of a row that we know to another one."""
        newest = cursor.execute("SELECT max(id) FROM deleted_instance").fetchone()[0]
        if newest != self._newest_deletion:
            self._known.clear()
            self._newest_deletion = newest

    def _roll_back(self, connection: PoolProxiedConnection) -> None:
        try:
            connection.rollback()
        except self._errors.Error:
            self._disconnect()

    def _doubt(self, arrivals: Sequence[Arrival], doubtful: bool) -> None:
        """Note that a commit is on its way to a server: if the connection breaks now, nobody knows how it went."""
        if not self._database.is_sqlite:
            for arrival in arrivals:
                arrival.in_doubt = doubtful

    def _remember(self, arrivals: Sequence[Arrival]) -> None:
        if self._unflushed_seconds:
            now = time.monotonic()
            # What met another that was there first has no row to be made again, and its bytes may be gone.
            self._recent.extend((now, arrival) for arrival in arrivals if arrival.held is None)
            while self._recent and self._recent[0][0] < now - self._unflushed_seconds:
                self._recent.popleft()

    def _connect(self) -> PoolProxiedConnection:
        """Open our connection. A server that died took along what it had not flushed: that goes in again."""
        connection = self._database.engine.raw_connection()
        self._unflushed_seconds = self._prepare(connection)
        self._connection = connection
        lately = [arrival for _, arrival in self._recent]
        self._recent.clear()
        try:
            if lately:
                gone = find.deleted(self._database, [arrival.blob for arrival in lately])
                self._transaction([arrival for arrival in lately if arrival.blob not in gone])
        except BaseException:
            self._recent.extend((time.monotonic(), arrival) for arrival in lately)
            raise
        return connection

    def _prepare(self, connection: PoolProxiedConnection) -> float:
        """Choose how durable a commit is by itself; return how many seconds of commits a crash of the server takes."""
        cursor = connection.cursor()
        if self._database.is_sqlite:
            cursor.execute(f"PRAGMA synchronous = {'FULL' if self._synced else 'NORMAL'}")
            return 0.0
        if self._synced:
            return 0.0
        cursor.execute("SET synchronous_commit = off")
        cursor.execute("SELECT setting FROM pg_settings WHERE name = 'wal_writer_delay'")
        row = cursor.fetchone()
        connection.commit()
        return 2.0 + 3 * float(row[0]) / 1000 if row else 30.0  # at most three times wal_writer_delay

    def _disconnect(self) -> None:
        self._known.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()

    def _execute(self, cursor: Any, text: str, values: Any) -> Any:
        run = cursor.executemany if isinstance(values, list) else cursor.execute
        run(self._translated(text), values)
        return cursor

    def _translated(self, text: str) -> str:
        """Write named parameters as the driver wants them."""
        if self._database.is_sqlite:
            return text
        if text not in self._translations:
            self._translations[text] = re.sub(r":(\w+)", r"%(\1)s", text)
        return self._translations[text]
