"""The statements by which deliveries are claimed: which are due, whose turn it is, and what they carry."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    RowMapping,
    Select,
    and_,
    exists,
    func,
    or_,
    select,
    tuple_,
    union_all,
    update,
)
from sqlmodel import SQLModel

from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import StoredInstance
from imaging_ai.core.job import DeliveryState, Priority
from imaging_ai.db.tables import DeliveryRow

__all__ = ["OPEN_STATES", "Batch", "Item", "claim_batch", "held", "is_due"]

OPEN_STATES = (DeliveryState.WAITING.value, DeliveryState.SENT.value)

#: Whether a row may be chosen is looked up only for those whose turn it may be: far more than are ever under way.
_CANDIDATES = 500

_tables = SQLModel.metadata.tables
_delivery = _tables[str(DeliveryRow.__tablename__)]


@dataclass(frozen=True, slots=True)
class Item:
    """One claimed delivery; `instance` is None when the archive holds it no more."""

    delivery_id: int
    attempt: int
    kind: str  # SEG | SR | PM | SC | KO
    sop_instance_uid: str
    instance: StoredInstance | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What was claimed: deliveries of one job to one destination."""

    job_id: int
    destination: str
    owner: str
    items: tuple[Item, ...]


def claim_batch(
    connection: Connection,
    owner: str,
    *,
    now: float,
    lease_until: float,
    destinations: Collection[str] | None,
    after: str,
) -> Batch | None:
    """Take all due deliveries of one job to one destination, in one statement."""
    if destinations is not None and not destinations:
        return None
    head = _head(now, destinations, after).cte("head")
    rows = connection.execute(
        update(_delivery)
        .where(
            _still_due(now),
            tuple_(_delivery.c.job_id, _delivery.c.destination).in_(select(head.c.job_id, head.c.destination)),
        )
        .values(
            state=DeliveryState.SENDING.value,
            attempts=_delivery.c.attempts + 1,
            lease_owner=owner,
            lease_until=lease_until,
        )
        .returning(_delivery.c.id, _delivery.c.job_id, _delivery.c.destination)
    ).all()
    if not rows:
        return None
    items = connection.execute(_items([row.id for row in rows])).mappings()
    return Batch(rows[0].job_id, rows[0].destination, owner, tuple(_item(row) for row in items))


def held(batch: Batch) -> ColumnElement[bool]:
    """The rows of a batch that are still its owner's, at the attempt that it claimed."""
    attempts = [(item.delivery_id, item.attempt) for item in batch.items]
    return and_(
        _delivery.c.state == DeliveryState.SENDING.value,
        _delivery.c.lease_owner == batch.owner,
        tuple_(_delivery.c.id, _delivery.c.attempts).in_(attempts),
    )


def is_due(now: float, table: Any = _delivery) -> ColumnElement[bool]:
    """Deliveries that somebody should try now."""
    return and_(table.c.state.in_(OPEN_STATES), table.c.next_attempt_at <= now)


def _still_due(now: float, table: Any = _delivery) -> ColumnElement[bool]:
    """Say the same of rows found otherwise: no column alone, so that the index of all that is due is left aside."""
    return and_(func.coalesce(table.c.state, "").in_(OPEN_STATES), table.c.next_attempt_at + 0.0 <= now)


def _head(now: float, destinations: Collection[str] | None, after: str) -> Select[Any]:
    """Choose one due row; its job and destination are what is claimed.

    Only the first due row of a job and destination may be chosen, so that locking it (PostgreSQL) locks them all.
    """
    other = _delivery.alias("other")
    there = func.coalesce(other.c.destination, "")  # no column alone, so that the index of the job is taken
    same = and_(other.c.job_id == _delivery.c.job_id, there == _delivery.c.destination)
    blocked = or_(
        and_(_still_due(now, other), other.c.id < _delivery.c.id),
        other.c.state == DeliveryState.SENDING.value,
    )
    turn = (
        _delivery.c.destination <= after,
        _delivery.c.destination,
        _delivery.c.priority.desc(),
        _delivery.c.next_attempt_at,
        _delivery.c.id,
    )
    if destinations is None:
        first: Any = select(_delivery.c.id).where(is_due(now)).order_by(*turn).limit(_CANDIDATES)
    else:
        first = _candidates(now, destinations)
    return (
        select(_delivery.c.job_id, _delivery.c.destination)
        .where(_delivery.c.id.in_(first), _still_due(now), ~exists().where(same, blocked))
        .order_by(*turn)
        .limit(1)
        .with_for_update(skip_locked=True, of=_delivery)
    )


def _candidates(now: float, destinations: Collection[str]) -> CompoundSelect[Any]:
    """Return the rows that wait longest, of each destination, state and priority: each the beginning of an index."""
    kinds = product(sorted(destinations), OPEN_STATES, Priority)
    parts = [
        select(_delivery.c.id)
        .where(
            _delivery.c.destination == destination,
            _delivery.c.state == state,
            _delivery.c.priority == int(priority),
            _delivery.c.next_attempt_at <= now,
        )
        .order_by(_delivery.c.next_attempt_at)
        .limit(_CANDIDATES)
        for destination, state, priority in kinds
    ]
    return union_all(*(select(part.subquery().c.id) for part in parts))


def _items(ids: Sequence[int]) -> Select[Any]:
    instance = _tables["instance"]
    series = _tables["series"]
    study = _tables["study"]
    result = _tables["result"]
    return (
        select(
            _delivery.c.id,
            _delivery.c.attempts,
            _delivery.c.sop_instance_uid,
            result.c.kind,
            instance.c.sop_class_uid,
            instance.c.transfer_syntax_uid,
            instance.c.instance_number,
            instance.c.blob_key,
            instance.c.blob_offset,
            instance.c.blob_length,
            series.c.series_instance_uid,
            study.c.study_instance_uid,
        )
        .select_from(_delivery)
        .outerjoin(result, result.c.sop_instance_uid == _delivery.c.sop_instance_uid)
        .outerjoin(instance, instance.c.sop_instance_uid == _delivery.c.sop_instance_uid)
        .outerjoin(series, series.c.id == instance.c.series_id)
        .outerjoin(study, study.c.id == series.c.study_id)
        .where(_delivery.c.id.in_(ids))
        .order_by(_delivery.c.id)
    )


def _item(row: RowMapping) -> Item:
    instance = None
    if row["blob_key"] is not None:
        instance = StoredInstance(
            sop_instance_uid=row["sop_instance_uid"],
            sop_class_uid=row["sop_class_uid"],
            transfer_syntax_uid=row["transfer_syntax_uid"],
            study_instance_uid=row["study_instance_uid"],
            series_instance_uid=row["series_instance_uid"],
            instance_number=row["instance_number"],
            blob=BlobRef(row["blob_key"], row["blob_offset"], row["blob_length"]),
        )
    return Item(row["id"], row["attempts"], row["kind"] or "", row["sop_instance_uid"], instance)
