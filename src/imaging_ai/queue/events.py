"""What happened to work items, as N-EVENT-REPORT tells it (PS3.4 CC.2.4), written in the transaction of the change.

An event is a row that `subscriptions.dispatch` later turns into one notification for each subscriber. So it is there
exactly when the change is, and no writer waits for another.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, delete, insert

from imaging_ai.core.job import JobState
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import WorkItemEventRow
from imaging_ai.queue.workitem_elements import Elements, elements, items, tag

__all__ = [
    "GLOBAL",
    "EventType",
    "assigned",
    "cancel_requested",
    "message",
    "number_of",
    "outbox",
    "progress_report",
    "prune",
    "record",
    "state_report",
    "status_change",
]

#: UPS Global Subscription SOP Instance (PS3.4 CC.3.2): the worklist as a whole.
GLOBAL = "1.2.840.10008.5.1.4.34.5"

outbox: Table = WorkItemEventRow.metadata.tables["work_item_event"]

_UPS_PUSH = "1.2.840.10008.5.1.4.34.6.1"
_N_EVENT_REPORT_RQ = 0x0100
#: The private block of the event number: (0077,0010) is its creator, (0077,1001) the number, as PS3.5 7.8.1 has it.
_CREATOR, _NUMBER = "00770010", "00771001"
#: An event that nobody handed on, because no web process ran, is forgotten after a week.
_KEEP_SECONDS = 7 * 86_400.0


class EventType(IntEnum):
    """Event Type ID (0000,1002) of PS3.4 Table CC.2.4-1."""

    STATE_REPORT = 1
    CANCEL_REQUESTED = 2
    PROGRESS_REPORT = 3
    SCP_STATUS_CHANGE = 4
    ASSIGNED = 5


# -- what each type tells


def state_report(
    state: JobState | str, readiness: str = "READY", *, reason: str = "", codes: Sequence[Elements] = ()
) -> Elements:
    """A step is in a state now."""
    told = elements(ProcedureStepState=str(state), InputReadinessState=readiness)
    if reason:
        told |= elements(ReasonForCancellation=reason[:10_000])
    if codes:
        told |= elements(ProcedureStepDiscontinuationReasonCodeSequence=list(codes))
    return told


def cancel_requested(requesting_ae: str, given: Mapping[str, Any] | None = None) -> Elements:
    """Somebody wants a step to be canceled: who, and what they gave as reason and contact."""
    told = elements(RequestingAE=requesting_ae[:16] or "UNKNOWN")
    for keyword in (
        "ReasonForCancellation",
        "ProcedureStepDiscontinuationReasonCodeSequence",
        "ContactURI",
        "ContactDisplayName",
    ):
        if (given or {}).get(tag(keyword), {}).get("Value"):
            told[tag(keyword)] = (given or {})[tag(keyword)]
    return told


def progress_report(progress: Mapping[str, Any]) -> Elements:
    """How far a step is: one item of its progress."""
    return elements(ProcedureStepProgressInformationSequence=[dict(progress)])


def assigned(dataset: Mapping[str, Any]) -> Elements | None:
    """Who shall perform a step; None when nobody is named."""
    told: Elements = {}
    stations = tag("ScheduledStationNameCodeSequence")
    if dataset.get(stations, {}).get("Value"):
        told[stations] = dataset[stations]
    for human in items(dataset, "ScheduledHumanPerformersSequence")[:1]:
        for keyword in ("HumanPerformerCodeSequence", "HumanPerformerOrganization"):
            if tag(keyword) in human:
                told[tag(keyword)] = human[tag(keyword)]
    return told or None


def status_change() -> Elements:
    """This server was started again, or had to give events up: nothing of its lists is lost, look at them anew."""
    return elements(
        SCPStatus="RESTARTED", SubscriptionListStatus="WARM START", UnifiedProcedureStepListStatus="WARM START"
    )


# -- writing them down


def record(
    connection: Connection,
    uid: str,
    kind: EventType,
    payload: Mapping[str, Any],
    *,
    created: bool = False,
    now: float | None = None,
) -> None:
    """Add an event to the transaction of the change that it tells of."""
    told = msgspec.json.encode(payload).decode()
    at = time.time() if now is None else now
    connection.execute(insert(outbox).values(at=at, uid=uid, type=int(kind), created=created, payload=told))


def prune(database: Database, now: float | None = None) -> None:
    """Forget events that nobody has handed on for a week."""
    at = time.time() if now is None else now
    with database.write() as session:
        session.connection().execute(delete(outbox).where(outbox.c.at < at - _KEEP_SECONDS))


# -- on the wire


def message(number: int, uid: str, kind: int, payload: str) -> bytes:
    """Make the N-EVENT-REPORT request of an event as PS3.18 11.13 sends it.

    Message ID (0000,0110) has 16 bits: it is the event number modulo 65536. The whole number is in a private attribute.
    """
    told: Elements = msgspec.json.decode(payload)
    head: Elements = elements(
        AffectedSOPClassUID=_UPS_PUSH,
        CommandField=_N_EVENT_REPORT_RQ,
        MessageID=number % 65_536,
        CommandDataSetType=0,
        AffectedSOPInstanceUID=uid,
        EventTypeID=kind,
    )
    private: Elements = {
        _CREATOR: {"vr": "LO", "Value": ["IMAGING-AI"]},
        _NUMBER: {"vr": "UV", "Value": [number]},
    }
    told = head | told | private
    return msgspec.json.encode({key: told[key] for key in sorted(told)})


def number_of(answer: object, sent: Iterable[int]) -> int | None:
    """Return the event number that a client's answer confirms, None when it confirms none of those sent.

    It names the number itself, or answers as N-EVENT-REPORT-RSP does: Message ID Being Responded To (0000,0120). That
    means the oldest of those sent that has it, so that nothing is confirmed too early.
    """
    if not isinstance(answer, dict):
        return None
    for key, modulus in ((_NUMBER, 2**64), ("00000120", 65_536)):
        element = answer.get(key)
        values = element.get("Value") if isinstance(element, dict) else None
        if isinstance(values, list) and values and isinstance(values[0], int):
            return next((number for number in sent if number % modulus == values[0]), None)
    return None
