"""Deleting instances: out of the index in one transaction, then out of the storage.

A row of what was deleted stays (`deleted_instance`): by it a later request is told that this was here once (410), bytes
that a crash leaves behind are removed when somebody looks next, and recovery knows that they are not to be indexed
again. Stored again, an instance is there again.

With instances go their documents, what they replaced, and series and studies that become empty. Deliveries that had not
begun end; what was sent stays told as sent. Findings go with the last object of their job.

On PostgreSQL instances may arrive meanwhile. Inserting one holds its series by the foreign key; so series are locked
first, in the order in which a batch of arrivals takes them, and whoever comes after finds none and makes it anew.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Table, and_, case, delete, exists, insert, literal, select, update
from sqlmodel import Session

from imaging_ai.archive.blobs import BlobStore
from imaging_ai.archive.find import DELETED, INSTANCE, REPLACED, SERIES, STUDY
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.job import DeliveryState
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import DeliveryRow, EvaluationRow, FindingRow, InstanceDocumentRow, ResultRow
from imaging_ai.errors import UnavailableError

__all__ = ["delete_instances", "lock_series", "remove_deleted", "was_deleted"]

_log = logging.getLogger(__name__)

_tables = InstanceDocumentRow.metadata.tables
_DOCUMENT: Table = _tables[str(InstanceDocumentRow.__tablename__)]
_DELIVERY: Table = _tables[str(DeliveryRow.__tablename__)]
_RESULT: Table = _tables[str(ResultRow.__tablename__)]
_EVALUATION: Table = _tables[str(EvaluationRow.__tablename__)]
_FINDING: Table = _tables[str(FindingRow.__tablename__)]
_AT_ONCE = 500


def was_deleted(session: Session, study: str, series: str | None = None, instance: str | None = None) -> bool:
    """Say whether anything at a place was deleted."""
    wanted = {"study_instance_uid": study, "series_instance_uid": series, "sop_instance_uid": instance}
    there = and_(*(DELETED.c[name] == uid for name, uid in wanted.items() if uid is not None))
    return bool(session.connection().scalar(select(exists().where(there))))


def lock_series(session: Session, study: str, series: str | None = None) -> None:
    """Keep others from adding to the series of a study (or to one of them) until the transaction ends."""
    query = (
        select(SERIES.c.id)
        .join(STUDY, STUDY.c.id == SERIES.c.study_id)
        .where(STUDY.c.study_instance_uid == study)
        .order_by(SERIES.c.series_instance_uid)
        .with_for_update(of=SERIES)
    )
    if series is not None:
        query = query.where(SERIES.c.series_instance_uid == series)
    connection = session.connection()
    connection.execute(query).all()
    connection.execute(select(STUDY.c.id).where(STUDY.c.study_instance_uid == study).with_for_update()).all()


def delete_instances(session: Session, sop_instance_uids: Collection[str]) -> int:
    """Delete instances from the index, in the caller's transaction; return how many there were."""
    connection, now = session.connection(), time.time()
    left: Counter[int] = Counter()
    for some in _chunks(sorted(sop_instance_uids)):
        rows = connection.execute(
            select(INSTANCE.c.id, INSTANCE.c.sop_instance_uid, INSTANCE.c.series_id).where(
                INSTANCE.c.sop_instance_uid.in_(some)
            )
        ).all()
        uids = [row.sop_instance_uid for row in rows]
        _remember(connection, uids, now)
        _end_deliveries(connection, uids)
        _forget_findings(connection, uids)
        connection.execute(delete(_DOCUMENT).where(_DOCUMENT.c.instance_id.in_([row.id for row in rows])))
        connection.execute(delete(REPLACED).where(REPLACED.c.sop_instance_uid.in_(uids)))
        connection.execute(delete(INSTANCE).where(INSTANCE.c.id.in_([row.id for row in rows])))
        left.update(row.series_id for row in rows)
    _tidy(connection, left)
    return left.total()


