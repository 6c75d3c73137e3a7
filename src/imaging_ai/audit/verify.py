"""Whether the trail is what was written: every seal, every number, every anchor, and the checkpoint it begins at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from imaging_ai.audit.anchor import Anchor
from imaging_ai.audit.event import COLUMNS, GENESIS, seal
from imaging_ai.audit.keys import Keyring
from imaging_ai.audit.trail import pages
from imaging_ai.db.engine import Database

__all__ = ["Break", "Report", "check", "checkpoint_seal", "feed_seal", "verify"]

_MOST_TOLD = 20
_TYPES = (int, float, *(str,) * 9)
_ACTION, _DETAIL = COLUMNS.index("action"), COLUMNS.index("detail")
_FEED = "SELECT name, sent, seal FROM audit_feed ORDER BY name"
_CHECKPOINT = "SELECT id, hash, key_id, seal FROM audit_checkpoint ORDER BY id DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class Break:
    """A place where the trail is not what was written."""

    sequence: int
    reason: str


@dataclass(slots=True)
class Report:
    """What was verified: the newest event and its key, how many events and anchors, by which key which were sealed.

    `broken` are the first breaks, of `breaks` altogether.
    """

    begins_after: int = 0
    begins_with: str = GENESIS
    last: int = 0
    hash: str = GENESIS
    key_id: str = ""
    events: int = 0
    anchors: int = 0
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    breaks: int = 0
    broken: list[Break] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing was changed, removed, moved or cut off."""
        return not self.breaks

    def begin(self, sequence: int, sealed: str) -> None:
        """Begin after an event and its seal."""
        self.begins_after, self.begins_with = sequence, sealed
        self.last, self.hash = sequence, sealed

    def broke(self, sequence: int, reason: str) -> None:
        """Note a break."""
        self.breaks += 1
        if len(self.broken) < _MOST_TOLD:
            self.broken.append(Break(sequence, reason))


def verify(database: Database, keys: Keyring, anchors: Iterable[Anchor | None] = ()) -> Report:
    """Read the whole trail, and say where it is not what was written. `anchors` are in the order of their writing."""
    report = Report()
    anchored = _Anchored(anchors, report)
    untold = _begin(database, keys, report)
    noted = _noted(database)
    anchored.passed(report.last, report.hash)
    for page in pages(database, report.last):
        for row in page:
            check(row, keys, report)
            anchored.passed(report.last, report.hash)
            if untold and row[_ACTION] == "audit.archive" and str(row[_DETAIL]).endswith(untold):
                untold = ""
    if untold:
        report.broke(report.begins_after, "no event tells of the checkpoint that the trail begins at")
    if report.events and keys.replaced(report.key_id, keys.current):
        report.broke(report.last, f"sealed with the key {report.key_id}, although it was replaced by {keys.current}")
    anchored.end()
    _check_feed(noted, keys, report)
    return report


def checkpoint_seal(key: bytes, sequence: int, sealed: str, key_id: str) -> str:
    """Return the seal of the checkpoint that stands for the events up to `sequence`, whose seal is `sealed`."""
    return seal(key, sealed, ["checkpoint", sequence, key_id])


def feed_seal(key: bytes, name: str, sent: int) -> str:
    """Return the seal of the note that the events up to `sent` were sent to the receiver `name`."""
    return seal(key, GENESIS, ["feed", name, sent])


def _noted(database: Database) -> Sequence[Any]:
    with database.read() as session:
        return session.connection().execute(text(_FEED)).all()


def _check_feed(noted: Sequence[Any], keys: Keyring, report: Report) -> None:
    """Hold what is noted as sent against the trail: who moves the note on keeps events from being sent."""
    for name, sent, sealed in noted:
        if sent and feed_seal(keys.key, name, sent) != sealed:
            report.broke(sent, f"that the events up to here were sent ({name}) is not what was noted")
        elif sent > report.last:
            report.broke(report.last + 1, f"missing: {report.last + 1} to {sent}, which were sent ({name})")


def _begin(database: Database, keys: Keyring, report: Report) -> str:
    """Take the checkpoint for the beginning, where there is one; return how the event ends that tells of it."""
    with database.read() as session:
        connection = session.connection()
        row = connection.execute(text(_CHECKPOINT)).first()
        if row is None:
            return ""
        left = connection.scalar(text("SELECT min(id) FROM audit_event WHERE id <= :id"), {"id": row.id})
    report.begin(row.id, row.hash)
    key = keys.keys.get(row.key_id)
    if key is None or checkpoint_seal(key, row.id, row.hash, row.key_id) != row.seal:
        report.broke(row.id, "the checkpoint that the trail begins at was not made with a key that is known here")
    if left is not None:
        report.broke(left, "the event stands before the checkpoint that the trail begins at")
    return f" to {row.id}, {row.hash}"


def check(row: Sequence[Any], keys: Keyring, report: Report) -> None:
    """Hold the values of `COLUMNS` and the seal against the event before, and make them the newest of the report."""
    sequence, key_id, sealed = row[0], row[-2], row[-1]
    if sequence != report.last + 1:
        missing = f"{report.last + 1}" if sequence == report.last + 2 else f"{report.last + 1} to {sequence - 1}"
        report.broke(report.last + 1, f"missing: {missing}; the next is {sequence}")
    if (key := keys.keys.get(key_id)) is None:
        report.broke(sequence, f"sealed with the key {str(key_id)[:16]!r}, which is not in the key file")
    elif tuple(map(type, row)) != _TYPES or seal(key, report.hash, row[:-1]) != sealed:
        report.broke(sequence, "the event, or the one before it, is not what was sealed")
    elif key_id != report.key_id and keys.replaced(key_id, report.key_id):
        report.broke(sequence, f"sealed with the key {key_id}, which was replaced before")
    else:
        report.keys[key_id] = (report.keys.get(key_id, (sequence,))[0], sequence)
        report.key_id = key_id
    report.events += 1
    report.last, report.hash = sequence, str(sealed)


class _Anchored:
    """The anchors, one after another, held against the events as they pass."""

    def __init__(self, anchors: Iterable[Anchor | None], report: Report) -> None:
        self._anchors, self._report = iter(anchors), report
        self._next: Anchor | None = None
        self._advance()

    def passed(self, sequence: int, sealed: str) -> None:
        """Hold the anchors up to an event against it."""
        while self._next is not None and self._next.sequence <= sequence:
            if self._next.sequence == sequence and self._next.hash != sealed:
                self._report.broke(sequence, "another event was anchored under this number")
            self._advance()

    def end(self) -> None:
        """Say what anchors there are for events that did not pass."""
        newest = None
        while self._next is not None:
            newest = self._next
            self._advance()
        if newest is not None:
            last = self._report.last
            self._report.broke(last + 1, f"missing: {last + 1} to {newest.sequence}; the end was cut off")

    def _advance(self) -> None:
        before = self._next.sequence if self._next else 0
        for one in self._anchors:
            self._report.anchors += 1
            if one is not None and one.sequence > before:
                self._next = one
                return
            self._report.broke(before, f"line {self._report.anchors} of the anchors is not what was written")
        self._next = None
