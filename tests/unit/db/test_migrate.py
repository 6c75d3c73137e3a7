"""Migrations lead to exactly the tables of this program, and no role starts on others."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlmodel import SQLModel

from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import DeliveryRow, JobRow
from imaging_ai.errors import ConfigError


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'x.db'}")


def assert_schema_is_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        options = {"compare_type": True, "include_name": _comparable, "include_object": _comparable}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, SQLModel.metadata) == []
    assert "job_next" in {index["name"] for index in inspect(database.engine).get_indexes("job")}


def _comparable(*about: object) -> bool:
    """Alembic cannot compare an index with a descending column, nor the text index, which SQLAlchemy cannot say."""
    return "job_next" not in about and not any(str(one).startswith("study_text") for one in about)


def test_the_migrations_make_the_tables(database: Database) -> None:
    migrate.upgrade(database)
    migrate.check_current(database)
    assert_schema_is_the_tables(database)


def test_the_migrations_make_the_tables_on_postgresql(postgres_url: str) -> None:
    database = Database(postgres_url)
    migrate.upgrade(database)
    assert_schema_is_the_tables(database)
    database.dispose()


def test_the_newest_migration_is_the_one_that_roles_ask_for() -> None:
    scripts = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
    assert scripts.get_current_head() == migrate.HEAD


def test_upgrading_twice_changes_nothing(database: Database) -> None:
    migrate.upgrade(database)
    migrate.upgrade(database)
    assert migrate.current(database) == migrate.HEAD


def test_an_empty_database_is_refused_with_the_remedy(database: Database) -> None:
    with pytest.raises(ConfigError, match="is empty; run `imaging-ai db upgrade`"):
        migrate.check_current(database)


def test_another_revision_is_refused(database: Database) -> None:
    migrate.upgrade(database)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    with pytest.raises(ConfigError, match="is at revision 0000, this program needs"):
        migrate.check_current(database)


def test_deliveries_of_an_earlier_program_get_the_priority_of_their_job(database: Database) -> None:
    now = {"created_at": 0.0, "not_before": 0.0}
    migrate.upgrade(database)
    with database.write() as session:
        for number, priority in ((1, 0), (2, 2)):
            names = {"job_uid": f"1.{number}", "dedupe_key": f"{number}", "study_instance_uid": "1"}
            session.add(JobRow(id=number, priority=priority, series_instance_uids="[]", **names, **now))
            session.flush()
            session.add(DeliveryRow(job_id=number, sop_instance_uid="1", destination=f"{number}", next_attempt_at=0.0))
        session.flush()
        session.connection().execute(
            text("INSERT INTO audit_feed (name, sent, owner, lease_until) VALUES ('x', 7, '', 0)")
        )
    _run(database, "downgrade", "0009")
    assert "priority" not in {one["name"] for one in inspect(database.engine).get_columns("delivery")}
    migrate.upgrade(database)
    with database.read() as session:
        connection = session.connection()
        assert connection.execute(text("SELECT job_id, priority FROM delivery ORDER BY job_id")).all() == [
            (1, 0),
            (2, 2),
        ]
        assert connection.execute(text("SELECT sent, seal FROM audit_feed")).one() == (7, "")


def _run(database: Database, verb: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        getattr(command, verb)(config, revision)


def test_every_foreign_key_has_an_index(database: Database) -> None:
    migrate.upgrade(database)
    inspector = inspect(database.engine)
    for table in inspector.get_table_names():
        indexed = {index["column_names"][0] for index in inspector.get_indexes(table)}
        indexed |= {unique["column_names"][0] for unique in inspector.get_unique_constraints(table)}
        for key in inspector.get_foreign_keys(table):
            assert key["constrained_columns"][0] in indexed, f"{table}.{key['constrained_columns'][0]}"
