"""Registering the objects that a job produced, in the transaction that completes the job."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import Connection, insert, select, update
from sqlmodel import Session

from imaging_ai.archive.find import INSTANCE, SERIES, STUDY, stored
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import InstanceHeader, StoredInstance
from imaging_ai.core.names import name_key
from imaging_ai.core.order import day_key
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import ResultRow
from imaging_ai.errors import ResultInvalid

__all__ = ["register", "registered"]

_RESULT = ResultRow.metadata.tables["result"]


def register(session: Session, job_id: int, objects: Sequence[tuple[str, BlobRef, InstanceHeader]]) -> None:
    """Add instance and result rows; series of results are settled from the start, so that no rule sees them.

    Raises
    ------
    ResultInvalid
        If an object is of a series that was received: a model could have been made to lie.
    """
    connection, now = session.connection(), time.time()
    for kind, blob, header in objects:
        series_id = _series_id(connection, _study_id(connection, header, now), header, now)
        connection.execute(
            insert(INSTANCE).values(
                {column: getattr(header, column) for column in INSTANCE.c.keys() if hasattr(header, column)}  # noqa: SIM118
                | {"series_id": series_id, "received_at": now}
                | {"blob_key": blob.key, "blob_offset": blob.offset, "blob_length": blob.length}
            )
        )
        connection.execute(
            insert(_RESULT).values(
                job_id=job_id,
                kind=kind,
                sop_instance_uid=header.sop_instance_uid,
                sop_class_uid=header.sop_class_uid,
                created_at=now,
            )
        )
        connection.execute(
            update(SERIES).where(SERIES.c.id == series_id).values(instance_count=SERIES.c.instance_count + 1)
        )


def registered(database: Database, job_id: int) -> tuple[StoredInstance, ...]:
    """Return the objects that a job produced, in the order they were registered."""
    query = (
        select(INSTANCE, SERIES.c.series_instance_uid, STUDY.c.study_instance_uid)
        .select_from(INSTANCE.join(SERIES, SERIES.c.id == INSTANCE.c.series_id).join(STUDY))
        .join(_RESULT, _RESULT.c.sop_instance_uid == INSTANCE.c.sop_instance_uid)
        .where(_RESULT.c.job_id == job_id)
        .order_by(_RESULT.c.id)
    )
    with database.read() as session:
        return tuple(stored(row) for row in session.connection().execute(query))


def _study_id(connection: Connection, header: InstanceHeader, now: float) -> int:
    uid = header.study_instance_uid
    found = connection.scalar(select(STUDY.c.id).where(STUDY.c.study_instance_uid == uid))
    if found is None:
        values = {column: getattr(header, column) for column in STUDY.c.keys() if hasattr(header, column)}  # noqa: SIM118
        values |= {"created_at": now, "updated_at": now, "patient_name_key": name_key(header.patient_name)}
        values |= {"referring_physician_name_key": name_key(header.referring_physician_name)}
        found = connection.scalar(insert(STUDY).values(values).returning(STUDY.c.id))
        day = day_key(header.study_date)
        connection.execute(update(STUDY).where(STUDY.c.id == found).values(sort_key=STUDY.c.id + day))
    assert found is not None
    return int(found)


def _series_id(connection: Connection, study_id: int, header: InstanceHeader, now: float) -> int:
    there = connection.execute(
        select(SERIES.c.id, SERIES.c.origin).where(
            SERIES.c.study_id == study_id, SERIES.c.series_instance_uid == header.series_instance_uid
        )
    ).one_or_none()
    if there is not None and there.origin != "result":
        raise ResultInvalid("a result is of a series that was received")
    found = there and there.id
    if found is None:
        values = {column: getattr(header, column) for column in SERIES.c.keys() if hasattr(header, column)}  # noqa: SIM118
        values |= {"study_id": study_id, "origin": "result", "source": "", "state": "SETTLED", "revision": 1}
        values |= {"instance_count": 0, "created_at": now, "last_received_at": now, "settle_at": now}
        values |= {"study_sort_key": select(STUDY.c.sort_key).where(STUDY.c.id == study_id).scalar_subquery()}
        found = connection.scalar(insert(SERIES).values(values).returning(SERIES.c.id))
    assert found is not None
    return int(found)