def remove_deleted(database: Database, store: BlobStore, flush: Callable[[], None] = lambda: None) -> int:
    """Remove the bytes of what was deleted from the storage, and return of how many; what cannot be is tried again.

    Safe while others do the same, and at any time after the deletion. `flush` makes durable that nothing names them.
    """
    removed = 0
    while some := _left(database):
        if not removed:
            flush()
        done = []
        try:
            for row_id, blob in some:
                store.delete(blob)
                done.append(row_id)
        except UnavailableError as error:
            _log.warning("bytes of deleted instances are still to be removed: %s", error)
        with database.write() as session:
            session.connection().execute(update(DELETED).where(DELETED.c.id.in_(done)).values(removed_at=time.time()))
        removed += len(done)
        if len(done) < len(some):
            break
    return removed


def _left(database: Database) -> Sequence[tuple[int, BlobRef]]:
    """Return what is due: bytes that were only moved stay a while for who reads them (`conversion`)."""
    due = DELETED.c.removed_at.is_(None), DELETED.c.deleted_at <= time.time()
    query = select(DELETED).where(*due).order_by(DELETED.c.id).limit(_AT_ONCE)
    with database.read() as session:
        rows = session.connection().execute(query).all()
    return [(row.id, BlobRef(row.blob_key, row.blob_offset, row.blob_length)) for row in rows]


def _remember(connection: Connection, uids: Sequence[str], now: float) -> None:
    """Note places and bytes, those of contents that were replaced too."""
    names = ["study_instance_uid", "series_instance_uid", "sop_instance_uid"]
    names += ["blob_key", "blob_offset", "blob_length", "deleted_at"]
    for source in (INSTANCE, REPLACED):
        columns = (source.c.sop_instance_uid, source.c.blob_key, source.c.blob_offset, source.c.blob_length)
        joined = INSTANCE.join(SERIES, SERIES.c.id == INSTANCE.c.series_id).join(STUDY, STUDY.c.id == SERIES.c.study_id)
        if source is REPLACED:
            joined = joined.join(REPLACED, REPLACED.c.sop_instance_uid == INSTANCE.c.sop_instance_uid)
        found = (
            select(STUDY.c.study_instance_uid, SERIES.c.series_instance_uid, *columns, literal(now))
            .select_from(joined)
            .where(INSTANCE.c.sop_instance_uid.in_(uids))
        )
        connection.execute(insert(DELETED).from_select(names, found))


def _end_deliveries(connection: Connection, uids: Sequence[str]) -> None:
    """End what has not begun. What is being sent just now is settled by its sender."""
    waiting, sent = DeliveryState.WAITING.value, DeliveryState.SENT.value
    connection.execute(
        update(_DELIVERY)
        .where(_DELIVERY.c.sop_instance_uid.in_(uids), _DELIVERY.c.state.in_([waiting, sent]))
        .values(
            state=case((_DELIVERY.c.state == waiting, DeliveryState.DEAD.value), else_=sent),
            reason="the instance was deleted",
            next_attempt_at=math.inf,
        )
    )


def _forget_findings(connection: Connection, uids: Sequence[str]) -> None:
    """Remove the findings and evaluations of jobs of which no object will be left."""
    jobs = select(_RESULT.c.job_id).where(_RESULT.c.sop_instance_uid.in_(uids))
    kept = (
        select(_RESULT.c.job_id)
        .join(INSTANCE, INSTANCE.c.sop_instance_uid == _RESULT.c.sop_instance_uid)
        .where(_RESULT.c.sop_instance_uid.not_in(uids))
    )
    for said in (_FINDING, _EVALUATION):
        connection.execute(delete(said).where(said.c.job_id.in_(jobs), said.c.job_id.not_in(kept)))


def _tidy(connection: Connection, gone: Counter[int]) -> None:
    """Count anew, and remove series and studies that are empty now."""
    studies: set[int] = set()
    for series_id, number in sorted(gone.items()):
        counted = (
            update(SERIES)
            .where(SERIES.c.id == series_id)
            .values(instance_count=SERIES.c.instance_count - number)
            .returning(SERIES.c.study_id)
        )
        studies.add(connection.execute(counted).scalar_one())
    for some in _chunks(sorted(gone)):
        empty = ~exists().where(INSTANCE.c.series_id == SERIES.c.id)
        connection.execute(delete(SERIES).where(SERIES.c.id.in_(some), empty))
    childless = ~exists().where(SERIES.c.study_id == STUDY.c.id)
    connection.execute(delete(STUDY).where(STUDY.c.id.in_(sorted(studies)), childless))


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]
