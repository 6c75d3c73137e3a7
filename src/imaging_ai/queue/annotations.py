"""What is learnt of a job after it ended: further entries of its provenance."""

from __future__ import annotations

import msgspec
from sqlalchemy import Table, select, update
from sqlmodel import SQLModel

from imaging_ai.db.engine import Database
from imaging_ai.errors import NotFound

__all__ = ["annotate"]

jobs: Table = SQLModel.metadata.tables["job"]


def annotate(database: Database, job_id: int, key: str, value: object) -> None:
    """Add an entry to the provenance of a job, or replace it.

    Raises
    ------
    NotFound
        If there is no such job.
    """
    with database.write() as session:
        connection = session.connection()
        known = select(jobs.c.provenance).where(jobs.c.id == job_id).with_for_update()
        text = connection.execute(known).scalar_one_or_none()
        if text is None:
            raise NotFound(f"no job {job_id}")
        provenance: dict[str, object] = msgspec.json.decode(text or "{}")
        added = msgspec.json.encode({**provenance, key: value}).decode()
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(provenance=added))
