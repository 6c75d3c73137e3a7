"""`/api/audit` and `/fhir/AuditEvent`: the trail, for auditors. Whoever searches it is in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, get
from litestar.params import Parameter

from imaging_ai import audit
from imaging_ai.audit.actions import declared
from imaging_ai.audit.context import Source, studies_of
from imaging_ai.audit.event import Entry
from imaging_ai.audit.fhir import OUTCOMES, audit_event
from imaging_ai.audit.search import Search, find
from imaging_ai.db.engine import Database
from imaging_ai.errors import BadParameterError, NotFound
from imaging_ai.serve.access import actor, origin
from imaging_ai.serve.guards import refuse_unknown_parameters
from imaging_ai.serve.jobs import Limit, moment

__all__ = ["audit_router", "fhir_router"]

_OPT = {"needs": "audit"}
_BIG = 2**63 - 1  # what a database key can be
_FHIR = "application/fhir+json"

_Request = Request[Any, Any, Any]
_Word = Annotated[str, Parameter(max_length=200)]
_Before = Annotated[int | None, Parameter(ge=1, le=_BIG, description="Only events below this number: the next page")]
_FhirDates = Annotated[list[str] | None, Parameter(query="date")]
_DATE = re.compile(r"(?P<prefix>ge|gt|le|lt|)(?P<moment>\d{4}-\d\d-\d\d(T.+)?)")


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """An event: who did what to which object, from where, when, and how it went; and what holds it in the trail."""

    sequence: int
    at: datetime | None
    action: str
    meaning: str
    outcome: str
    actor: str
    origin: str
    object_type: str
    object_uid: str
    study_instance_uid: str
    detail: str
    key_id: str
    hash: str


class EventList(msgspec.Struct, frozen=True):
    """Events, the newest first; `next_before` is the parameter `before` of the next page, null on the last."""

    events: tuple[EventView, ...]
    next_before: int | None


def audit_router(database: Database) -> Router:
    """Answer `/audit`."""

    @get("/", opt=_OPT, sync_to_thread=True, summary="Search the audit trail")
    def search_audit(
        request: _Request,
        since: datetime | None = None,
        until: datetime | None = None,
        action: _Word = "",
        by: Annotated[str, Parameter(query="actor", max_length=200)] = "",
        uid: Annotated[str, Parameter(query="object", max_length=200)] = "",
        outcome: _Word = "",
        before: _Before = None,
        limit: Limit = 100,
    ) -> EventList:
        search = Search(_seconds(since), _seconds(until), action, by, uid, outcome)
        found, studies = _found(database, request, search, before, limit + 1)
        views = tuple(_view(one, studies.get(one.sequence, "")) for one in found[:limit])
        return EventList(views, views[-1].sequence if len(found) > limit else None)

    return Router("/audit", route_handlers=[search_audit], tags=["audit"])


def fhir_router(database: Database, source: Source, doors: Sequence[Any]) -> Router:
    """Answer `/fhir/AuditEvent` as FHIR R4 (3.1.1): search by date, subtype, agent-name, entity and outcome; read."""

    @get("/AuditEvent", opt=_OPT, sync_to_thread=True, media_type=_FHIR, summary="Search the audit trail (FHIR R4)")
    def search_audit_events(
        request: _Request,
        dates: _FhirDates = None,
        subtype: _Word = "",
        agent_name: Annotated[str, Parameter(query="agent-name", max_length=200)] = "",
        entity: _Word = "",
        outcome: _Word = "",
        before: _Before = None,
        count: Annotated[int, Parameter(query="_count", ge=1, le=1000)] = 100,
    ) -> Response[bytes]:
        since, until = _range(dates or ())
        words = (subtype.rpartition("|")[2], agent_name, entity.rpartition("|")[2].removeprefix("urn:oid:"))
        search = Search(since, until, *words, _outcome(outcome))
        found, studies = _found(database, request, search, before, count + 1)
        bundle = {"resourceType": "Bundle", "type": "searchset", "link": _links(request, found, count)}
        bundle["entry"] = [
            {"resource": audit_event(one, source, studies.get(one.sequence, "")), "search": {"mode": "match"}}
            for one in found[:count]
        ]
        return Response(msgspec.json.encode(bundle), media_type=_FHIR)

    @get("/AuditEvent/{sequence:int}", opt=_OPT, sync_to_thread=True, media_type=_FHIR, summary="One audit event")
    def read_audit_event(request: _Request, sequence: Annotated[int, Parameter(ge=1, lt=_BIG)]) -> Response[bytes]:
        found, studies = _found(database, request, Search(), sequence + 1, 1)
        if not found or found[0].sequence != sequence:
            raise NotFound(f"there is no audit event {sequence}")
        return Response(msgspec.json.encode(audit_event(found[0], source, studies.get(sequence, ""))), media_type=_FHIR)

    return Router(
        "/fhir",
        route_handlers=[search_audit_events, read_audit_event],
        middleware=doors,
        guards=[refuse_unknown_parameters],
        response_headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
        tags=["audit"],
    )


def _found(
    database: Database, request: _Request, search: Search, before: int | None, limit: int
) -> tuple[Sequence[Entry], dict[int, str]]:
    """Search, and leave the event of it before the answer leaves."""
    with database.read() as session:
        connection = session.connection()
        found = find(connection, search, before=before or _BIG, limit=limit)
        studies = studies_of(connection, found)
    told = {name: value for name in Search.__slots__ if (value := getattr(search, name))}
    with database.write() as session:
        audit.record(
            session,
            "audit.search",
            object_type="audit",
            object_uid="",
            actor=actor(request),
            origin=origin(request),
            detail=", ".join(f"{name}={value}" for name, value in told.items()),
        )
    return found, studies


def _view(entry: Entry, study_instance_uid: str) -> EventView:
    event = entry.event
    return EventView(
        sequence=entry.sequence,
        at=moment(event.at),
        action=event.action,
        meaning=declared(event.action).meaning,
        outcome=event.outcome,
        actor=event.actor,
        origin=event.origin,
        object_type=event.object_type,
        object_uid=event.object_uid,
        study_instance_uid=study_instance_uid,
        detail=event.detail,
        key_id=entry.key_id,
        hash=entry.hash,
    )


def _seconds(when: datetime | None) -> float | None:
    return None if when is None else (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _range(dates: Sequence[str]) -> tuple[float | None, float | None]:
    """Read FHIR's dates (R4 3.1.1.5.6): times to the millisecond, days as their beginning."""
    since = until = None
    for text in dates:
        match = _DATE.fullmatch(text)
        try:
            when = _seconds(datetime.fromisoformat(match["moment"])) if match else None
        except ValueError:
            when = None
        if match is None or when is None or not match["prefix"]:
            raise BadParameterError("date", "give ge, gt, le or lt and a date, or a time as 2026-05-01T12:00:00Z")
        if match["prefix"] in ("ge", "gt"):
            since = when + 0.001 * (match["prefix"] == "gt")
        else:
            until = when + 0.001 * (match["prefix"] == "le")
    return since, until


def _outcome(code: str) -> str:
    """Read FHIR's code of an outcome; what no event has finds none."""
    return {value: name for name, value in OUTCOMES.items()}.get(code, code)


def _links(request: _Request, found: Sequence[Entry], count: int) -> list[dict[str, str]]:
    here = request.url
    links = [{"relation": "self", "url": str(here)}]
    if len(found) > count:
        links.append(
            {
                "relation": "next",
                "url": str(here.with_replacements(query=_with_before(here.query, found[count - 1].sequence))),
            }
        )
    return links


def _with_before(query: str, sequence: int) -> str:
    kept = [part for part in query.split("&") if part and not part.startswith("before=")]
    return "&".join([*kept, f"before={sequence}"])
