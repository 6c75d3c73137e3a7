"""The live feed: every event goes to a syslog server, at least once, in the order of the trail.

How far it was sent stands in the database, and who sends: one process at a time, by a lease. What was sent and
not noted is sent again; the number and the seal in each message tell. The note is sealed with the key of the trail, so
that nobody can have events passed over by moving it on. A server that is away blocks only the feed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, text

from imaging_ai.audit.anchor import anchor
from imaging_ai.audit.context import Source
from imaging_ai.audit.event import Entry
from imaging_ai.audit.export import rendered
from imaging_ai.audit.search import Search, find
from imaging_ai.audit.syslog import Receiver, packet
from imaging_ai.audit.trail import executor, head, newest_keys
from imaging_ai.audit.verify import feed_seal
from imaging_ai.db.engine import Database
from imaging_ai.errors import ImagingAiError

__all__ = ["Feed", "Keeper"]

_log = logging.getLogger(__name__)

_NAME = "syslog"
_BATCH = 500
_LEASE_SECONDS = 60.0
_BEGIN = (
    "INSERT INTO audit_feed (name, sent, owner, lease_until, seal) VALUES (:name, 0, '', 0, '') "
    "ON CONFLICT (name) DO NOTHING"
)
_CLAIM = (
    "UPDATE audit_feed SET owner = :owner, lease_until = :until WHERE name = :name "
    "AND (owner = :owner OR lease_until NOT BETWEEN :now AND :longest) RETURNING sent, seal"
)
_GO_ON = "UPDATE audit_feed SET lease_until = :until WHERE name = :name AND owner = :owner"
_SENT = "UPDATE audit_feed SET sent = :sent, seal = :seal WHERE name = :name AND owner = :owner"
_NOTE = "SELECT sent, seal FROM audit_feed WHERE name = :name"


class Feed:
    """Sends what the trail has and the receiver has not. `owner` names this process among all that might."""

    def __init__(self, database: Database, receiver: Receiver, source: Source, owner: str) -> None:
        self._database, self._receiver, self._source, self._owner = database, receiver, source, owner

    def send_some(self) -> bool:
        """Send a batch; say whether there may be more.

        Raises
        ------
        DeliveryUnavailable
            If the receiver does not take it.
        """
        newest = head(self._database)
        if newest is None or newest[0] == self._sent():
            return False
        sent = self._claim()
        if sent is None:
            return False
        if sent > newest[0]:
            _log.error("event %d of the audit trail was sent and is gone: run `imaging-ai audit verify`", sent)
            sent = 0  # everything once more, rather than nothing until the numbers are reached again
        entries = self._next(sent)
        if entries:
            self._database.flush()  # what others have must not be lost here
            messages = rendered(self._database, entries, "dicom", self._source)
            self._receiver.deliver(
                [packet(one, entry.event.at, self._source) for one, entry in zip(messages, entries, strict=True)]
            )
            self._note(entries[-1].sequence)
        return len(entries) == _BATCH

    def _sent(self) -> int | None:
        with self._database.read() as session:
            row = session.connection().execute(text(_NOTE), {"name": _NAME}).first()
            return None if row is None or not self._is_ours(session.connection(), *row) else int(row.sent)

    def _claim(self) -> int | None:
        """Return how far the trail was sent, when it is ours to go on, else None."""
        now = time.time()
        with self._database.write() as session:
            connection = session.connection()
            connection.execute(text(_BEGIN), {"name": _NAME})
            until = now + _LEASE_SECONDS
            values = {
                "name": _NAME,
                "owner": self._owner,
                "now": now,
                "until": until,
                "longest": until + _LEASE_SECONDS,
            }
            row = connection.execute(text(_CLAIM), values).first()
            if row is None:
                return None
            if self._is_ours(connection, *row):
                return int(row.sent)
        _log.error(
            "how far the audit trail was sent (%d) was noted by somebody else: all of it is sent again", row.sent
        )
        return 0

    def _is_ours(self, connection: Connection, sent: int, sealed: str) -> bool:
        """Say whether a note is what was noted here; that nothing was sent needs no seal."""
        keys = newest_keys(executor(connection), self._database.info)
        return not sent or feed_seal(keys.key, _NAME, sent) == sealed

    def _next(self, sent: int) -> list[Entry]:
        with self._database.read() as session:
            return list(find(session.connection(), Search(), after=sent, limit=_BATCH))

    def _note(self, sent: int) -> None:
        values = {"name": _NAME, "owner": self._owner, "sent": sent, "until": time.time() + _LEASE_SECONDS}
        with self._database.write() as session:
            execute = executor(session.connection())
            execute(_GO_ON, values)  # first, so that whoever rotates the key waits, or was waited for
            keys = newest_keys(execute, self._database.info)
            execute(_SENT, {**values, "seal": feed_seal(keys.key, _NAME, sent)})


class Keeper:
    """Anchors the end of the trail and feeds it on, whenever it is nudged, in a thread of its own."""

    def __init__(self, database: Database, anchors: Path, feed: Feed | None = None, *, every: float = 60.0) -> None:
        self._database, self._anchors, self._feed, self._every = database, anchors, feed, every
        self._anchored_at = -every
        self._thread: threading.Thread | None = None
        self._troubles: dict[str, str] = {}

    def nudge(self) -> None:
        """Do what is due, and return at once; while it is still being done, do nothing."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self.step, name="audit-keeper", daemon=True)
            self._thread.start()

    def step(self) -> None:
        """Anchor the end of the trail once in a while, and send what was not sent."""
        if time.monotonic() - self._anchored_at >= self._every:
            self._anchored_at = time.monotonic()
            self._try("the anchor of the audit trail", self._anchor)
        if self._feed is not None:
            self._try("the feed of the audit trail", self._send_all)

    def _anchor(self) -> None:
        anchor(self._database, self._anchors)

    def _send_all(self) -> None:
        while self._feed is not None and self._feed.send_some():
            pass

    def _try(self, what: str, act: Callable[[], object]) -> None:
        """Say once what keeps it from being done, and once that it is done again."""
        try:
            act()
        except ImagingAiError as error:
            if self._troubles.get(what) != error.message:
                _log.warning("%s waits: %s", what, error.message)
            self._troubles[what] = error.message
        except Exception as error:  # noqa: BLE001 - the edge of a thread: whatever it is, the next nudge tries again
            _log.exception("%s failed: %s", what, type(error).__name__)
        else:
            if self._troubles.pop(what, None):
                _log.info("%s goes on", what)
