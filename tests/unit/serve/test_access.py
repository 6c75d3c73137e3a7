"""Reads are in the audit: counted together, and kept while the database is away."""

from __future__ import annotations

from litestar import Litestar, Request, get
from litestar.testing import RequestFactory

from imaging_ai.db.engine import Database
from imaging_ai.serve.access import AccessLog


@get("/", sync_to_thread=False)
def nothing() -> None:
    return None


def request() -> Request:  # type: ignore[type-arg]
    return RequestFactory(app=Litestar([nothing])).get("/")


def audited(database: Database) -> list[tuple[str, str, str]]:
    with database.read() as session:
        query = "SELECT action, object_uid, detail FROM audit_event ORDER BY id"
        return [tuple(row) for row in session.connection().exec_driver_sql(query).all()]  # type: ignore[misc]


def test_many_reads_of_one_series_are_one_event_that_counts_them(database: Database) -> None:
    log = AccessLog(database, every=600.0)
    asked = request()
    for _ in range(500):
        log.note(asked, "read-frames", "series", "1.2.3")
    log.note(request(), "read-frames", "series", "1.2.4")
    log.flush()
    assert audited(database) == [("read-frames", "1.2.3", "500 times"), ("read-frames", "1.2.4", "")]


def test_events_wait_for_a_database_that_cannot_take_them(database: Database) -> None:
    log = AccessLog(database, every=600.0)
    log.note(request(), "read-frames", "series", "1.2.3")
    with database.write() as session:
        session.connection().exec_driver_sql("ALTER TABLE audit_event RENAME TO away")
    log.flush()
    with database.write() as session:
        session.connection().exec_driver_sql("ALTER TABLE away RENAME TO audit_event")
    log.flush()
    assert audited(database) == [("read-frames", "1.2.3", "")]
