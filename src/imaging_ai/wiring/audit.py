"""The audit trail and its keys, from the settings."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from imaging_ai import audit
from imaging_ai.audit.anchor import Anchor, anchor, anchors_in
from imaging_ai.audit.context import Source
from imaging_ai.audit.export import Format, export
from imaging_ai.audit.feed import Feed, Keeper
from imaging_ai.audit.keys import Keyring, open_keys
from imaging_ai.audit.retention import archive_events, verify_segment
from imaging_ai.audit.rotation import rotate_key
from imaging_ai.audit.search import Search
from imaging_ai.audit.syslog import Receiver
from imaging_ai.audit.trail import head
from imaging_ai.audit.verify import Report, verify
from imaging_ai.config import Settings
from imaging_ai.db.engine import Database
from imaging_ai.wiring.parts import make_current_database

__all__ = [
    "anchor_audit",
    "archive_audit",
    "export_audit",
    "make_audit_source",
    "make_keeper",
    "rotate_audit_key",
    "verify_audit",
    "verify_audit_segments",
]


def make_audit_source(settings: Settings) -> Source:
    """Say who reports events to others."""
    return Source(settings.dicom.ae_title, socket.gethostname())


def make_keeper(settings: Settings, database: Database, owner: str) -> Keeper:
    """Build what anchors the trail and feeds it to a syslog server; `owner` names this process."""
    options, feed = settings.audit, None
    if options.syslog:
        receiver = Receiver.parse(options.syslog, options.syslog_ca_file, options.syslog_certificate)
        feed = Feed(database, receiver, make_audit_source(settings), owner)
    return Keeper(database, settings.audit_anchor_path, feed)


def export_audit(settings: Settings, search: Search, form: Format, *, actor: str) -> Iterator[bytes]:
    """Give the events that are found, each as a line; that they were exported is an event itself, and the first."""
    database = make_current_database(settings)
    with database.write() as session:
        audit.record(session, "audit.export", object_type="audit", object_uid="", actor=actor, detail=form)
    return export(database, search, form, make_audit_source(settings))


def verify_audit(settings: Settings, path: Path | None = None, *, anchored: bool = True) -> Report:
    """Verify the trail, and its end against the anchors of a file (that of the settings)."""
    database, keys = make_current_database(settings), open_keys(settings.audit_key_path)
    path = path or settings.audit_anchor_path
    anchors: Iterable[Anchor | None] = ()
    if anchored and (path.exists() or head(database) is not None):  # a trail without events may have had some
        anchors = anchors_in(path)
    return verify(database, keys, anchors)


def verify_audit_segments(settings: Settings, paths: Sequence[Path]) -> list[Report]:
    """Verify segments that were taken out of the trail, one after another: each begins where the last one ended."""
    keys = open_keys(settings.audit_key_path)
    reports = [verify_segment(path, keys) for path in paths]
    for before, report in pairwise(reports):
        if (before.last, before.hash) != (report.begins_after, report.begins_with):
            report.broke(
                report.begins_after + 1, f"the segment does not begin where the one before ended: {before.last}"
            )
    return reports


def archive_audit(settings: Settings, before: float, path: Path, *, actor: str) -> int:
    """Move the events before a time to a file; return the number of the last, 0 when there are none."""
    database, keys = make_current_database(settings), open_keys(settings.audit_key_path)
    anchor(database, settings.audit_anchor_path)
    done = archive_events(database, keys, anchors_in(settings.audit_anchor_path), before, path, actor=actor)
    return done.last if done else 0


def anchor_audit(settings: Settings, path: Path | None = None) -> Anchor | None:
    """Note the end of the trail in a file (that of the settings)."""
    return anchor(make_current_database(settings), path or settings.audit_anchor_path)


def rotate_audit_key(settings: Settings, *, actor: str) -> Keyring:
    """Add a new key to the key file, and have it seal from now on."""
    return rotate_key(make_current_database(settings), settings.audit_key_path, actor=actor)
