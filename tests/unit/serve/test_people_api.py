"""Who looks after people does so by the API; everybody else is told that they may not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from entering import PASSWORD, bearer, open_entrance
from imaging_ai.core.permission import Role
from imaging_ai.db.engine import Database
from imaging_ai.people.entrance import Entrance
from imaging_ai.queue.ledger import Ledger
from imaging_ai.serve import auth
from imaging_ai.serve.app import make_app

OTHER = "another four good words"


@pytest.fixture
def entrance(database: Database) -> Entrance:
    return open_entrance(database)


@pytest.fixture
def root(
    database: Database, ledger: Ledger, entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient[Litestar]]:
    """A client of an administrator."""
    monkeypatch.setattr(auth, "_TRUSTED_SECONDS", 0.0)
    entrance.users.add("root", Role.ADMINISTRATOR, PASSWORD)
    with TestClient(make_app(database, ledger, entrance=entrance), raise_server_exceptions=False) as client:
        client.headers.update(bearer(entrance.sessions.begin("root").access))
        yield client


def test_a_person_is_added_kept_out_and_let_in_again(root: TestClient[Litestar], entrance: Entrance) -> None:
    new = {"name": "Ada", "role": "clinician", "password": PASSWORD, "scopes": ["read"]}
    added = root.post("/api/users", json=new)
    assert (added.status_code, added.json()["name"], added.json()["scopes"]) == (201, "ada", ["read"])
    assert entrance.know("ada", PASSWORD, "") == "ada"
    assert root.put("/api/users/ada", json={"disabled": True}).json()["disabled_at"]
    assert entrance.know("ada", PASSWORD, "") is None
    assert root.put("/api/users/ada", json={"disabled": False}).json()["disabled_at"] is None
    assert root.put("/api/users/ada/password", json={"password": OTHER}).status_code == 204
    assert entrance.know("ada", OTHER, "") == "ada"
    listed = root.get("/api/users")
    assert [one["name"] for one in listed.json()] == ["ada", "root"]
    assert "argon2" not in listed.text


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/users", {"name": "root", "role": "auditor"}, 400),
        ("POST", "/api/users", {"name": "ada", "role": "emperor"}, 400),
        ("POST", "/api/users", {"name": "ada", "role": "auditor", "password": "short"}, 400),
        ("POST", "/api/users", {"name": "ada", "role": "auditor", "scopes": ["delete"]}, 400),
        ("PUT", "/api/users/nobody", {"disabled": True}, 404),
        ("PUT", "/api/users/nobody/password", {"password": PASSWORD}, 404),
        ("POST", "/api/tokens", {"name": "ehr", "role": "service", "scopes": ["users"]}, 400),
        ("POST", "/api/tokens", {"name": "a b", "role": "service"}, 400),
        ("POST", "/api/tokens", {"name": "ehr", "role": "service", "days": -1}, 400),
        ("DELETE", "/api/tokens/ehr", None, 404),
        ("DELETE", "/api/sessions/1", None, 404),
    ],
)
def test_what_cannot_be_done_is_said(
    root: TestClient[Litestar], method: str, path: str, body: dict[str, object] | None, status: int
) -> None:
    answer = root.request(method, path, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text


def test_sessions_are_listed_and_ended(root: TestClient[Litestar], entrance: Entrance) -> None:
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    cookie = entrance.sessions.begin_in_browser("ada")
    (one,) = [one for one in root.get("/api/sessions").json() if one["name"] == "ada"]
    assert root.delete(f"/api/sessions/{one['id']}").status_code == 204
    assert entrance.sessions.of_cookie(cookie) is None


def test_a_token_is_made_shown_once_and_ended(root: TestClient[Litestar], entrance: Entrance) -> None:
    made = root.post("/api/tokens", json={"name": "ehr", "role": "service", "scopes": ["read"], "days": 1}).json()[
        "token"
    ]
    who = entrance.tokens.principal(made)
    assert who is not None and who.scopes == {"read"}
    assert made not in root.get("/api/tokens").text
    assert root.delete("/api/tokens/ehr").status_code == 204
    assert entrance.tokens.principal(made) is None


def test_one_changes_ones_own_password_by_the_old_one(root: TestClient[Litestar], entrance: Entrance) -> None:
    for old, new, status in (("wrong", OTHER, 403), (PASSWORD, "short", 400), (PASSWORD, OTHER, 204)):
        assert root.put("/api/password", json={"old": old, "new": new}).status_code == status
    assert root.get("/api/session").status_code == 401, "every session ended, this one too"
    assert entrance.know("root", OTHER, "") == "root"
    script = bearer(entrance.tokens.create("script", Role.ADMINISTRATOR))
    assert root.put("/api/password", json={"old": OTHER, "new": PASSWORD}, headers=script).status_code == 403


def test_who_did_it_is_in_the_trail(root: TestClient[Litestar], database: Database) -> None:
    root.post("/api/users", json={"name": "ada", "role": "auditor"})
    root.post("/api/tokens", json={"name": "ehr", "role": "service"})
    with database.read() as session:
        query = "SELECT action, actor FROM audit_event WHERE object_uid IN ('ada', 'ehr') ORDER BY id"
        told = [tuple(row) for row in session.connection().exec_driver_sql(query).all()]
    assert told == [("add-user", "root"), ("create-token", "root")]


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMINISTRATOR])
def test_nobody_else_looks_after_people(root: TestClient[Litestar], entrance: Entrance, role: Role) -> None:
    shown = bearer(entrance.tokens.create("somebody", role))
    for method, path in (
        ("GET", "/api/users"),
        ("POST", "/api/users"),
        ("GET", "/api/tokens"),
        ("POST", "/api/tokens"),
    ):
        assert root.request(method, path, headers=shown).status_code == 403
