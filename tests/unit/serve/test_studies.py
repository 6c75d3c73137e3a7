"""`/api/studies`: patient data, told in the answer, noted in the audit, and nowhere else."""

from __future__ import annotations

import logging

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from sqlalchemy import text
from sqlmodel import select

import ledgers
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AuditEventRow, ResultRow, SeriesRow, StudyRow
from imaging_ai.queue.ledger import Ledger

Client = TestClient[Litestar]


def add_study(database: Database, uid: str, *modalities: str) -> None:
    with database.write() as session:
        study = StudyRow(study_instance_uid=uid, patient_name="Secret^Name", patient_id="SECRET-ID", created_at=0.0)
        study.updated_at = 60.0
        session.add(study)
        session.flush()
        assert study.id is not None
        for number, modality in enumerate(modalities, 1):
            times = {"settle_at": 0.0, "last_received_at": 0.0, "created_at": 0.0}
            row = SeriesRow(study_id=study.id, series_instance_uid=f"{uid}.{number}", modality=modality, **times)
            row.instance_count = 10 * number
            session.add(row)


def events(database: Database) -> list[AuditEventRow]:
    with database.read() as session:
        return list(session.exec(select(AuditEventRow).order_by(AuditEventRow.id)))


def test_studies_come_newest_first_with_what_is_held_of_them(client: Client, database: Database) -> None:
    add_study(database, "1.2", "CT", "SEG", "CT")
    add_study(database, "1.3")
    newest, study = client.get("/api/studies").json()["studies"]
    assert newest["study_instance_uid"] == "1.3"
    assert (newest["series"], newest["instances"], newest["modalities_in_study"]) == (0, 0, [])
    assert (study["series"], study["instances"], study["modalities_in_study"]) == (3, 60, ["CT", "SEG"])
    assert (study["patient_name"], study["patient_id"]) == ("Secret^Name", "SECRET-ID")
    assert study["updated_at"] == "1970-01-01T00:01:00Z"


def test_studies_come_in_pages(client: Client, database: Database) -> None:
    for number in range(3):
        add_study(database, f"1.{number}")
    first = client.get("/api/studies?limit=2").json()
    assert [len(first["studies"]), first["page"]["next_offset"]] == [2, 2]
    last = client.get("/api/studies?limit=2&offset=2").json()
    assert [len(last["studies"]), last["page"]["next_offset"]] == [1, None]


def test_a_study_tells_its_series_and_results(client: Client, database: Database, ledger: Ledger) -> None:
    add_study(database, "1.2", "CT")
    job = ledgers.schedule(ledger, study_instance_uid="1.2", model="liver")
    with database.write() as session:
        session.add(ResultRow(job_id=job, kind="SEG", sop_instance_uid="2.25.1", sop_class_uid="1.1", created_at=5.0))
    detail = client.get("/api/studies/1.2").json()
    assert detail["study"]["study_instance_uid"] == "1.2"
    (series,) = detail["series"]
    assert (series["series_instance_uid"], series["modality"], series["instances"]) == ("1.2.1", "CT", 10)
    assert (series["state"], series["origin"]) == ("RECEIVING", "received")
    (result,) = detail["results"]
    assert (result["job_id"], result["model"], result["kind"]) == (job, "liver", "SEG")


def test_a_study_that_is_not_held_is_not_found(client: Client) -> None:
    assert client.get("/api/studies/1.2").status_code == 404


def test_every_reading_leaves_an_audit_event(client: Client, database: Database) -> None:
    add_study(database, "1.2", "CT")
    client.get("/api/studies")
    client.get("/api/studies/1.2")
    search, read = events(database)
    assert (search.action, search.object_uid, search.detail) == ("study.search", "", "1 studies")
    assert (read.action, read.object_uid, read.outcome) == ("study.read", "1.2", "success")
    assert read.origin != ""


def test_what_cannot_be_audited_is_not_shown(client: Client, database: Database) -> None:
    add_study(database, "1.2", "CT")
    with database.write() as session:
        session.connection().execute(text("DROP TABLE audit_event"))
    for path in ("/api/studies", "/api/studies/1.2"):
        answer = client.get(path)
        assert answer.status_code >= 500
        assert "Secret" not in answer.text


def test_patient_data_is_in_the_answer_and_not_in_the_log_or_the_audit(
    client: Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    add_study(database, "1.2", "CT")
    with caplog.at_level(logging.DEBUG):
        answer = client.get("/api/studies/1.2")
        client.get("/api/studies")
    assert "SECRET-ID" in answer.text
    assert "secret" not in caplog.text.lower()
    assert all("secret" not in str(event.model_dump()).lower() for event in events(database))


def test_answers_with_patient_data_are_not_stored_on_the_way(client: Client) -> None:
    assert client.get("/api/studies").headers["cache-control"] == "no-store"
