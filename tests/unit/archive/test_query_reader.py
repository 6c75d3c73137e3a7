"""Transactions of searches: each sees one state of the index, and leaves a connection as the next one needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from imaging_ai.archive.query_reader import Reader
from imaging_ai.db.engine import Database
from imaging_ai.errors import DatabaseUnavailable, TooLarge

COUNT = "SELECT count(*) FROM thing"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'index.db'}")
    commit(database, "CREATE TABLE thing (key INTEGER PRIMARY KEY)")
    yield database
    database.dispose()


def commit(database: Database, statement: str) -> None:
    with database.write() as session:
        session.connection().exec_driver_sql(statement)


def count(reader: Reader) -> int:
    with reader.open() as reading:
        return int(reading.rows(COUNT)[0][0])


def test_a_transaction_sees_one_state_and_the_next_one_the_newest(database: Database) -> None:
    reader = Reader(database)
    with reader.open() as reading:
        assert reading.rows(COUNT) == [(0,)]
        commit(database, "INSERT INTO thing VALUES (1)")
        assert reading.rows(COUNT) == [(0,)]
    assert count(reader) == 1


def test_transactions_that_overlap_keep_apart(database: Database) -> None:
    reader = Reader(database)
    with reader.open() as before:
        assert before.rows(COUNT) == [(0,)]
        commit(database, "INSERT INTO thing VALUES (1)")
        with reader.open() as after:
            assert (before.rows(COUNT), after.rows(COUNT)) == ([(0,)], [(1,)])
    assert [count(reader) for _ in range(3)] == [1, 1, 1]


def test_of_many_at_once_a_few_connections_remain(database: Database) -> None:
    reader = Reader(database)
    with ExitStack() as at_once:
        assert [at_once.enter_context(reader.open()).rows(COUNT) for _ in range(12)] == [[(0,)]] * 12
    assert len(reader._idle) == 8
    assert count(reader) == 0


def test_what_a_rush_opened_is_closed_after_a_minute(database: Database) -> None:
    now = 0.0
    reader = Reader(database, clock=lambda: now)
    with ExitStack() as at_once:
        for _ in range(5):
            at_once.enter_context(reader.open())
    now = 59.0
    assert (count(reader), len(reader._idle)) == (0, 5)
    now = 61.0
    assert (count(reader), len(reader._idle)) == (0, 0), "the one that answered, and those that nobody asked for"
    assert (count(reader), len(reader._idle)) == (0, 1)


def test_after_an_error_the_next_search_is_answered(database: Database) -> None:
    reader = Reader(database)
    with pytest.raises(TooLarge), reader.open() as reading:
        reading.rows(COUNT)
        raise TooLarge("too much")
    with pytest.raises(DatabaseUnavailable, match="OperationalError"), reader.open() as reading:
        reading.rows("SELECT nothing FROM nowhere")
    commit(database, "INSERT INTO thing VALUES (1)")
    assert count(reader) == 1


def test_connections_are_kept_until_the_database_is_let_go(database: Database) -> None:
    reader = Reader(database)
    counts = [count(reader) for _ in range(5)]
    assert (counts, database.engine.pool.checkedout(), len(reader._idle)) == ([0] * 5, 0, 1)  # type: ignore[attr-defined]
    database.dispose()
    assert not reader._idle
    assert count(reader) == 0, "and opened anew"
