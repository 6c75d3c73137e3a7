"""Programs log in by `/api/login`, and what they show afterwards is good or it is nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from entering import KEY, PASSWORD, bearer, open_entrance
from imaging_ai.core.permission import Role
from imaging_ai.db.engine import Database
from imaging_ai.people.entrance import Entrance
from imaging_ai.queue.ledger import Ledger
from imaging_ai.serve import auth
from imaging_ai.serve.app import make_app


@pytest.fixture
def entrance(database: Database) -> Entrance:
    entrance = open_entrance(database)
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD, scopes=["read"])
    return entrance


@pytest.fixture
def server(
    database: Database, ledger: Ledger, entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient[Litestar]]:
    monkeypatch.setattr(auth, "_TRUSTED_SECONDS", 0.0)
    with TestClient(make_app(database, ledger, entrance=entrance), raise_server_exceptions=False) as client:
        yield client


def login(server: TestClient[Litestar], name: str = "ada", password: str = PASSWORD) -> Any:
    return server.post("/api/login", json={"name": name, "password": password})


def test_a_login_gives_tokens_that_let_in_and_are_renewed(server: TestClient[Litestar]) -> None:
    answer = login(server, "Ada")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    told = answer.json()
    assert (told["token_type"], told["expires_in"]) == ("Bearer", 300)
    assert server.get("/api/studies", headers=bearer(told["access_token"])).status_code == 200
    renewed = server.post("/api/login/refresh", json={"refresh_token": told["refresh_token"]}).json()
    assert server.get("/api/studies", headers=bearer(renewed["access_token"])).status_code == 200
    again = server.post("/api/login/refresh", json={"refresh_token": told["refresh_token"]})
    assert again.status_code == 401
    for one in (told, renewed):
        assert server.get("/api/studies", headers=bearer(one["access_token"])).status_code == 401


def test_who_asks_is_told_what_they_may(server: TestClient[Litestar]) -> None:
    who = server.get("/api/session", headers=bearer(login(server).json()["access_token"])).json()
    assert who == {
        "name": "ada",
        "role": "clinician",
        "may": ["nothing", "session", "read", "emergency"],
        "emergency": False,
    }


def test_after_logout_nothing_of_the_session_lets_in(server: TestClient[Litestar]) -> None:
    told = login(server).json()
    assert server.post("/api/logout", headers=bearer(told["access_token"])).status_code == 204
    assert server.get("/api/session", headers=bearer(told["access_token"])).status_code == 401
    assert server.post("/api/login/refresh", json={"refresh_token": told["refresh_token"]}).status_code == 401


def test_whatever_is_wrong_with_a_login_the_answer_is_the_same(
    server: TestClient[Litestar], entrance: Entrance
) -> None:
    entrance.users.add("gone", Role.CLINICIAN, PASSWORD)
    entrance.users.disable("gone")
    wrong = [login(server, *one) for one in (("ada", "wrong"), ("nobody", PASSWORD), ("gone", PASSWORD), ("ada", ""))]
    assert {answer.status_code for answer in wrong} == {401}
    assert {answer.text for answer in wrong} == {wrong[0].text}
    assert "ada" not in wrong[0].text


def test_too_many_failures_are_answered_429_with_how_long_to_wait(server: TestClient[Litestar]) -> None:
    for _ in range(6):
        assert login(server, password="wrong").status_code == 401
    refused = login(server)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) in (1, 2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"{}",
        b'{"name": "ada"}',
        b'{"name": 1, "password": 2}',
        b'{"name": "ada", "password": "x", "role": "y"}',
        b'{"name": "ada", "password": "\xff"}',
        b"[" * 8_000,
    ],
)
def test_a_body_that_is_no_login_is_400(server: TestClient[Litestar], body: bytes) -> None:
    answer = server.post("/api/login", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    large = server.post("/api/login", json={"name": "ada", "password": "x" * 10_000})
    assert large.status_code == 413


# -- tokens that are not good: 401, and no word more


def claims(entrance: Entrance, **changed: Any) -> dict[str, Any]:
    """The claims of a good access token, but for what is changed."""
    sid = entrance.sessions.of_access_token(entrance.sessions.begin("ada").access)
    assert sid is not None
    now = int(time.time())
    good = {"iss": "imaging-ai", "aud": "imaging-ai", "sub": "ada", "sid": sid.session, "iat": now, "exp": now + 300}
    return {**good, **changed}


def signed(
    entrance: Entrance, algorithm: str = "HS256", key: bytes = KEY.derive("access token"), **changed: Any
) -> str:
    return jwt.encode(claims(entrance, **changed), key, algorithm, headers={"typ": "at+jwt"})


def of_a_revoked_session(entrance: Entrance) -> str:
    access = entrance.sessions.begin("ada").access
    who = entrance.sessions.of_access_token(access)
    assert who is not None
    entrance.sessions.end(who)
    return access


def of_a_disabled_person(entrance: Entrance) -> str:
    entrance.users.add("bob", Role.ADMINISTRATOR, PASSWORD)
    access = entrance.sessions.begin("bob").access
    entrance.users.disable("bob")
    return access


def of_a_revoked_program(entrance: Entrance) -> str:
    secret = entrance.tokens.create("ehr", Role.ADMINISTRATOR)
    entrance.tokens.revoke("ehr")
    return secret


BAD = {
    "expired": lambda entrance: signed(entrance, exp=int(time.time()) - 1),
    "tampered": lambda entrance: signed(entrance)[:-9] + "A" + signed(entrance)[-8:],
    "of another issuer": lambda entrance: signed(entrance, iss="https://evil.example"),
    "for another audience": lambda entrance: signed(entrance, aud="another"),
    "alg=none": lambda entrance: jwt.encode(claims(entrance), None, "none", headers={"typ": "at+jwt"}),  # type: ignore[arg-type]
    "another algorithm": lambda entrance: signed(entrance, algorithm="HS384"),
    "signed by another": lambda entrance: signed(entrance, key=b"another key of the same length!!"),
    "revoked": of_a_revoked_session,
    "of a disabled person": of_a_disabled_person,
    "a program's, revoked": of_a_revoked_program,
    "a program's, expired": lambda entrance: entrance.tokens.create("brief", Role.ADMINISTRATOR, days=1e-9),
    "a refresh token": lambda entrance: entrance.sessions.begin("ada").refresh,
    "a cookie": lambda entrance: entrance.sessions.begin_in_browser("ada"),
    "nonsense": lambda _entrance: "nonsense",
}


@pytest.mark.filterwarnings("ignore:The HMAC key")
@pytest.mark.parametrize("kind", BAD)
def test_a_token_that_is_not_good_is_401_without_detail(
    server: TestClient[Litestar], entrance: Entrance, kind: str
) -> None:
    assert server.get("/api/session", headers=bearer(signed(entrance))).status_code == 200, "but for what is wrong"
    answer = server.get("/api/session", headers=bearer(BAD[kind](entrance)))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="imaging-ai", error="invalid_token"'
    assert answer.json()["detail"] == "the token is not known here, has expired or was revoked", "for all of them"


# -- emergency access


def test_emergency_access_opens_for_a_while_what_was_closed(server: TestClient[Litestar], entrance: Entrance) -> None:
    entrance.users.add("student", Role.CLINICIAN, PASSWORD, scopes=["work"])
    shown = bearer(login(server, "student").json()["access_token"])
    assert server.get("/api/studies", headers=shown).status_code == 403
    assert server.post("/api/emergency", json={"reason": " "}, headers=shown).status_code == 400
    taken = server.post("/api/emergency", json={"reason": "nobody else is here"}, headers=shown)
    assert (taken.status_code, sorted(taken.json())) == (201, ["until"])
    assert server.get("/api/studies", headers=shown).status_code == 200
    assert server.get("/api/session", headers=shown).json()["emergency"] is True
    assert server.delete("/api/emergency", headers=shown).status_code == 204
    assert server.get("/api/studies", headers=shown).status_code == 403


def test_emergency_access_is_refused_to_who_may_not_ask_or_needs_none(
    server: TestClient[Litestar], entrance: Entrance
) -> None:
    entrance.users.add("root", Role.ADMINISTRATOR, PASSWORD)
    entrance.users.add("bob", Role.TECHNOLOGIST, PASSWORD)
    for name, status in (("root", 403), ("bob", 409)):
        shown = bearer(login(server, name).json()["access_token"])
        assert server.post("/api/emergency", json={"reason": "because"}, headers=shown).status_code == status
    script = bearer(entrance.tokens.create("script", Role.CLINICIAN))
    assert server.post("/api/emergency", json={"reason": "because"}, headers=script).status_code == 400
