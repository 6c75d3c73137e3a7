"""The ledger of deliveries: one row for each result and destination, from scheduled to confirmed.

WAITING ──claim──▶ SENDING ──▶ CONFIRMED     seen at the destination
   ▲ ▲                │ ├────▶ SENT          the destination said success; looked for again while it can be asked
   │ └── passing ─────┘ └────▶ DEAD          refused for good, or out of attempts
   └──────────── replay by hand ─────┘

All due rows of one job and destination are claimed in one statement, so that they share an association and keep their
order, and no other sender may claim more of that job and destination meanwhile. A claim is a lease; what a sender
does after it was lost is ignored, because each row remembers which attempt it is at.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel

from imaging_ai import audit
from imaging_ai.core.job import DeliveryState
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import DeliveryRow
from imaging_ai.errors import NotFound
from imaging_ai.metrics import DELIVERIES
from imaging_ai.send.claims import OPEN_STATES, Batch, Item, claim_batch, held, is_due

__all__ = ["NEVER", "Batch", "Deliveries", "Delivery", "Item", "Settlement"]

#: `next_attempt_at` of what will not be tried again by itself.
NEVER = math.inf

_TABLE, _JOB = SQLModel.metadata.tables[str(DeliveryRow.__tablename__)], SQLModel.metadata.tables["job"]
_AUDITED: dict[DeliveryState, audit.Outcome] = {
    DeliveryState.CONFIRMED: "success",
    DeliveryState.SENT: "success",
    DeliveryState.DEAD: "refused",
    DeliveryState.WAITING: "failure",
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One row of the ledger. `next_attempt_at` is None when nothing more happens by itself."""

    id: int
    job_id: int
    sop_instance_uid: str
    destination: str
    state: DeliveryState
    attempts: int
    next_attempt_at: float | None
    reason: str
    sent_at: float | None
    confirmed_at: float | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a claimed delivery. `was_sent` when the destination said success in this attempt.

    `said` are the destination's own words: kept in the row, and nowhere else.
    """

    state: DeliveryState
    reason: str = ""
    next_attempt_at: float = NEVER
    was_sent: bool = False
    said: str = ""


class Deliveries:
    """The deliveries in a database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def schedule(
        self, session: Session, job_id: int, sop_instance_uids: Iterable[str], destinations: Iterable[str]
    ) -> None:
        """Add what is not there yet to the caller's transaction, due at once."""
        now = time.time()
        names = tuple(dict.fromkeys(destinations))
        priority = session.connection().scalar(select(_JOB.c.priority).where(_JOB.c.id == job_id))
        rows = [
            {
                "job_id": job_id,
                "sop_instance_uid": uid,
                "destination": name,
                "priority": priority,
                "state": DeliveryState.WAITING.value,
                "attempts": 0,
                "next_attempt_at": now,
                "lease_owner": "",
                "reason": "",
            }
            for uid in sop_instance_uids
            for name in names
        ]
        if rows:
            insert = sqlite.insert if session.connection().dialect.name == "sqlite" else postgresql.insert
            session.connection().execute(insert(_TABLE).on_conflict_do_nothing(), rows)

    def claim(
        self, owner: str, lease_seconds: float, *, destinations: Collection[str] | None = None, after: str = ""
    ) -> Batch | None:
        """Take all due deliveries of one job to one of `destinations` (None: any), or None when nothing is due.

        Destinations take turns: the next one after `after` in the alphabet goes first. Of one destination, the job
        of higher priority goes first, then the one that waits longest.
        """
        now = time.time()
        with self.database.write() as session:
            return claim_batch(
                session.connection(),
                owner,
                now=now,
                lease_until=now + lease_seconds,
                destinations=destinations,
                after=after,
            )

    def renew(self, batch: Batch, lease_seconds: float) -> bool:
        """Extend the lease; False when any of the batch is no longer its owner's."""
        with self.database.write() as session:
            renewed = session.connection().execute(
                update(_TABLE).where(held(batch)).values(lease_until=time.time() + lease_seconds)
            )
            return int(renewed.rowcount) == len(batch.items)

    def settle(self, batch: Batch, settlements: Mapping[int, Settlement]) -> int:
        """Write down what became of a batch, with its audit events; return how many rows were still ours."""
        now = time.time()
        settled = 0
        with self.database.write() as session:
            for item in batch.items:
                settlement = settlements[item.delivery_id]
                values: dict[str, Any] = {
                    "state": settlement.state.value,
                    "reason": f"{settlement.reason} ({settlement.said})" if settlement.said else settlement.reason,
                    "next_attempt_at": settlement.next_attempt_at,
                    "lease_owner": "",
                    "lease_until": None,
                }
                if settlement.was_sent:
                    values["sent_at"] = now
                if settlement.state is DeliveryState.CONFIRMED:
                    values["confirmed_at"] = now
                result = session.connection().execute(
                    update(_TABLE).where(held(batch), _TABLE.c.id == item.delivery_id).values(**values)
                )
                if result.rowcount != 1:
                    continue  # the lease was lost: another sender answers for it
                settled += 1
                audit.record(
                    session,
                    "send",
                    object_type="instance",
                    object_uid=item.sop_instance_uid,
                    actor=batch.owner,
                    origin=batch.destination,
                    outcome=_AUDITED[settlement.state],
                    detail=settlement.reason,
                )
        for settlement in settlements.values():
            DELIVERIES.labels(batch.destination, settlement.state.value.lower()).inc()
        return settled

    def sweep(self, now: float | None = None) -> int:
        """Free what lost senders had claimed; return how many deliveries are due."""
        now = time.time() if now is None else now
        lost = and_(_TABLE.c.state == DeliveryState.SENDING.value, _TABLE.c.lease_until < now)
        self._free(lost)
        with self.database.read() as session:
            return int(session.connection().execute(select(func.count()).where(is_due(now))).scalar_one())

    def release(self, owner: str) -> int:
        """Free what a sender that is known to be dead had claimed; return how many deliveries."""
        mine = and_(_TABLE.c.state == DeliveryState.SENDING.value, _TABLE.c.lease_owner == owner)
        return self._free(mine)

    def _free(self, condition: ColumnElement[bool]) -> int:
        with self.database.read() as session:
            if not session.connection().execute(select(exists().where(condition))).scalar_one():
                return 0
        with self.database.write() as session:
            freed = session.connection().execute(
                update(_TABLE)
                .where(condition)
                .values(
                    state=DeliveryState.WAITING.value,
                    lease_owner="",
                    lease_until=None,
                    reason="the sender was lost in mid-delivery",
                )
            )
            return int(freed.rowcount)

    def replay(
        self,
        *,
        delivery_id: int | None = None,
        job_id: int | None = None,
        destination: str | None = None,
        actor: str = "",
    ) -> int:
        """Begin again, as if never tried; return how many.

        One delivery by its id, and those of one job, whatever became of them; of a whole destination (or of
        everything) the dead ones only. What is being sent just now stays untouched.
        """
        conditions = _selected(delivery_id, job_id, destination)
        states = [DeliveryState.DEAD.value]
        if delivery_id is not None or job_id is not None:
            states += [DeliveryState.WAITING.value, DeliveryState.SENT.value, DeliveryState.CONFIRMED.value]
        with self.database.write() as session:
            rows = session.connection().execute(
                update(_TABLE)
                .where(_TABLE.c.state.in_(states), *conditions)
                .values(
                    state=DeliveryState.WAITING.value,
                    attempts=0,
                    next_attempt_at=time.time(),
                    reason="",
                    sent_at=None,
                    confirmed_at=None,
                )
                .returning(_TABLE.c.sop_instance_uid, _TABLE.c.destination)
            )
            replayed = rows.all()
            for row in replayed:
                audit.record(
                    session,
                    "replay",
                    object_type="instance",
                    object_uid=row.sop_instance_uid,
                    actor=actor,
                    origin=row.destination,
                )
            return len(replayed)

    def find(
        self,
        *,
        job_id: int | None = None,
        destination: str | None = None,
        states: Collection[DeliveryState] = (),
        limit: int = 1000,
    ) -> list[Delivery]:
        """List deliveries, the newest first."""
        query = select(_TABLE).where(*_selected(None, job_id, destination)).order_by(_TABLE.c.id.desc()).limit(limit)
        if states:
            query = query.where(_TABLE.c.state.in_([state.value for state in states]))
        with self.database.read() as session:
            return [_delivery(row) for row in session.connection().execute(query).mappings()]

    def get(self, delivery_id: int) -> Delivery:
        """Return one delivery; `NotFound` when there is none of that id."""
        with self.database.read() as session:
            row = session.connection().execute(select(_TABLE).where(_TABLE.c.id == delivery_id)).mappings().first()
        if row is None:
            raise NotFound(f"there is no delivery {delivery_id}")
        return _delivery(row)

    def counts(self) -> dict[tuple[str, DeliveryState], int]:
        """Return how many deliveries each destination has in each state."""
        query = select(_TABLE.c.destination, _TABLE.c.state, func.count()).group_by(
            _TABLE.c.destination, _TABLE.c.state
        )
        with self.database.read() as session:
            return {(row[0], DeliveryState(row[1])): int(row[2]) for row in session.connection().execute(query)}


def _delivery(row: RowMapping) -> Delivery:
    is_open = row["state"] in OPEN_STATES and row["next_attempt_at"] < NEVER
    return Delivery(
        id=row["id"],
        job_id=row["job_id"],
        sop_instance_uid=row["sop_instance_uid"],
        destination=row["destination"],
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        next_attempt_at=row["next_attempt_at"] if is_open else None,
        reason=row["reason"],
        sent_at=row["sent_at"],
        confirmed_at=row["confirmed_at"],
    )


def _selected(delivery_id: int | None, job_id: int | None, destination: str | None) -> list[ColumnElement[bool]]:
    wanted = ((_TABLE.c.id, delivery_id), (_TABLE.c.job_id, job_id), (_TABLE.c.destination, destination))
    return [column == value for column, value in wanted if value is not None]
