"""Bring a database to the current schema, and refuse to work on any other.

Several processes may call `upgrade` at once: PostgreSQL serialises them by an advisory lock, SQLite by its writer lock.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import InterfaceError, OperationalError

from imaging_ai.db.engine import Database
from imaging_ai.errors import ConfigError, DatabaseUnavailable

__all__ = ["check_current", "current", "head", "upgrade"]

_LOCK = 7_210_311  # any number that nobody else locks


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """Return the revision that this program needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def current(database: Database) -> str | None:
    """Return the revision that the database has, None when it is empty."""
    try:
        with database.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except (OperationalError, InterfaceError) as error:
        raise DatabaseUnavailable(f"the database does not answer: {type(error.orig).__name__}") from error


def upgrade(database: Database) -> None:
    """Apply every migration that the database lacks."""
    if current(database) == head():
        return
    try:
        with database.engine.begin() as connection:
            if not database.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            command.upgrade(_config(connection), "head")
    except (OperationalError, InterfaceError) as error:
        raise DatabaseUnavailable(f"the database does not answer: {type(error.orig).__name__}") from error


def check_current(database: Database) -> None:
    """Raise `ConfigError` unless the database has exactly the schema of this program."""
    if (found := current(database)) != head():
        state = "is empty" if found is None else f"is at revision {found}, this program needs {head()}"
        raise ConfigError(f"the database {state}; run `imaging-ai db upgrade`")
