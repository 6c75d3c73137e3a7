"""Health, metrics, problems and the host guard."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar, WebSocket, get, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.testing import TestClient
from prometheus_client.parser import text_string_to_metric_families

import ledgers
from imaging_ai import errors
from imaging_ai.archive.blobs import FolderStore
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import DeliveryRow
from imaging_ai.errors import ConfigError, ImagingAiError
from imaging_ai.queue.ledger import Ledger
from imaging_ai.serve.app import make_app
from imaging_ai.serve.guards import LOOPBACK, door, host_check
from imaging_ai.serve.health import Check, disk_check, storage_check
from imaging_ai.serve.problem import respond
from imaging_ai.serve.server import serve_http

Client = TestClient[Litestar]


def ready(database: Database, ledger: Ledger, **checks: Check) -> tuple[int, dict[str, object]]:
    with TestClient(make_app(database, ledger, checks=checks), raise_server_exceptions=False) as client:
        answer = client.get("/health/ready")
        return answer.status_code, answer.json()


def no_database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'missing' / 'index.db'}")


def test_a_live_server_says_so_whatever_else_is_down(tmp_path: Path) -> None:
    database = no_database(tmp_path)
    with TestClient(make_app(database, Ledger(database))) as client:
        assert client.get("/health/live").json()["status"] == "up"


def test_a_server_whose_parts_all_work_is_ready(database: Database, ledger: Ledger, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "objects", sync=False, min_free_bytes=0)
    status, answer = ready(database, ledger, storage=storage_check(store), disk=disk_check(tmp_path, 0))
    assert (status, answer) == (200, {"status": "ready", "checked": ["database", "storage", "disk"]})


def test_a_part_that_is_down_is_named_with_its_reason(database: Database, ledger: Ledger, tmp_path: Path) -> None:
    def broker() -> None:
        raise ConnectionRefusedError("redis://:secret@host")

    status, answer = ready(database, ledger, broker=broker, disk=disk_check(tmp_path, 1 << 40))
    assert status == 503
    assert answer["failed"] == ["broker", "disk"]
    assert str(answer["detail"]).startswith("broker: ConnectionRefusedError; disk: ")
    assert "secret" not in str(answer)


def test_who_asks_all_the_time_has_the_parts_tried_once_in_a_while(database: Database, ledger: Ledger) -> None:
    tried: list[int] = []
    app = make_app(database, ledger, checks={"storage": lambda: tried.append(1)})
    began = time.monotonic()
    with TestClient(app) as client:
        for _ in range(20):
            assert client.get("/health/ready").status_code == 200
    assert len(tried) <= 1 + (time.monotonic() - began) / 0.5


def test_a_server_without_its_database_is_not_ready(tmp_path: Path) -> None:
    database = no_database(tmp_path)
    status, answer = ready(database, Ledger(database))
    assert (status, answer["failed"]) == (503, ["database"])


def test_a_storage_that_cannot_be_written_to_is_not_ready(database: Database, ledger: Ledger, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "objects", sync=False, min_free_bytes=1 << 62)
    status, answer = ready(database, ledger, storage=storage_check(store))
    assert (status, answer["failed"]) == (503, ["storage"])


def test_the_storage_check_leaves_nothing_behind(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "objects", sync=False, min_free_bytes=0)
    storage_check(store)()
    held = b"".join(file.read_bytes() for file in (tmp_path / "objects").rglob("*") if file.is_file())
    assert b"readiness" not in held


def samples(client: Client) -> dict[tuple[str, tuple[str, ...]], float]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_count_what_the_database_holds(client: Client, ledger: Ledger, database: Database) -> None:
    job = ledgers.schedule(ledger)
    ledgers.schedule(ledger)
    ledger.claim("inference-cpu", "me", 30)
    with database.write() as session:
        session.add(DeliveryRow(job_id=job, sop_instance_uid="1.2", destination="pacs", next_attempt_at=0.0))
    found = samples(client)
    assert found["imaging_ai_database_up", ()] == 1
    assert found["imaging_ai_ledger_jobs", ("inference-cpu", "SCHEDULED")] == 1
    assert found["imaging_ai_ledger_jobs", ("inference-cpu", "IN PROGRESS")] == 1
    assert found["imaging_ai_oldest_waiting_seconds", ("inference-cpu",)] >= 0
    assert found["imaging_ai_series_receiving", ()] == 0
    assert found["imaging_ai_ledger_deliveries", ("pacs", "WAITING")] == 1


def test_metrics_without_a_database_say_that_it_is_down(tmp_path: Path) -> None:
    database = no_database(tmp_path)
    with TestClient(make_app(database, Ledger(database))) as client:
        assert samples(client)["imaging_ai_database_up", ()] == 0


@pytest.mark.parametrize("path", ["/nowhere", "/api", "/api/nothing", "/dicom-web/studies", "/api/jobs/x"])
def test_what_is_not_there_is_a_problem_document(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not-found"


def test_a_method_that_is_not_allowed_names_those_that_are(client: Client) -> None:
    answer = client.delete("/api/jobs")
    assert (answer.status_code, answer.json()["code"]) == (405, "method-not-allowed")
    assert "GET" in answer.headers["allow"]


def test_the_api_describes_itself(client: Client) -> None:
    schema = client.get("/schema").json()
    assert {"/api/jobs", "/api/jobs/{job_id}", "/api/studies", "/api/studies/{study_instance_uid}"} <= set(
        schema["paths"]
    )
    names = {parameter["name"] for parameter in schema["paths"]["/api/jobs"]["get"]["parameters"]}
    assert names == {"state", "study", "series", "model", "limit", "offset"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST"])
def test_requests_for_this_host_are_answered(client: Client, host: str) -> None:
    assert client.get("/api/studies", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::2]", ""])
def test_requests_under_a_foreign_name_see_no_patient_data(client: Client, host: str) -> None:
    answer = client.get("/api/studies", headers={"host": host, "x-forwarded-host": "localhost"})
    assert (answer.status_code, answer.json()["code"]) == (421, "misdirected-request")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:8081", "http://evil.localhost:8080", "null"]
)
def test_without_logins_no_page_of_another_server_changes_anything(client: Client, origin: str) -> None:
    asked = b'{"study_instance_uid": "1.2", "reason": "a form of elsewhere"}'
    answer = client.post("/api/holds", content=asked, headers={"origin": origin, "content-type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    for headers in ({}, {"origin": "http://localhost:8080"}):
        assert client.post("/api/holds", content=asked, headers=headers).status_code == 404, "there is no such study"


def test_without_logins_no_page_of_another_server_listens() -> None:
    @websocket("/events", middleware=[door(host_check(LOOPBACK, ["https://viewer.example"]))])
    async def events(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_text("a study came")

    client = TestClient(Litestar([events], logging_config=None), base_url="http://localhost:8080")
    for page in ({}, {"origin": "http://localhost:8080"}, {"origin": "https://viewer.example"}):
        with client.websocket_connect("/events", headers=page) as socket:
            assert socket.receive_text() == "a study came"
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/events", headers={"origin": "https://evil.example"}),
    ):
        pass


def test_a_body_that_is_brackets_and_nothing_else_is_a_bad_request(client: Client) -> None:
    answer = client.post("/api/holds", content=b"[" * 8000, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")


def raising(error: Exception) -> Client:
    @get("/", sync_to_thread=False)
    def handler() -> None:
        raise error

    return TestClient(
        Litestar([handler], exception_handlers={Exception: respond}, logging_config=None), raise_server_exceptions=False
    )


_KINDS = [
    kind
    for name in errors.__all__
    if (kind := getattr(errors, name)) not in (errors.SeriesRefused, errors.BadParameterError)
]


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.__name__)
def test_each_error_of_ours_has_its_status_and_code(kind: type[ImagingAiError]) -> None:
    with raising(kind("what went wrong")) as client:
        answer = client.get("/")
    assert answer.status_code == kind.http_status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == kind.http_status
    if kind.http_status == 500:  # a fault of ours: its text is for our log
        assert (problem["code"], "what went wrong" in answer.text) == ("internal", False)
    else:
        assert (problem["code"], problem["detail"]) == (kind.code, "what went wrong")
        assert ("retry-after" in answer.headers) is kind.retry


def test_a_fault_of_ours_tells_an_incident_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with raising(RuntimeError("Secret^Name")) as client, caplog.at_level(logging.ERROR):
        answer = client.get("/")
    assert answer.status_code == 500
    assert "Secret" not in answer.text
    assert answer.json()["incident"] in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "imaging.example"])
def test_the_server_refuses_to_listen_where_others_can_connect(host: str) -> None:
    def factory() -> Litestar:
        raise AssertionError("never asked for")

    with pytest.raises(ConfigError, match=r"asks nobody.*or http\.host to 127\.0\.0\.1"):
        serve_http(factory, host, 8080)


def test_the_web_role_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'monai', 'highdicom', 'captum', 'numpy'}"
    code = f"import sys, imaging_ai.serve.app, imaging_ai.serve.server; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['numpy']")


def test_a_bad_parameter_is_named_in_the_problem() -> None:
    with raising(errors.BadParameterError("StudyDate", "is not a date")) as client:
        answer = client.get("/")
    assert answer.status_code == 400
    assert answer.json()["parameters"] == [{"parameter": "StudyDate", "message": "is not a date"}]
