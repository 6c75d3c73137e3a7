"""The beginning and the end of a role, in the audit trail; apart, so that receive loads no more than it needs."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from imaging_ai import audit
from imaging_ai.config import Settings
from imaging_ai.errors import UnavailableError
from imaging_ai.wiring.parts import make_current_database

__all__ = ["audited_role"]

_log = logging.getLogger(__name__)


@contextmanager
def audited_role(settings: Settings, role: str) -> Iterator[None]:
    """Note in the trail that a role of this program was started, and that it was stopped (PS3.15 A.5.3.1)."""
    database = make_current_database(settings)

    def note(action: str) -> None:
        with database.write() as session:
            audit.record(session, action, object_type="application", object_uid=role, origin=socket.gethostname())

    note("start-application")
    database.dispose()  # web forks from here, and no connection to SQLite may be taken over a fork (howtocorrupt.html)
    try:
        yield
    finally:
        try:
            note("stop-application")
        except UnavailableError as error:
            _log.warning("the end of %s is not in the audit trail: %s", role, error.message)
        database.dispose()
