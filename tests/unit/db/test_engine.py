"""Transactions: what is written whole, what is rolled back, and how a lost database is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlmodel import SQLModel

from imaging_ai import audit
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AuditEventRow
from imaging_ai.errors import DatabaseUnavailable


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    SQLModel.metadata.create_all(database.engine)
    yield database
    database.dispose()


def events(database: Database) -> int:
    with database.read() as session:
        return session.connection().scalar(select(func.count()).select_from(AuditEventRow)) or 0


def test_a_block_that_ends_is_committed(database: Database) -> None:
    with database.write() as session:
        audit.record(session, "store", object_type="instance", object_uid="1.2")
    assert events(database) == 1


def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as session:
        audit.record(session, "store", object_type="instance", object_uid="1.2")
        session.flush()
        raise RuntimeError
    assert events(database) == 0


def test_writers_wait_for_one_another_instead_of_failing(database: Database) -> None:
    def add() -> None:
        for _ in range(20):
            with database.write() as session:
                events_before = session.connection().scalar(select(func.count()).select_from(AuditEventRow))
                audit.record(session, "store", object_type="instance", object_uid=str(events_before))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert events(database) == 80


def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    with database.write() as session:
        audit.record(session, "store", object_type="instance", object_uid="1.2")
        session.flush()
        assert events(database) == 0
    assert events(database) == 1


def test_a_database_without_a_free_connection_is_unavailable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}", pool_size=1, max_overflow=0, pool_timeout=0.01)
    with database.engine.connect(), pytest.raises(DatabaseUnavailable, match="in use"):
        database.ping()
    database.ping()
    database.dispose()


def test_a_database_that_cannot_be_reached_is_unavailable() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailable):
        database.ping()
