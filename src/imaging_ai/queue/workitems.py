"""The work items that clients make and work on: the state machine of PS3.4 CC.1.1, on rows of the database.

Every change is one transaction with its audit event and what it tells subscribers. Of two who claim an item at once,
one gets it: the claim is one conditional update. Items that ask for a model of ours are performed here, as jobs; what
concerns those goes through the ledger.

    SCHEDULED ──claim──▶ IN PROGRESS ──▶ COMPLETED      with the Transaction UID of the claim
        └─ cancel request ─▶ (IN PROGRESS) ─▶ CANCELED ◀─┘
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from imaging_ai import audit
from imaging_ai.core.job import FINAL_STATES, JobState
from imaging_ai.db.engine import Database, after_commit
from imaging_ai.errors import WrongState
from imaging_ai.queue import workitem_rules as rules
from imaging_ai.queue.events import EventType, assigned, cancel_requested, progress_report, record, state_report
from imaging_ai.queue.ledger import Ledger
from imaging_ai.queue.rows import jobs
from imaging_ai.queue.subscriptions import dispatch, has_subscribers
from imaging_ai.queue.workitem_elements import Elements, elements, first, items, said, tag
from imaging_ai.queue.workitem_runs import RunRequest, priority_of
from imaging_ai.queue.workitem_views import WorkItem, find, work_items

__all__ = ["UID_MISSING", "Conflict", "Who", "WorkItems", "cancel_row"]

#: Text of Warning headers (PS3.18 11.6.3.2, 11.7.3.2, 11.8.3.2).
UID_MISSING = "The Transaction UID is missing."
UID_INCORRECT = "The Transaction UID is incorrect."
INCONSISTENT = "The submitted request is inconsistent with the state of the UPS Instance."
INCONSISTENT_UPDATE = "The submitted request is inconsistent with the current state of the Workitem."
NOT_CLAIMED = "The target URI did not reference a claimed Workitem."
ALREADY = "The UPS is already in the requested state of {}."
ALREADY_COMPLETED = "The UPS is already COMPLETED."
NOT_REACHABLE = "The performer cannot be contacted."


class Conflict(WrongState):
    """Raised when a work item is in no state for a request; `warning` is what PS3.18 has the Warning header say."""

    def __init__(self, message: str, warning: str) -> None:
        super().__init__(message)
        self.warning = warning

    def __reduce__(self) -> tuple[type[Conflict], tuple[str, str]]:
        return type(self), (self.message, self.warning)


class Who(msgspec.Struct, frozen=True):
    """Who asks, and from where."""

    actor: str = ""
    origin: str = ""


class WorkItems:
    """The work items of a database. `ae_title` is the station of this server."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        ae_title: str,
        *,
        clock: Callable[[], float] = time.time,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._ae_title = ae_title
        self._clock = clock
        self._on_change = on_change

    def create(self, uid: str, dataset: Elements, run: RunRequest | None, who: Who) -> None:
        """Add a work item; `dataset` has passed `workitem_rules.check_new`.

        Raises
        ------
        WrongState
            If there is, or was, one with this UID.
        """
        now = self._clock()
        dataset = dataset | elements(SOPInstanceUID=uid)
        row = {
            "uid": uid,
            "state": JobState.SCHEDULED.value,
            "transaction_uid": "",
            "created_at": now,
            "updated_at": now,
            **_columns(dataset, run),
        }
        with self._database.write() as session:
            connection = session.connection()
            insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
            added = insert(work_items).values(row).on_conflict_do_nothing(index_elements=["uid"])
            is_job = connection.scalar(select(exists().where(jobs.c.job_uid == uid)))
            if is_job or connection.execute(added.returning(work_items.c.id)).scalar() is None:
                raise WrongState("a work item with this UID exists already")
            readiness = said(dataset, "InputReadinessState")
            record(
                connection,
                uid,
                EventType.STATE_REPORT,
                state_report(JobState.SCHEDULED, readiness),
                created=True,
                now=now,
            )
            if told := assigned(dataset):
                record(connection, uid, EventType.ASSIGNED, told, now=now)
            self._note(session, "workitem.create", uid, who)

    def update(
        self,
        uid: str,
        changes: Elements,
        transaction_uid: str,
        run_of: Callable[[Elements], RunRequest | None],
        who: Who,
    ) -> None:
        """Change attributes; `changes` have passed `workitem_rules.check_update`.

        Raises
        ------
        Conflict
            If the item is final, or claimed under another Transaction UID, or performed by this server.
        """
        with self._database.write() as session:
            connection = session.connection()
            item = find(connection, uid, lock=True)
            if item.row is None or item.job is not None or (item.ours and item.state is not JobState.SCHEDULED):
                raise Conflict("this server performs the work item", INCONSISTENT_UPDATE)
            _check_owner(item, transaction_uid)
            before: Elements = msgspec.json.decode(item.row["dataset"])
            after = before | changes
            run = run_of(after) if item.state is JobState.SCHEDULED else None
            changed = update(work_items).where(work_items.c.uid == uid)
            connection.execute(changed.values(updated_at=self._clock(), **_columns(after, run)))
            self._tell_changes(connection, item, before, after)
            self._note(session, "workitem.update", uid, who)

    def change_state(self, uid: str, state: JobState, transaction_uid: str, who: Who) -> str:
        """Claim, complete or cancel an item for its performer; return the text of a warning, or "".

        Raises
        ------
        Conflict
            If PS3.4 Table CC.1.1-2 has an error there.
        """
        with self._database.write() as session:
            connection = session.connection()
            if state is JobState.IN_PROGRESS:
                self._claim(connection, uid, transaction_uid)
            else:
                warning = self._finish(connection, uid, state, transaction_uid)
                if warning:
                    return warning
            self._note(session, "workitem.state", uid, who, detail=state.value)
        return ""

    def request_cancel(self, uid: str, given: Mapping[str, Any], who: Who) -> str:
        """Cancel an item that waits, or ask its performer to; return the text of a warning, or "".

        Raises
        ------
        Conflict
            If it is completed, or nobody would hear of it.
        """
        reason = said(given, "ReasonForCancellation")
        requesting = said(given, "RequestingAE") or who.actor
        with self._database.write() as session:
            connection = session.connection()
            dispatch(connection, self._ae_title)  # so that it is known who hears of the item
            item = find(connection, uid, lock=True)
            if item.state is JobState.CANCELED:
                return ALREADY.format("CANCELED")
            if item.state is JobState.COMPLETED:
                raise Conflict("the work item is COMPLETED and cannot be canceled any more", ALREADY_COMPLETED)
            if item.job is None:
                self._cancel(connection, item, given, requesting)
                self._note(session, "workitem.cancel-request", uid, who)
                return ""
            job_id = item.job.id
        try:
            self._ledger.cancel(job_id, actor=who.actor, origin=who.origin, reason=reason, given=given)
        except WrongState as error:  # it has ended meanwhile
            raise Conflict(error.message, ALREADY_COMPLETED) from None
        return ""

    def _cancel(self, connection: Connection, item: WorkItem, given: Mapping[str, Any], requesting: str) -> None:
        if item.state is JobState.IN_PROGRESS:
            if not has_subscribers(connection, item.uid, item.created_at):
                raise Conflict("nobody has subscribed to the work item, so its performer would not hear", NOT_REACHABLE)
            record(connection, item.uid, EventType.CANCEL_REQUESTED, cancel_requested(requesting, given))
            return
        reason = said(given, "ReasonForCancellation")
        cancel_row(
            connection,
            item,
            self._clock(),
            reason=reason,
            codes=items(given, "ProcedureStepDiscontinuationReasonCodeSequence"),
        )

    def _claim(self, connection: Connection, uid: str, transaction_uid: str) -> None:
        claimed = (
            update(work_items)
            .where(
                work_items.c.uid == uid,
                work_items.c.state == JobState.SCHEDULED,
                work_items.c.model == "",
                work_items.c.removed_at.is_(None),
            )
            .values(state=JobState.IN_PROGRESS.value, transaction_uid=transaction_uid, updated_at=self._clock())
        )
        if connection.execute(claimed).rowcount:
            item = find(connection, uid)
            record(connection, uid, EventType.STATE_REPORT, state_report(JobState.IN_PROGRESS, item.readiness))
            return
        item = find(connection, uid)
        if item.ours:
            raise Conflict("the work item is assigned to this server, which performs it itself", INCONSISTENT)
        if item.state in FINAL_STATES:
            raise Conflict(f"the work item is {item.state} and may no longer be updated", INCONSISTENT)
        assert item.row is not None
        right = item.row["transaction_uid"] == transaction_uid
        raise Conflict("the work item is already IN PROGRESS", INCONSISTENT if right else UID_INCORRECT)

    def _finish(self, connection: Connection, uid: str, state: JobState, transaction_uid: str) -> str:
        item = find(connection, uid, lock=True)
        if item.ours or item.row is None:
            raise Conflict("this server performs the work item, and ends it itself", INCONSISTENT)
        if item.state is not JobState.SCHEDULED and item.row["transaction_uid"] != transaction_uid:
            raise Conflict("the Transaction UID is not that of the claim", UID_INCORRECT)
        if item.state is state:
            return ALREADY.format(state)
        if item.state is not JobState.IN_PROGRESS:
            raise Conflict(f"the work item is {item.state}, not IN PROGRESS", INCONSISTENT)
        now = self._clock()
        if state is JobState.CANCELED:
            cancel_row(connection, item, now)
            return ""
        try:
            rules.check_final(msgspec.json.decode(item.row["dataset"]))
        except WrongState as error:
            raise Conflict(error.message, INCONSISTENT) from None
        ended = update(work_items).where(work_items.c.uid == uid)
        connection.execute(ended.values(state=state.value, updated_at=now, finished_at=now))
        record(connection, uid, EventType.STATE_REPORT, state_report(state, item.readiness))
        return ""

    @staticmethod
    def _tell_changes(connection: Connection, item: WorkItem, before: Elements, after: Elements) -> None:
        def differs(*keywords: str) -> bool:
            return any(before.get(tag(keyword)) != after.get(tag(keyword)) for keyword in keywords)

        if differs("InputReadinessState"):
            readiness = said(after, "InputReadinessState")
            record(connection, item.uid, EventType.STATE_REPORT, state_report(item.state, readiness))
        if differs("ProcedureStepProgressInformationSequence"):
            progress = first(after, "ProcedureStepProgressInformationSequence") or {}
            record(connection, item.uid, EventType.PROGRESS_REPORT, progress_report(progress))
        if differs("ScheduledStationNameCodeSequence", "ScheduledHumanPerformersSequence"):
            record(connection, item.uid, EventType.ASSIGNED, assigned(after) or {})

    def _note(self, session: Session, action: str, uid: str, who: Who, detail: str = "") -> None:
        audit.record(
            session,
            action,
            object_type="workitem",
            object_uid=uid,
            actor=who.actor,
            origin=who.origin,
            detail=detail,
        )
        if self._on_change is not None:
            after_commit(session, self._on_change)


