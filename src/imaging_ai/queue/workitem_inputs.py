"""Whether the inputs that a work item names are held here, and complete (Input Readiness State, PS3.4 CC.1.1)."""

from __future__ import annotations

from sqlalchemy import Connection, Table, func, select
from sqlmodel import SQLModel

from imaging_ai.queue.workitem_runs import RunRequest

__all__ = ["readiness"]

_STUDY: Table = SQLModel.metadata.tables["study"]
_SERIES: Table = SQLModel.metadata.tables["series"]
_INSTANCE: Table = SQLModel.metadata.tables["instance"]


def readiness(connection: Connection, run: RunRequest) -> str:
    """Return READY, INCOMPLETE (some are here, or more are still coming) or UNAVAILABLE (none is here)."""
    joined = _SERIES.join(_STUDY, _STUDY.c.id == _SERIES.c.study_id)
    held = connection.execute(
        select(_SERIES.c.id, _SERIES.c.state)
        .select_from(joined)
        .where(_STUDY.c.study_instance_uid == run.study_instance_uid)
        .where(_SERIES.c.series_instance_uid.in_(run.series_instance_uids), _SERIES.c.instance_count > 0)
    ).all()
    if not held:
        return "UNAVAILABLE"
    if len(held) < len(run.series_instance_uids) or any(row.state == "RECEIVING" for row in held):
        return "INCOMPLETE"
    found = connection.scalar(
        select(func.count())
        .select_from(_INSTANCE)
        .where(_INSTANCE.c.series_id.in_([row.id for row in held]))
        .where(_INSTANCE.c.sop_instance_uid.in_(run.instances))
    )
    return "READY" if (found or 0) >= len(run.instances) else "INCOMPLETE"
