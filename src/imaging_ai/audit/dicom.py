"""Events as DICOM audit messages: the XML of PS3.15 A.5.1, with the contents that A.5.3 asks for.

Patients are not named, since the trail does not know them: whoever may, finds them by the Study Instance UID. Number
and seal of an event are details of its object, so that every message that left is an anchor too.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from xml.etree.ElementTree import Element, SubElement, tostring

from imaging_ai.audit.actions import STUDY_DELETED, Action, Code, declared
from imaging_ai.audit.context import IMAGES, Source
from imaging_ai.audit.event import Entry, Event, Outcome

__all__ = ["audit_message", "event_id", "network_type"]

_SCHEME = "imaging-ai"
_OUTCOMES: dict[Outcome, str] = {"success": "0", "refused": "4", "failure": "8"}
_SOURCE, _DESTINATION, _APPLICATION = (
    Code("110153", "Source Role ID"),
    Code("110152", "Destination Role ID"),
    Code("110150", "Application"),
)
#: What XML 1.0 cannot say, and what would end the line that a message is in the log of its receiver.
_UNSPEAKABLE = re.compile("[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: Object type and role of A.5.1, and the kind of id, of each type of object that is not part of a study.
_OBJECTS: Mapping[str, tuple[str, str, tuple[str, str, str]]] = {
    "job": ("2", "20", ("job", _SCHEME, "Job UID")),
    "workitem": ("2", "20", ("workitem", _SCHEME, "Work item UID")),
    "user": ("1", "6", ("11", "RFC-3881", "User Identifier")),
    "session": ("2", "13", ("session", _SCHEME, "Session")),
    "token": ("2", "13", ("token", _SCHEME, "Name of a token")),
    "association": ("2", "13", ("110182", "DCM", "Node ID")),
    "application": ("2", "13", ("12", "RFC-3881", "URI")),
    "audit": ("2", "13", ("12", "RFC-3881", "URI")),
    "series": ("2", "3", ("112002", "DCM", "Series Instance UID")),
    "instance": ("2", "3", ("instance", _SCHEME, "SOP Instance UID")),
}
_OTHER = ("2", "4", ("object", _SCHEME, "Object"))
_STUDY = ("2", "3", ("110180", "DCM", "Study Instance UID"))
_LIFE = {"C": "1", "R": "6", "U": "3", "D": "15", "E": "6"}


def audit_message(entry: Entry, source: Source, study_instance_uid: str = "") -> bytes:
    """Return the audit message of an event, in UTF-8."""
    event, action = entry.event, declared(entry.event.action)
    message = Element("AuditMessage")
    _identify(message, event, action)
    _participate(message, event, action, source)
    reported = SubElement(message, "AuditSourceIdentification", AuditSourceID=f"{source.ae_title}@{source.host}")
    SubElement(reported, "AuditSourceTypeCode", {"csd-code": "4"})
    _describe(message, entry, action, study_instance_uid)
    return bytes(tostring(message, encoding="utf-8", xml_declaration=False))


def event_id(event: Event, action: Action) -> Code:
    """Return the DICOM event: what is deleted may be a whole study."""
    return STUDY_DELETED if action.kind == "D" and event.object_type == "study" else action.event


def network_type(address: str) -> str:
    """Return "2" for an IP address, "1" for a name."""
    try:
        ip_address(address)
    except ValueError:
        return "1"
    return "2"


def _identify(message: Element, event: Event, action: Action) -> None:
    about = SubElement(
        message,
        "EventIdentification",
        EventActionCode=action.kind,
        EventDateTime=datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        EventOutcomeIndicator=_OUTCOMES.get(event.outcome, "8"),
    )
    _coded(about, "EventID", event_id(event, action))
    if action.type is not None:
        _coded(about, "EventTypeCode", action.type)
    SubElement(
        about,
        "EventTypeCode",
        {"csd-code": _clean(event.action), "codeSystemName": _SCHEME, "originalText": action.meaning},
    )
    if event.detail:
        SubElement(about, "EventOutcomeDescription").text = _clean(event.detail)


def _participate(message: Element, event: Event, action: Action, source: Source) -> None:
    """Name who asked and this server; where instances go from one to the other, which is which."""
    moves = action.event.value in ("110102", "110104")
    sends = event.action == "send"
    asking = _SOURCE if moves and not sends else None
    who = _clean(event.actor) or _clean(event.origin) or "unknown"
    if sends:
        asking = _DESTINATION
    _participant(message, who, event.origin, asking, requestor=not sends)
    ours = (_SOURCE if sends else _DESTINATION) if moves else _APPLICATION
    _participant(message, source.ae_title, source.host, ours, requestor=sends)


def _participant(message: Element, user: str, address: str, role: Code | None, *, requestor: bool) -> None:
    one = SubElement(message, "ActiveParticipant", UserID=user, UserIsRequestor=str(requestor).lower())
    if address:
        one.set("NetworkAccessPointID", _clean(address))
        one.set("NetworkAccessPointTypeCode", network_type(address))
    if role is not None:
        _coded(one, "RoleIDCode", role)


def _describe(message: Element, entry: Entry, action: Action, study_instance_uid: str) -> None:
    """Name the study, or whatever else the object is; what is within a study is a detail of it."""
    event = entry.event
    details = {"sequence": str(entry.sequence), "seal": entry.hash, "key": entry.key_id}
    uid = _clean(event.object_uid)
    if study_instance_uid:
        if event.object_type != "study":
            details[f"{event.object_type} UID"] = uid
        _object(message, _STUDY, study_instance_uid, action, "study", details)
    else:
        kind = _STUDY if event.object_type == "study" and uid else _OBJECTS.get(event.object_type, _OTHER)
        _object(message, kind, uid, action, event.object_type, details)


def _object(
    message: Element,
    kind: tuple[str, str, tuple[str, str, str]],
    uid: str,
    action: Action,
    name: str,
    details: Mapping[str, str],
) -> None:
    is_query = action.event.value == "110112"
    type_code, role, (value, scheme, meaning) = kind
    one = SubElement(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=uid or _clean(name) or "unknown",
        ParticipantObjectTypeCode=type_code,
        ParticipantObjectTypeCodeRole="24" if is_query else role,
    )
    if name in IMAGES and not is_query:
        one.set("ParticipantObjectDataLifeCycle", _LIFE[action.kind])
    SubElement(
        one, "ParticipantObjectIDTypeCode", {"csd-code": value, "codeSystemName": scheme, "originalText": meaning}
    )
    if is_query:
        SubElement(one, "ParticipantObjectQuery")  # what was asked for may name a patient, and is not kept
    else:
        SubElement(one, "ParticipantObjectName").text = _clean(name)
    for about, text in details.items():
        SubElement(one, "ParticipantObjectDetail", type=about, value=b64encode(text.encode()).decode())


def _coded(parent: Element, name: str, code: Code) -> None:
    SubElement(parent, name, {"csd-code": code.value, "codeSystemName": "DCM", "originalText": code.meaning})


def _clean(text: str) -> str:
    return _UNSPEAKABLE.sub("�", text)
