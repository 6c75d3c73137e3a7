"""Bring a database to the current schema, and refuse to work on any other.

Several processes may call `upgrade` at once: PostgreSQL serialises them by an advisory lock, SQLite by its writer lock.
Alembic is loaded only when there is something to migrate: every role asks at its start, and must start fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from imaging_ai.db.engine import Database
from imaging_ai.db.why import is_damage, why
from imaging_ai.errors import ConfigError, DatabaseUnavailable

__all__ = ["HEAD", "check_current", "current", "upgrade"]

#: The newest revision in `migrations/versions`: the one that this program needs.
HEAD = "0010"

_LOCK = 7_210_311  # any number that nobody else locks


def current(database: Database) -> str | None:
    """Return the revision that the database has, None when it is empty."""
    with _answers(), database.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return None if revision is None else str(revision)


def upgrade(database: Database) -> None:
    """Apply every migration that the database lacks."""
    if current(database) == HEAD:
        return
    with _answers(), database.engine.begin() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        _run_migrations(connection)


def check_current(database: Database) -> None:
    """Raise `ConfigError` unless the database has exactly the schema of this program."""
    if (found := current(database)) != HEAD:
        state = "is empty" if found is None else f"is at revision {found}, this program needs {HEAD}"
        raise ConfigError(f"the database {state}; run `imaging-ai db upgrade`")


@contextmanager
def _answers() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if isinstance(error, OperationalError | InterfaceError) or is_damage(error.orig):
            raise DatabaseUnavailable(f"the database does not answer: {why(error.orig)}") from error
        raise


def _run_migrations(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise ConfigError(
            f"the database cannot be brought to revision {HEAD}: {error}; a newer program has written it: use that one"
        ) from error
