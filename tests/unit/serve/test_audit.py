"""`/api/audit` and `/fhir/AuditEvent`: an auditor finds what happened, and is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from litestar import Litestar
from litestar.testing import TestClient

from imaging_ai import audit
from imaging_ai.audit.search import Search, found_by
from imaging_ai.config import load
from imaging_ai.core.permission import Role
from imaging_ai.people.tokens import Tokens
from imaging_ai.wiring import make_web_app
from imaging_ai.wiring.parts import make_current_database

Client = TestClient[Litestar]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with 30 events: three readers by turns, every tenth of them refused, one a second."""
    settings = load(environment={"IMAGING_AI_DATA_DIR": str(tmp_path_factory.mktemp("data"))})
    database = make_current_database(settings)
    with database.write() as session:
        for number in range(30):
            audit.record(
                session,
                "read-frames",
                object_type="series",
                object_uid=f"1.2.{number % 2}",
                actor=f"reader {number % 3}",
                origin="10.0.0.7",
                outcome="refused" if number % 10 == 9 else "success",
            )
    secret = Tokens(database).create("watcher", Role.AUDITOR)
    with TestClient(make_web_app(settings), base_url="http://localhost", raise_server_exceptions=False) as client:
        client.headers["authorization"] = f"Bearer {secret}"
        client.database = database  # type: ignore[attr-defined]
        client.tokens = Tokens(database)  # type: ignore[attr-defined]
        yield client
    database.dispose()


def found(client: Client, **parameters: Any) -> list[dict[str, Any]]:
    answer = client.get("/api/audit", params={"limit": 1000, **parameters})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["events"])


def read(client: Client, **parameters: Any) -> list[int]:
    """The numbers of the readings that are found."""
    return [one["sequence"] for one in found(client, **parameters) if one["action"] == "read-frames"]


def test_events_come_newest_first_and_say_everything(client: Client) -> None:
    assert read(client) == list(range(30, 0, -1))
    tenth = found(client)[-10]
    told = {name: tenth[name] for name in ("sequence", "meaning", "outcome", "actor", "origin", "object_uid")}
    assert told == {
        "sequence": 10,
        "meaning": "frames were retrieved",
        "outcome": "refused",
        "actor": "reader 0",
        "origin": "10.0.0.7",
        "object_uid": "1.2.1",
    }
    assert len(tenth["hash"]) == 64


def test_filters_narrow(client: Client) -> None:
    assert read(client, actor="reader 1") == list(range(29, 0, -3))
    assert read(client, outcome="refused") == [30, 20, 10]
    assert read(client, object="1.2.0", actor="reader 0") == [25, 19, 13, 7, 1]
    assert [one["action"] for one in found(client, action="create-token")] == ["create-token"]
    moments = {one["sequence"]: one["at"] for one in found(client)}
    assert min(read(client, since="2000-01-01T00:00:00Z")) == 1
    assert read(client, until="2000-01-01T00:00:00") == []
    assert read(client, since="2999-01-01T00:00:00+02:00") == []
    assert moments[1].endswith("Z")


def test_pages_follow_one_another_though_events_are_added(client: Client) -> None:
    pages, before = [], {}
    while True:
        page = client.get("/api/audit", params={"limit": 7, "actor": "reader 2", **before}).json()
        pages.append([one["sequence"] for one in page["events"]])
        if page["next_before"] is None:
            break
        before = {"before": page["next_before"]}
    assert pages == [[30, 27, 24, 21, 18, 15, 12], [9, 6, 3]]


@pytest.mark.parametrize(
    "query", ["since=yesterday", "before=0", "limit=0", "limit=1001", "acton=x", f"actor={'x' * 201}", "before=x"]
)
def test_what_cannot_be_asked_is_refused(client: Client, query: str) -> None:
    assert client.get(f"/api/audit?{query}").status_code == 400


def test_a_search_is_in_the_trail_with_who_searched_for_what(client: Client) -> None:
    client.get("/api/audit?actor=reader%201&limit=1")
    client.get("/fhir/AuditEvent?outcome=4")
    database = client.database  # type: ignore[attr-defined]
    searches = [one.event for page in found_by(database, Search(action="audit.search")) for one in page]
    assert [(one.actor, one.detail) for one in searches[-2:]] == [
        ("watcher", "actor=reader 1"),
        ("watcher", "outcome=refused"),
    ]


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("path", ["/api/audit", "/fhir/AuditEvent", "/fhir/AuditEvent/1"])
def test_auditors_and_administrators_may_search_and_nobody_else(client: Client, role: Role, path: str) -> None:
    secret = client.tokens.create(f"{role}-{path.count('/')}-{len(path)}", role)  # type: ignore[attr-defined]
    answer = client.get(path, headers={"authorization": f"Bearer {secret}"})
    assert answer.status_code == (200 if role in (Role.AUDITOR, Role.ADMINISTRATOR) else 403)


# -- FHIR


def bundle(client: Client, query: str) -> dict[str, Any]:
    answer = client.get(f"/fhir/AuditEvent?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/fhir+json"), answer.text
    Bundle.model_validate(answer.json())
    return dict(answer.json())


def ids(found: dict[str, Any]) -> list[int]:
    return [int(one["resource"]["id"]) for one in found["entry"]]


def test_a_fhir_client_searches_and_follows_the_links(client: Client) -> None:
    first = bundle(client, "agent-name=reader%202&_count=7")
    links = {one["relation"]: one["url"] for one in first["link"]}
    assert ids(first) == [30, 27, 24, 21, 18, 15, 12]
    second = bundle(client, links["next"].partition("?")[2])
    assert ids(second) == [9, 6, 3]
    assert [one["relation"] for one in second["link"]] == ["self"]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("outcome=4", [30, 20, 10]),
        ("outcome=12", []),
        ("entity=urn:dicom:uid|urn:oid:1.2.0&agent-name=reader%200", [25, 19, 13, 7, 1]),
        ("subtype=urn:imaging-ai:audit-action|read-frames&agent-name=reader%200&outcome=4", [10]),
        ("subtype=read-frames&date=lt2000-01-01", []),
        ("outcome=4&date=ge2000-01-01&date=le2999-01-01", [30, 20, 10]),
    ],
)
def test_what_a_fhir_client_searches_for_is_found(client: Client, query: str, numbers: list[int]) -> None:
    assert ids(bundle(client, query)) == numbers


@pytest.mark.parametrize(
    "query", ["date=2026-01-01", "date=gexx", "date=ge2026-99-01", "agent=Practitioner/1", "_count=0"]
)
def test_a_fhir_search_that_is_not_supported_is_refused(client: Client, query: str) -> None:
    assert client.get(f"/fhir/AuditEvent?{query}").status_code == 400


def test_one_event_is_read_by_its_number(client: Client) -> None:
    assert client.get("/fhir/AuditEvent/10").json()["agent"][0]["who"] == {"display": "reader 0"}
    assert client.get("/fhir/AuditEvent/100000").status_code == 404
    assert client.get("/fhir/AuditEvent/0").status_code == 400
