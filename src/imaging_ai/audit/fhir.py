"""Events as FHIR R4 AuditEvent resources, coded as the DICOM audit messages are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from imaging_ai.audit.actions import Code, declared
from imaging_ai.audit.context import Source
from imaging_ai.audit.dicom import event_id, network_type
from imaging_ai.audit.event import Entry, Outcome

__all__ = ["OUTCOMES", "audit_event"]

_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_ACTION = "urn:imaging-ai:audit-action"
_OBJECT = "urn:imaging-ai:audit-object"
OUTCOMES: dict[Outcome, str] = {"success": "0", "refused": "4", "failure": "8"}


def audit_event(entry: Entry, source: Source, study_instance_uid: str = "") -> dict[str, Any]:
    """Return the AuditEvent of an event, as JSON; its id is the number of the event."""
    event, action = entry.event, declared(entry.event.action)
    subtype = [{"system": _ACTION, "code": event.action, "display": action.meaning}]
    if action.type is not None:
        subtype.insert(0, _coding(action.type))
    made: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": str(entry.sequence),
        "type": _coding(event_id(event, action)),
        "subtype": subtype,
        "action": action.kind,
        "recorded": datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "outcome": OUTCOMES.get(event.outcome, "8"),
        "agent": _agents(entry, source),
        "source": {
            "site": source.host,
            "observer": {"display": source.ae_title},
            "type": [{"system": "http://terminology.hl7.org/CodeSystem/security-source-type", "code": "4"}],
        },
        "entity": _entities(entry, study_instance_uid),
    }
    if event.detail:
        made["outcomeDesc"] = event.detail
    return made


def _agents(entry: Entry, source: Source) -> list[dict[str, Any]]:
    event = entry.event
    who: dict[str, Any] = {
        "who": {"display": event.actor or event.origin or "unknown"},
        "requestor": event.action != "send",
    }
    if event.origin:
        who["network"] = {"address": event.origin, "type": network_type(event.origin)}
    ours = {"type": {"coding": [_coding(Code("110150", "Application"))]}, "who": {"display": source.ae_title}}
    return [who, {**ours, "requestor": event.action == "send"}]


def _entities(entry: Entry, study_instance_uid: str) -> list[dict[str, Any]]:
    event = entry.event
    seal = [
        {"type": "sequence", "valueString": str(entry.sequence)},
        {"type": "seal", "valueString": entry.hash},
        {"type": "key", "valueString": entry.key_id},
    ]
    first: dict[str, Any] = {"type": {"system": _OBJECT, "code": event.object_type or "object"}, "detail": seal}
    if event.object_uid:
        first["what"] = {"identifier": _identifier(event.object_type, event.object_uid)}
    found = [first]
    if study_instance_uid and event.object_type != "study":
        study = {"identifier": _identifier("study", study_instance_uid)}
        found.append({"what": study, "type": {"system": _OBJECT, "code": "study"}})
    return found


def _identifier(object_type: str, uid: str) -> dict[str, str]:
    """UIDs are written as the ImagingStudy resource writes them."""
    if object_type in ("study", "series", "instance", "job", "workitem"):
        return {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}
    return {"system": _OBJECT, "value": uid}


def _coding(code: Code) -> dict[str, str]:
    return {"system": _DCM, "code": code.value, "display": code.meaning}
