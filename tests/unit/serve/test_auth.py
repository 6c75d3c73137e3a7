"""Who shows a token gets in, as far as its role goes; everybody else is told what is missing and nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Litestar, WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.testing import TestClient

from entering import bearer, open_entrance
from imaging_ai.core.permission import Role
from imaging_ai.core.principal import Principal
from imaging_ai.db.engine import Database
from imaging_ai.errors import DatabaseUnavailable, InputError, NotFound
from imaging_ai.people.entrance import Entrance
from imaging_ai.people.tokens import Tokens
from imaging_ai.queue.ledger import Ledger
from imaging_ai.serve import auth
from imaging_ai.serve.app import make_app
from imaging_ai.serve.guards import door


@pytest.fixture
def entrance(database: Database) -> Entrance:
    return open_entrance(database)


@pytest.fixture
def tokens(entrance: Entrance) -> Tokens:
    return entrance.tokens


@pytest.fixture
def guarded(
    database: Database, ledger: Ledger, entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient[Litestar]]:
    monkeypatch.setattr(auth, "_TRUSTED_SECONDS", 0.0)
    with TestClient(make_app(database, ledger, entrance=entrance), raise_server_exceptions=False) as client:
        yield client


def test_without_a_token_the_answer_is_401_and_says_how(guarded: TestClient[Litestar]) -> None:
    for headers in ({}, {"authorization": "Basic eDp5"}, {"authorization": "Bearer "}):
        answer = guarded.get("/api/studies", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="imaging-ai"')
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_token_lets_in_until_it_is_revoked(guarded: TestClient[Litestar], tokens: Tokens) -> None:
    secret = tokens.create("ehr", Role.SERVICE)
    assert guarded.get("/api/studies", headers=bearer(secret)).status_code == 200
    tokens.revoke("ehr")
    refused = guarded.get("/api/studies", headers=bearer(secret))
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]


def test_an_expired_or_changed_token_is_none(guarded: TestClient[Litestar], tokens: Tokens) -> None:
    brief = tokens.create("brief", Role.ADMINISTRATOR, days=1e-9)
    good = tokens.create("good", Role.ADMINISTRATOR, days=1)
    for secret in (brief, good[:-1], good + "x", good.swapcase(), "x" * 10_000):
        assert guarded.get("/api/studies", headers=bearer(secret)).status_code == 401
    assert guarded.get("/api/studies", headers=bearer(good)).status_code == 200


def test_a_role_that_may_not_is_told_403(guarded: TestClient[Litestar], tokens: Tokens) -> None:
    answer = guarded.get("/api/studies", headers=bearer(tokens.create("watcher", Role.AUDITOR)))
    assert answer.status_code == 403
    assert "auditor" in answer.json()["detail"]


def test_a_token_may_no_more_than_its_scopes(guarded: TestClient[Litestar], tokens: Tokens) -> None:
    scraper = bearer(tokens.create("prometheus", Role.SERVICE, scopes=["metrics"]))
    assert guarded.get("/metrics", headers=scraper).status_code == 200
    assert guarded.get("/api/studies", headers=scraper).status_code == 403
    assert guarded.get("/api/session", headers=scraper).json()["may"] == ["nothing", "session", "metrics"]


def test_verifiers_of_elsewhere_are_asked_when_ours_do_not_know_a_token(
    database: Database, ledger: Ledger, tokens: Tokens
) -> None:
    asked: list[str] = []

    def elsewhere(secret: str) -> Principal | None:
        asked.append(secret)
        return Principal("ada", Role.CLINICIAN) if secret == "good" else None

    app = make_app(database, ledger, entrance=open_entrance(database, also=[elsewhere]))
    with TestClient(app) as client:
        assert client.get("/api/studies", headers=bearer("good")).status_code == 200
        assert client.get("/api/studies", headers=bearer("bad")).status_code == 401
        assert client.get("/api/studies", headers=bearer(tokens.create("ehr", Role.SERVICE))).status_code == 200
    assert asked == ["good", "bad"]


def test_a_verifier_that_cannot_tell_is_no_reason_to_say_no(database: Database, ledger: Ledger) -> None:
    def away(_secret: str) -> Principal | None:
        raise DatabaseUnavailable("the provider does not answer")

    app = make_app(database, ledger, entrance=open_entrance(database, also=[away]))
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/api/studies", headers=bearer("x")).status_code == 503


def test_metrics_are_behind_the_guard_and_health_is_not(guarded: TestClient[Litestar], tokens: Tokens) -> None:
    assert guarded.get("/metrics").status_code == 401
    assert guarded.get("/metrics", headers=bearer(tokens.create("m", Role.AUDITOR))).status_code == 200
    assert guarded.get("/health/live").status_code == 200


def test_a_changed_word_of_a_handler_locks_rather_than_opens(database: Database, ledger: Ledger) -> None:
    needs = {
        auth.need_of(handler)
        for route in make_app(database, ledger).routes
        for handler in getattr(route, "route_handlers", ())
        if "POST" in handler.http_methods and "needs" not in handler.opt
    }
    assert needs <= {"administrate"}


def test_only_the_digest_of_a_token_is_kept(database: Database, tokens: Tokens) -> None:
    secret = tokens.create("ehr", Role.SERVICE)
    with database.read() as session:
        kept = str(session.connection().exec_driver_sql("SELECT * FROM token").all())
        audited = str(session.connection().exec_driver_sql("SELECT * FROM audit_event").all())
    assert secret not in kept + audited
    assert "create-token" in audited


def test_a_name_is_given_once_and_an_unknown_one_cannot_be_revoked(tokens: Tokens) -> None:
    tokens.create("ehr", Role.SERVICE)
    with pytest.raises(InputError, match="already"):
        tokens.create("ehr", Role.AUDITOR)
    with pytest.raises(NotFound, match="nobody"):
        tokens.revoke("nobody")
    assert [(one.name, one.role, one.revoked_at) for one in tokens.entries()] == [("ehr", Role.SERVICE, None)]


def test_pages_of_other_origins_ask_only_when_they_are_named(
    database: Database, ledger: Ledger, client: TestClient[Litestar]
) -> None:
    preflight = {"origin": "https://viewer.example", "access-control-request-method": "GET"}
    named = make_app(database, ledger, origins=["https://viewer.example"])
    with TestClient(named) as open_to_it:
        answer = open_to_it.options("/api/studies", headers=preflight)
        assert answer.is_success
        assert answer.headers["access-control-allow-origin"] == "https://viewer.example"
        other = open_to_it.options("/api/studies", headers={**preflight, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
    assert "access-control-allow-origin" not in client.options("/api/studies", headers=preflight).headers


def test_a_websocket_tells_nothing_more_when_the_session_has_ended(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_TRUSTED_SECONDS", 0.0)
    keeper = auth.Doorkeeper(entrance.verifiers)

    @websocket("/events", opt={"needs": "read"}, middleware=[door(keeper.check)])
    async def events(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        while True:
            await socket.send_text(await socket.receive_text())

    shown = bearer(entrance.tokens.create("reader", Role.SERVICE))
    client = TestClient(Litestar([events], logging_config=None))
    with client, client.websocket_connect("/events", headers=shown) as socket:
        socket.send_text("one")
        assert socket.receive_text() == "one"
        entrance.tokens.revoke("reader")
        socket.send_text("two")
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()
