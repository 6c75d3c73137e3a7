"""Events as others read them: valid by the schemas of DICOM and FHIR, and saying what happened."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from lxml import etree

from imaging_ai import audit
from imaging_ai.audit.actions import ACTIONS
from imaging_ai.audit.context import Source
from imaging_ai.audit.dicom import audit_message
from imaging_ai.audit.event import Entry
from imaging_ai.audit.export import Format, export
from imaging_ai.audit.fhir import audit_event
from imaging_ai.audit.search import Search
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import SeriesRow, StudyRow

SOURCE = Source("IMAGINGAI", "server.hospital.example")
SCHEMA = etree.RelaxNG(file=str(Path(__file__).parent / "audit_message.rng"))
OBJECTS = [
    *("study", "series", "instance", "patient", "job", "workitem", "user", "session", "token", "association", "audit"),
    "",
]


def entry(action: str = "read-frames", **told: Any) -> Entry:
    about = {"object_type": "series", "object_uid": "1.2.3", "actor": "jane", "origin": "10.0.0.7", **told}
    return Entry(7, audit.event(action, **about), "k" * 16, "a" * 64)


def message(one: Entry, study: str = "") -> Any:
    """The message, valid by the schema of PS3.15 A.5.1."""
    parsed = etree.fromstring(audit_message(one, SOURCE, study))
    SCHEMA.assertValid(parsed)
    return parsed


def resource(one: Entry, study: str = "") -> dict[str, Any]:
    """The AuditEvent, valid by the definitions of FHIR R4B (AuditEvent is the same in R4)."""
    made = json.loads(json.dumps(audit_event(one, SOURCE, study)))
    AuditEvent.model_validate(made)
    return made


@pytest.mark.parametrize("action", [*ACTIONS, "of-an-older-program"])
def test_every_action_makes_valid_messages_of_every_object(action: str) -> None:
    for kind in OBJECTS:
        for study, uid in (("", "1.2.3"), ("9.8", "1.2.3"), ("", "")):
            one = entry(action, object_type=kind, object_uid=uid)
            assert (
                message(one, study).find("EventIdentification/EventTypeCode[@codeSystemName='imaging-ai']") is not None
            )
            assert resource(one, study)["subtype"][-1]["code"] == action


@pytest.mark.parametrize("outcome", ["success", "refused", "failure"])
@pytest.mark.parametrize("words", ["", "<&>\"'", "nul \0 bell \7 half \ud800", "日本 ö", "x" * 100_000])
def test_whatever_the_words_messages_are_valid(words: str, outcome: Any) -> None:
    one = entry(actor=words, origin=words, object_uid=words, detail=words, outcome=outcome)
    assert message(one).find("EventIdentification").get("EventOutcomeIndicator") == {
        "success": "0",
        "refused": "4",
    }.get(outcome, "8")
    assert resource(one)["outcome"] == {"success": "0", "refused": "4"}.get(outcome, "8")


def test_a_message_is_one_line_whatever_the_words() -> None:
    words = "one\ntwo\r\x85three\u2028<AuditMessage/>"
    one = entry(actor=words, origin=words, object_uid=words, detail=words)
    assert len(audit_message(one, SOURCE).decode().splitlines()) == 1
    assert message(one).find("EventIdentification/EventOutcomeDescription").text == "one�two��three�<AuditMessage/>"


def test_a_reading_says_who_read_from_where_and_of_which_study() -> None:
    read = message(entry(), study="1.2")
    assert read.find("EventIdentification/EventID").get("csd-code") == "110103"
    assert read.find("EventIdentification").get("EventActionCode") == "R"
    who, ours = read.findall("ActiveParticipant")
    assert (who.get("UserID"), who.get("NetworkAccessPointID"), who.get("NetworkAccessPointTypeCode")) == (
        "jane",
        "10.0.0.7",
        "2",
    )
    assert (who.get("UserIsRequestor"), ours.get("UserIsRequestor"), ours.get("UserID")) == (
        "true",
        "false",
        "IMAGINGAI",
    )
    (study,) = read.findall("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectID") == "1.2"
    assert study.find("ParticipantObjectIDTypeCode").get("csd-code") == "110180"
    details = {
        one.get("type"): base64.b64decode(one.get("value")).decode() for one in study.findall("ParticipantObjectDetail")
    }
    assert details == {"sequence": "7", "seal": "a" * 64, "key": "k" * 16, "series UID": "1.2.3"}


@pytest.mark.parametrize(
    ("action", "asking", "ours"), [("instances-transferred", "110153", "110152"), ("send", "110152", "110153")]
)
def test_a_transfer_says_which_side_was_the_source(action: str, asking: str, ours: str) -> None:
    roles = [one.find("RoleIDCode").get("csd-code") for one in message(entry(action)).findall("ActiveParticipant")]
    assert roles == [asking, ours]


def test_a_study_that_is_deleted_is_another_event_than_a_series() -> None:
    events = [
        message(entry("delete-instances", object_type=kind)).find("EventIdentification/EventID").get("csd-code")
        for kind in ("study", "series")
    ]
    assert events == ["110105", "110103"]


def test_a_search_does_not_say_what_was_searched_for() -> None:
    (found,) = message(entry("search-studies", object_type="study", object_uid="")).findall(
        "ParticipantObjectIdentification"
    )
    assert (found.get("ParticipantObjectTypeCodeRole"), found.find("ParticipantObjectQuery").text) == ("24", None)


def test_a_login_is_one_for_fhir() -> None:
    made = resource(entry("login", object_type="session"))
    assert made["type"]["code"] == "110114"
    assert [one["code"] for one in made["subtype"]] == ["110122", "login"]


# -- exported


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    migrate.upgrade(database)
    with database.write() as session:
        study = StudyRow(
            study_instance_uid="1.2", patient_name="SECRET", patient_id="SECRET", created_at=0.0, updated_at=0.0
        )
        session.add(study)
        session.flush()
        times = {"settle_at": 0.0, "last_received_at": 0.0, "created_at": 0.0}
        session.add(SeriesRow(study_id=study.id, series_instance_uid="1.2.3", modality="CT", **times))
        for number in range(3):
            audit.record(session, "study.read", object_type="study", object_uid="1.2", actor=f"reader {number}")
        audit.record(session, "login", object_type="session", object_uid="s")
        audit.record(session, "read-frames", object_type="series", object_uid="1.2.3")
    yield database
    database.dispose()


@pytest.mark.parametrize("form", ["dicom", "fhir", "jsonl"])
def test_an_export_has_a_line_for_each_event_and_no_patient(database: Database, form: Format) -> None:
    lines = list(export(database, Search(), form, SOURCE))
    assert len(lines) == 5
    assert not any(b"\n" in line or b"SECRET" in line for line in lines)
    assert [re.search(rb"\b1\.2\b(?!\.)", line) is not None for line in lines] == [True, True, True, False, True]


def test_an_export_has_what_is_searched_for(database: Database) -> None:
    def found(search: Search) -> list[int]:
        return [json.loads(line)["sequence"] for line in export(database, search, "jsonl", SOURCE)]

    moments = [json.loads(line)["at"] for line in export(database, Search(), "jsonl", SOURCE)]
    assert found(Search(action="login")) == [4]
    assert found(Search(actor="reader 1")) == [2]
    assert found(Search(object_uid="1.2")) == [1, 2, 3]
    assert found(Search(since=moments[1])) == [2, 3, 4, 5]
    assert found(Search(until=moments[1], outcome="success")) == [1]
    assert found(Search(outcome="failure")) == []
