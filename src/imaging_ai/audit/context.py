"""What the messages of an event say beyond its row: who reports it, and of which study it is.

The trail names series, instances, jobs and work items by their UIDs alone; others want the study. It is looked up when
a message is made, and left out where it is no longer known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from imaging_ai.audit.event import Entry
from imaging_ai.db.tables import JobRow

__all__ = ["IMAGES", "Source", "studies_of"]

_tables = JobRow.metadata.tables

#: Types of objects that are part of a study.
IMAGES = frozenset({"study", "series", "instance"})


@dataclass(frozen=True, slots=True)
class Source:
    """Who reports events: the AE title of this installation, and the host that it runs on."""

    ae_title: str
    host: str


def studies_of(connection: Connection, entries: Sequence[Entry]) -> dict[int, str]:
    """Return the Study Instance UID of each entry that is known to be of a study, by its number."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        wanted[entry.event.object_type].add(entry.event.object_uid)
    found = {("study", uid): uid for uid in wanted["study"]}
    study, series, instance, job = (_tables[name] for name in ("study", "series", "instance", "job"))
    of_study = series.join(study, series.c.study_id == study.c.id)
    within = instance.join(of_study, instance.c.series_id == series.c.id)
    for kind, uid, of, rows in (
        ("series", series.c.series_instance_uid, study.c.study_instance_uid, of_study),
        ("instance", instance.c.sop_instance_uid, study.c.study_instance_uid, within),
        ("job", job.c.job_uid, job.c.study_instance_uid, job),
        ("workitem", job.c.job_uid, job.c.study_instance_uid, job),
    ):
        if names := wanted[kind] - {""}:
            query = select(uid, of).select_from(rows).where(uid.in_(names))
            found.update({(kind, name): told for name, told in connection.execute(query)})
    keys = {entry.sequence: (entry.event.object_type, entry.event.object_uid) for entry in entries}
    return {sequence: found[key] for sequence, key in keys.items() if found.get(key)}
