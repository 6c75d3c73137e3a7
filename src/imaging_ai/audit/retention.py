"""Taking the oldest events out of the trail, into a file that proves itself, without a gap.

A segment is lines of JSON: where it begins (number and seal of the event before), its events exactly as they were
sealed, and where it ends, sealed as the checkpoint that takes its place in the database. So what is left is verified
from the checkpoint on, and segments one after another up to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import text

from imaging_ai import audit
from imaging_ai.audit.anchor import Anchor
from imaging_ai.audit.event import COLUMNS
from imaging_ai.audit.keys import Keyring
from imaging_ai.audit.trail import pages
from imaging_ai.audit.verify import Report, check, checkpoint_seal, verify
from imaging_ai.db.engine import Database
from imaging_ai.errors import InputError, StorageUnavailable, WrongState

__all__ = ["archive_events", "verify_segment"]

_NAMES = (*COLUMNS, "hash")
_LAST = (
    "SELECT coalesce(min(id) - 1, (SELECT max(id) - 1 FROM audit_event)) FROM audit_event "
    "WHERE at >= :before OR id > (SELECT coalesce(min(sent), 9223372036854775807) FROM audit_feed)"
)
_CHECKPOINT = "INSERT INTO audit_checkpoint (id, hash, key_id, seal) VALUES (:last, :hash, :key_id, :seal)"
_DELETE = "DELETE FROM audit_event WHERE id <= :last"


class _Begin(msgspec.Struct, frozen=True):
    """The event before the segment."""

    begins_after: int
    hash: str


class _End(msgspec.Struct, frozen=True):
    """The last event of the segment, sealed as a checkpoint."""

    last: int
    hash: str
    key_id: str
    seal: str


def archive_events(
    database: Database, keys: Keyring, anchors: Iterable[Anchor | None], before: float, path: Path, *, actor: str
) -> _End | None:
    """Move the events before a time (seconds since the epoch) to a new file; None when there are none.

    Never the newest one, and none that a syslog server is still to get.

    Raises
    ------
    WrongState
        If the trail is not what was written: then it stays as it is.
    StorageUnavailable
        If the file is there already, or cannot be written.
    """
    if not (report := verify(database, keys, anchors)).whole:
        raise WrongState(f"the trail is broken at event {report.broken[0].sequence}; run `imaging-ai audit verify`")
    with database.read() as session:
        last = session.connection().scalar(text(_LAST), {"before": before}) or 0
    if last <= report.begins_after:
        return None
    try:
        end = _write(database, keys, report, last, path)
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be written: {error.strerror}") from error
    if not verify_segment(path, keys).whole:
        raise WrongState(f"{path} is not what was written to it; the trail stays as it is")
    with database.write() as session:
        connection = session.connection()
        connection.execute(text(_CHECKPOINT), msgspec.structs.asdict(end))
        connection.execute(text(_DELETE), {"last": last})
        told = f"{report.begins_after + 1} to {last}, {end.hash}"  # `verify` looks for it
        audit.record(session, "audit.archive", object_type="audit", object_uid="", actor=actor, detail=told)
    return end


def verify_segment(path: Path, keys: Keyring) -> Report:
    """Verify a segment by itself. Raises `InputError` when the file is none."""
    report = Report()
    try:
        with path.open("rb") as file:
            begin = msgspec.json.decode(file.readline(), type=_Begin)
            report.begin(begin.begins_after, begin.hash)
            for line in file:
                told = msgspec.json.decode(line)
                if "seal" in told:
                    _close(msgspec.convert(told, _End), keys, report)
                    return report
                check([told.get(name) for name in _NAMES], keys, report)
    except (OSError, msgspec.MsgspecError, AttributeError) as error:
        raise InputError(f"{path} is no segment of an audit trail ({type(error).__name__})") from None
    report.broke(report.last + 1, "the end of the segment was cut off")
    return report


def _close(end: _End, keys: Keyring, report: Report) -> None:
    key = keys.keys.get(end.key_id)
    sealed = key is not None and checkpoint_seal(key, end.last, end.hash, end.key_id) == end.seal
    if not sealed or (end.last, end.hash) != (report.last, report.hash):
        report.broke(end.last, "the end of the segment is not what was sealed")


def _write(database: Database, keys: Keyring, report: Report, last: int, path: Path) -> _End:
    with path.open("xb") as file:
        file.write(msgspec.json.encode(_Begin(report.begins_after, report.begins_with)) + b"\n")
        for row in _rows(database, report.begins_after, last):
            file.write(msgspec.json.encode(dict(zip(_NAMES, row, strict=True))) + b"\n")
        sealed = checkpoint_seal(keys.key, last, row[-1], keys.current)
        end = _End(last, row[-1], keys.current, sealed)
        file.write(msgspec.json.encode(end) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return end


def _rows(database: Database, after: int, last: int) -> Iterator[Sequence[Any]]:
    for page in pages(database, after):
        for row in page:
            if row[0] > last:
                return
            yield tuple(row)
