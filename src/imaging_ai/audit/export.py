"""The trail for others: a line for each event, as a DICOM audit message, as a FHIR AuditEvent, or as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from imaging_ai.audit.context import Source, studies_of
from imaging_ai.audit.dicom import audit_message
from imaging_ai.audit.event import Entry
from imaging_ai.audit.fhir import audit_event
from imaging_ai.audit.search import Search, found_by
from imaging_ai.db.engine import Database

__all__ = ["Format", "export", "rendered"]

Format = Literal["dicom", "fhir", "jsonl"]
_Renderer = Callable[[Entry, Source, str], bytes]


def export(database: Database, search: Search, form: Format, source: Source) -> Iterator[bytes]:
    """Give the events that are found, the oldest first, each as a line."""
    for page in found_by(database, search):
        yield from rendered(database, page, form, source)


def rendered(database: Database, entries: Sequence[Entry], form: Format, source: Source) -> Iterator[bytes]:
    """Give the messages of entries, in their order."""
    render = _RENDERERS[form]
    with database.read() as session:
        studies = studies_of(session.connection(), entries)
    for entry in entries:
        yield render(entry, source, studies.get(entry.sequence, ""))


def _fhir(entry: Entry, source: Source, study_instance_uid: str) -> bytes:
    return msgspec.json.encode(audit_event(entry, source, study_instance_uid))


def _plain(entry: Entry, _source: Source, study_instance_uid: str) -> bytes:
    """Everything that is sealed, exactly, and for people the time and the study."""
    when = datetime.fromtimestamp(entry.event.at, UTC).isoformat(timespec="milliseconds")
    line = {
        "sequence": entry.sequence,
        "time": when,
        **dataclasses.asdict(entry.event),
        "key_id": entry.key_id,
        "hash": entry.hash,
    }
    if study_instance_uid:
        line["study_instance_uid"] = study_instance_uid
    return msgspec.json.encode(line)


_RENDERERS: dict[Format, _Renderer] = {"dicom": audit_message, "fhir": _fhir, "jsonl": _plain}
