"""Who read what: audit events of reads, gathered for a moment so that a series of 500 frames is one event.

Every read of patient data leaves an event (design promise 9). Equal ones (who, from where, what was done, to which
object) within a few seconds are counted in one row; those seconds of a process that is killed are lost with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import Any

from litestar import Request

from imaging_ai.audit import record
from imaging_ai.db.engine import Database
from imaging_ai.serve.proxies import client_address

__all__ = ["AccessLog", "actor", "origin"]

_log = logging.getLogger(__name__)

AnyRequest = Request[Any, Any, Any]


def actor(request: AnyRequest) -> str:
    """Return who asks: the name of the authenticated principal, or "" when nobody has to prove who they are."""
    principal = request.scope.get("user")
    return str(getattr(principal, "name", "") or "")


def origin(request: AnyRequest) -> str:
    """Return the address the request came from."""
    return client_address(request.scope)


class AccessLog:
    """Audit events of reads, written every few seconds by a thread of its own."""

    def __init__(self, database: Database, *, every: float = 2.0) -> None:
        self._database, self._every = database, every
        self._lock = threading.Lock()
        self._waiting: Counter[tuple[str, str, str, str, str]] = Counter()
        self._thread: threading.Thread | None = None

    def note(self, request: AnyRequest, action: str, object_type: str, object_uid: str = "", count: int = 1) -> None:
        """Note that the sender of a request read an object: `action` is a short word such as "read-instances"."""
        key = (action, object_type, object_uid, actor(request), origin(request))
        with self._lock:
            self._waiting[key] += count
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Write what waits; also at the end of the process. What cannot be written goes on waiting."""
        with self._lock:
            waiting, self._waiting = self._waiting, Counter()
        if not waiting:
            return
        try:
            with self._database.write() as session:
                for (action, object_type, object_uid, who, where), count in waiting.items():
                    detail = f"{count} times" if count > 1 else ""
                    record(
                        session,
                        action,
                        object_type=object_type,
                        object_uid=object_uid,
                        actor=who,
                        origin=where,
                        detail=detail,
                    )
        except Exception as error:  # noqa: BLE001 - the edge of a thread: whatever it is, no event may be lost
            _log.warning("audit events of reads wait: %s", type(error).__name__)
            with self._lock:
                self._waiting.update(waiting)

    def _run(self) -> None:
        while True:
            time.sleep(self._every)
            self.flush()
