"""The index that finds any piece of text in the columns of studies that people search by: three characters at a time.

On SQLite it is a full-text table (FTS5, trigram tokens, no content of its own) whose rows are numbered by the studies'
`sort_key`, so that it answers in the order of a search; triggers keep it. What it cannot say, pieces of two characters
and wildcards in between, is read in `SCAN`, an index of the same columns in the same order.

On PostgreSQL it is a GIN index of pg_trgm; where that extension may not be created, searches for pieces of text read
the studies in their order instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Table, event

__all__ = ["COLUMNS", "SCAN", "TABLE", "create", "create_with", "drop"]

TABLE = "study_text"
SCAN = "study_text_scan"
COLUMNS = ("patient_name_key", "patient_id", "accession_number", "study_description", "referring_physician_name_key")


def create(connection: Connection) -> None:
    """Create the index, with what the studies say now."""
    _execute(connection, _SQLITE if connection.dialect.name == "sqlite" else _POSTGRESQL)


def drop(connection: Connection) -> None:
    """Drop the index."""
    sqlite = connection.dialect.name == "sqlite"
    _execute(connection, _SQLITE_DROP if sqlite else [f"DROP INDEX IF EXISTS {TABLE}_trigrams"])


def create_with(table: Table) -> None:
    """Have the index created whenever `table` is, and dropped with it."""
    event.listen(table, "after_create", _after_create)
    event.listen(table, "after_drop", _after_drop)


def _after_create(_table: Table, connection: Connection, **_: Any) -> None:
    create(connection)


def _after_drop(_table: Table, connection: Connection, **_: Any) -> None:
    drop(connection)


def _execute(connection: Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)


def _of(row: str) -> str:
    return ", ".join(f"{row}.{name}" for name in COLUMNS)


_INTO = f"INSERT INTO {TABLE} (rowid, {', '.join(COLUMNS)})"
_ADD = f"{_INTO} SELECT new.sort_key, {_of('new')} WHERE new.sort_key IS NOT NULL;"
_REMOVE = (
    f"INSERT INTO {TABLE} ({TABLE}, rowid, {', '.join(COLUMNS)}) "
    f"SELECT 'delete', old.sort_key, {_of('old')} WHERE old.sort_key IS NOT NULL;"
)
_CHANGED = " OR ".join(f"old.{name} IS NOT new.{name}" for name in ("sort_key", *COLUMNS))

_SQLITE = [
    f"CREATE INDEX {SCAN} ON study (sort_key, {', '.join(COLUMNS)})",
    f"CREATE VIRTUAL TABLE {TABLE} USING fts5({', '.join(COLUMNS)}, content='', tokenize='trigram case_sensitive 1')",
    f"{_INTO} SELECT sort_key, {', '.join(COLUMNS)} FROM study WHERE sort_key IS NOT NULL",  # noqa: S608
    f"CREATE TRIGGER {TABLE}_insert AFTER INSERT ON study BEGIN {_ADD} END",
    f"CREATE TRIGGER {TABLE}_delete AFTER DELETE ON study BEGIN {_REMOVE} END",
    f"CREATE TRIGGER {TABLE}_update AFTER UPDATE OF sort_key, {', '.join(COLUMNS)} ON study "
    f"WHEN {_CHANGED} BEGIN {_REMOVE} {_ADD} END",
]
_SQLITE_DROP = [f"DROP TRIGGER IF EXISTS {TABLE}_{what}" for what in ("insert", "delete", "update")]
_SQLITE_DROP += [f"DROP TABLE IF EXISTS {TABLE}", f"DROP INDEX IF EXISTS {SCAN}"]

_POSTGRESQL = [
    f"""
DO $$ BEGIN
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
    CREATE INDEX IF NOT EXISTS {TABLE}_trigrams ON study USING gin ({", ".join(f"{c} gin_trgm_ops" for c in COLUMNS)});
EXCEPTION WHEN insufficient_privilege OR undefined_file OR feature_not_supported OR undefined_object THEN
    RAISE NOTICE 'pg_trgm is not available: searches for pieces of text are slower';
END $$
"""
]
