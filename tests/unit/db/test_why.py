"""What an operator is told of a database that does not answer: the remedy, and no host, user or file."""

from __future__ import annotations

from pathlib import Path

import pytest

from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.db.why import why
from imaging_ai.errors import DatabaseUnavailable


def told(database: Database) -> str:
    with pytest.raises(DatabaseUnavailable) as raised:
        database.ping()
    with pytest.raises(DatabaseUnavailable) as again:
        migrate.upgrade(database)
    database.dispose()
    assert raised.value.message == again.value.message
    return raised.value.message


def test_a_file_that_cannot_be_opened_is_told_with_the_remedy(tmp_path: Path) -> None:
    said = told(Database(f"sqlite:///{tmp_path}/nowhere/x.db"))
    assert "see who owns data_dir" in said
    assert str(tmp_path) not in said


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not SQLite at all" * 100)
    assert "restore a backup" in told(Database(f"sqlite:///{tmp_path}/x.db"))


def test_a_server_that_is_not_there_is_told() -> None:
    said = told(Database("postgresql://somebody@127.0.0.1:1/none"))
    assert "nobody listens there" in said
    assert "somebody" not in said and "127.0.0.1" not in said


def test_a_wrong_database_is_told(postgres_url: str) -> None:
    assert "no such database" in told(Database(postgres_url + "_not"))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('FATAL:  password authentication failed for user "x"', "refuses the user or the password"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1"', "pg_hba.conf"),
        ("FATAL:  sorry, too many clients already", "max_connections"),
        ("something else of host 10.0.0.1", "OSError"),
    ],
)
def test_what_postgresql_says_becomes_a_remedy(said: str, told: str) -> None:
    assert told in why(OSError(said))
    assert "10.0.0.1" not in why(OSError(said))
