"""`/api/jobs`."""

from __future__ import annotations

from datetime import datetime

import pytest
from litestar import Litestar
from litestar.testing import TestClient

import ledgers
from imaging_ai.core.job import Failure, Priority, Stage
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import DeliveryRow, ResultRow
from imaging_ai.queue.ledger import Ledger

Client = TestClient[Litestar]


def ids(client: Client, query: str = "") -> list[int]:
    answer = client.get(f"/api/jobs{query}")
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["jobs"]]


def test_jobs_come_newest_first_with_all_that_the_ledger_says(client: Client, ledger: Ledger) -> None:
    first = ledgers.schedule(ledger, study_instance_uid="1.2", rule="brain MR", priority=Priority.HIGH)
    second = ledgers.schedule(ledger)
    assert ids(client) == [second, first]
    job = client.get("/api/jobs").json()["jobs"][1]
    assert (job["state"], job["priority"], job["rule"], job["study_instance_uid"]) == (
        "SCHEDULED",
        "HIGH",
        "brain MR",
        "1.2",
    )
    assert datetime.fromisoformat(job["created_at"]).tzinfo is not None
    assert job["failure"] is None


def test_jobs_are_found_by_state_study_series_and_model(client: Client, ledger: Ledger) -> None:
    running = ledgers.schedule(ledger, study_instance_uid="1.2", series_instance_uids=("1.2.3",), model="brain")
    ledger.claim("inference-cpu", "me", 30)
    waiting = ledgers.schedule(ledger, study_instance_uid="1.9", model="lung")
    assert ids(client, "?state=IN%20PROGRESS") == [running]
    assert ids(client, "?study=1.2") == [running]
    assert ids(client, "?series=1.2.3") == [running]
    assert ids(client, "?model=lung") == [waiting]
    assert ids(client, "?model=lung&study=1.2") == []


def test_a_long_list_comes_in_pages(client: Client, ledger: Ledger) -> None:
    scheduled = [ledgers.schedule(ledger) for _ in range(5)]
    seen, offset = [], 0
    while offset is not None:
        answer = client.get(f"/api/jobs?limit=2&offset={offset}").json()
        assert len(answer["jobs"]) <= 2
        seen += [job["id"] for job in answer["jobs"]]
        offset = answer["page"]["next_offset"]
    assert seen == scheduled[::-1]


def test_a_waiting_job_tells_its_place_in_the_queue(client: Client, ledger: Ledger) -> None:
    low = ledgers.schedule(ledger, priority=Priority.LOW)
    first = ledgers.schedule(ledger)
    second = ledgers.schedule(ledger)
    other = ledgers.schedule(ledger, queue="inference-gpu")
    places = {job: client.get(f"/api/jobs/{job}").json()["queue_position"] for job in (low, first, second, other)}
    assert places == {first: 1, second: 2, low: 3, other: 1}


def test_a_running_job_tells_its_progress_and_when_it_may_end(
    client: Client, ledger: Ledger, database: Database
) -> None:
    ledgers.schedule(ledger)
    before = ledger.claim("inference-cpu", "me", 30)
    assert before is not None
    with database.write() as session:
        ledger.complete(session, before.id, before.attempt, {"device": "cpu"})
    ledgers.schedule(ledger)
    job = ledger.claim("inference-cpu", "me", 30)
    assert job is not None
    ledger.progress(job.id, job.attempt, 40, Stage.INFER)
    answer = client.get(f"/api/jobs/{job.id}").json()
    assert (answer["job"]["state"], answer["job"]["progress"], answer["job"]["stage"]) == ("IN PROGRESS", 40, "infer")
    assert answer["eta_seconds"] is not None and answer["queue_position"] is None
    assert client.get(f"/api/jobs/{before.id}").json()["provenance"] == {"device": "cpu"}


def test_a_failed_job_says_where_and_why(client: Client, ledger: Ledger) -> None:
    job_id = ledgers.schedule(ledger)
    job = ledger.claim("inference-cpu", "me", 30)
    assert job is not None
    ledger.fail(job_id, job.attempt, Failure(Stage.READ, "series-refused", "a gap between slices", permanent=True))
    answer = client.get(f"/api/jobs/{job_id}").json()
    assert answer["job"]["state"] == "CANCELED"
    assert answer["job"]["failure"] == {
        "stage": "read",
        "code": "series-refused",
        "reason": "a gap between slices",
        "permanent": True,
    }


def test_a_job_tells_its_results_and_where_they_went(client: Client, ledger: Ledger, database: Database) -> None:
    job_id = ledgers.schedule(ledger, inputs=("1.2.3.4",), parameters={"a": [1, "b"]})
    with database.write() as session:
        session.add(
            ResultRow(job_id=job_id, kind="SEG", sop_instance_uid="2.25.1", sop_class_uid="1.1", created_at=5.0)
        )
        session.add(
            DeliveryRow(
                job_id=job_id,
                sop_instance_uid="2.25.1",
                destination="pacs",
                state="CONFIRMED",
                attempts=2,
                next_attempt_at=0.0,
                confirmed_at=9.0,
            )
        )
    answer = client.get(f"/api/jobs/{job_id}").json()
    assert (answer["inputs"], answer["parameters"]) == (["1.2.3.4"], {"a": [1, "b"]})
    (result,) = answer["results"]
    assert (result["kind"], result["sop_instance_uid"]) == ("SEG", "2.25.1")
    (delivery,) = answer["deliveries"]
    assert (delivery["destination"], delivery["state"], delivery["attempts"]) == ("pacs", "CONFIRMED", 2)
    assert delivery["confirmed_at"] == "1970-01-01T00:00:09Z"


def test_a_job_that_does_not_exist_is_not_found(client: Client) -> None:
    answer = client.get("/api/jobs/7")
    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no job 7")


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/api/jobs?limit=0", "limit"),
        ("/api/jobs?limit=1001", "limit"),
        ("/api/jobs?limit=ten", "limit"),
        ("/api/jobs?offset=-1", "offset"),
        ("/api/jobs?offset=99999999999999999999", "offset"),
        ("/api/jobs?state=DONE", "state"),
        ("/api/jobs?study=1.2%00", "study"),
        ("/api/jobs?study=' OR 1=1", "study"),
        ("/api/jobs?series=abc", "series"),
        ("/api/jobs?model=%0a", "model"),
        ("/api/jobs?stat=COMPLETED", "stat"),
        ("/api/jobs?job_state=COMPLETED", "job_state"),
        ("/api/jobs/99999999999999999999", "job_id"),
        ("/api/jobs/0", "job_id"),
        ("/api/studies?patient=x", "patient"),
        ("/api/studies/a%20b", "study_instance_uid"),
    ],
)
def test_a_bad_parameter_is_named(client: Client, path: str, parameter: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert [bad["parameter"] for bad in answer.json()["parameters"]] == [parameter]
    assert answer.json()["detail"].startswith(f"{parameter}: ")