def cancel_row(
    connection: Connection, item: WorkItem, now: float, *, reason: str = "", codes: list[Elements] | None = None
) -> None:
    """End a row as CANCELED in the caller's transaction: from SCHEDULED by way of IN PROGRESS (PS3.4 CC.2.2.3)."""
    assert item.row is not None
    dataset = rules.canceled(msgspec.json.decode(item.row["dataset"]), now, reason=reason, codes=codes or ())
    if item.state is JobState.SCHEDULED:
        record(connection, item.uid, EventType.STATE_REPORT, state_report(JobState.IN_PROGRESS, item.readiness))
    connection.execute(
        update(work_items)
        .where(work_items.c.uid == item.uid)
        .values(
            state=JobState.CANCELED.value,
            updated_at=now,
            finished_at=now,
            dataset=msgspec.json.encode(dataset).decode(),
        )
    )
    progress = items(dataset, "ProcedureStepProgressInformationSequence")[0]
    told = state_report(
        JobState.CANCELED,
        item.readiness,
        reason=said(progress, "ReasonForCancellation"),
        codes=items(progress, "ProcedureStepDiscontinuationReasonCodeSequence"),
    )
    record(connection, item.uid, EventType.STATE_REPORT, told)


def _check_owner(item: WorkItem, transaction_uid: str) -> None:
    """Raise `Conflict` unless an item may be updated by whoever shows this Transaction UID."""
    assert item.row is not None
    if item.state in FINAL_STATES:
        raise Conflict(f"the work item is {item.state} and may no longer be updated", INCONSISTENT_UPDATE)
    if item.state is JobState.SCHEDULED:
        if transaction_uid:
            raise Conflict("the work item is SCHEDULED: nobody has claimed it, under any Transaction UID", NOT_CLAIMED)
    elif not transaction_uid:
        raise Conflict("the work item is IN PROGRESS: its Transaction UID is needed", UID_MISSING)
    elif item.row["transaction_uid"] != transaction_uid:
        raise Conflict("the Transaction UID is not that of the claim", UID_INCORRECT)


def _columns(dataset: Elements, run: RunRequest | None) -> dict[str, Any]:
    """Return what the database keeps beside the data set, to find it by."""
    return {
        "priority": int(priority_of(dataset)),
        "study_instance_uid": said(dataset, "StudyInstanceUID")[:64],
        "model": run.model if run else "",
        "series_instance_uid": run.series_instance_uids[0] if run else "",
        "dataset": msgspec.json.encode(dataset).decode(),
    }
