"""What the index said is said again only while nothing was committed to it, by whichever process."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imaging_ai.archive.unchanged import Unchanged
from imaging_ai.db.engine import Database

SELECT = "SELECT key, value FROM thing WHERE key = ?"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'index.db'}")
    commit(database, "CREATE TABLE thing (key TEXT PRIMARY KEY, value TEXT)")
    commit(database, "INSERT INTO thing VALUES ('a', 'first')")
    yield database
    database.dispose()


def commit(database: Database, statement: str) -> None:
    with database.write() as session:
        session.connection().exec_driver_sql(statement)


class Made:
    """Counts how often a row was looked up."""

    def __init__(self, database: Database) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.unchanged = Unchanged(database, SELECT, self.make)

    def make(self, row: tuple[Any, ...]) -> str:
        self.rows.append(row)
        return str(row[1])

    def get(self, key: str = "a") -> str | None:
        return self.unchanged.get(key)


def test_a_row_is_looked_up_once_while_nothing_is_committed(database: Database) -> None:
    made = Made(database)
    assert [made.get() for _ in range(3)] == ["first"] * 3
    assert made.rows == [("a", "first")]


def test_what_was_changed_or_deleted_is_seen_by_the_next(database: Database) -> None:
    made = Made(database)
    assert made.get() == "first"
    commit(database, "UPDATE thing SET value = 'second'")
    assert made.get() == "second"
    commit(database, "DELETE FROM thing")
    assert made.get() is None
    commit(database, "INSERT INTO thing VALUES ('a', 'third')")
    assert made.get() == "third"


def test_commits_of_other_processes_are_seen(database: Database, tmp_path: Path) -> None:
    made = Made(database)
    assert made.get() == "first"
    other = sqlite3.connect(tmp_path / "index.db")
    with other:
        other.execute("UPDATE thing SET value = 'theirs'")
    other.close()
    assert made.get() == "theirs"


def test_an_index_that_cannot_be_asked_says_nothing_and_can_be_asked_later(database: Database) -> None:
    made = Made(database)
    commit(database, "ALTER TABLE thing RENAME TO away")
    assert made.get() is None
    commit(database, "ALTER TABLE away RENAME TO thing")
    assert made.get() == "first"


def test_its_connection_ends_with_the_pool_and_takes_no_place_in_it(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'small.db'}", pool_size=1, max_overflow=0, pool_timeout=0.1)
    commit(database, "CREATE TABLE thing (key TEXT PRIMARY KEY, value TEXT)")
    made = Made(database)
    assert made.get() is None
    commit(database, "INSERT INTO thing VALUES ('a', 'b')")  # would wait in vain for the only connection
    assert made.get() == "b"
    database.dispose()
    assert made.get() == "b", "it connects again"
    database.dispose()
