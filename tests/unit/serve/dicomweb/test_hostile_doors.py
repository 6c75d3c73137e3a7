"""Doors without a key: every route refuses who shows no token, asks for another host, or comes from another origin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.exceptions import WebSocketDisconnect
from litestar.handlers import HTTPRouteHandler
from litestar.routes import ASGIRoute, HTTPRoute, WebSocketRoute
from litestar.testing import TestClient
from sqlmodel import SQLModel

import storing
from entering import open_entrance
from imaging_ai.core.permission import Role
from imaging_ai.db.engine import Database
from imaging_ai.serve.app import make_app
from imaging_ai.serve.auth import need_of
from imaging_ai.serve.dicomweb.parts import Parts

ORIGIN = "https://viewer.example"
SOCKET = "/dicom-web/ws/subscribers/READER"


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    database = Database(f"sqlite:///{tmp_path / 'index.db'}")
    SQLModel.metadata.create_all(database.engine)
    parts = storing.make_parts(database, tmp_path)
    yield parts
    parts.archive.close()
    database.dispose()


@pytest.fixture
def guarded(parts: Parts) -> Iterator[TestClient[Litestar]]:
    app = make_app(
        parts.database,
        parts.ledger,
        entrance=open_entrance(parts.database),
        dicomweb=parts,
        origins=[ORIGIN],
        public_url="",
    )
    with TestClient(app, base_url="http://localhost.local", raise_server_exceptions=False) as client:
        yield client


def doors(app: Litestar) -> Iterator[tuple[str, str]]:
    """Method and address of every route that is for somebody."""
    for route in app.routes:
        path = re.sub(r"\{\w+:(int)?\w*\}", lambda kind: "1" if kind[1] else "1.2.3", str(route.path))
        if isinstance(route, HTTPRoute) and path.startswith(("/dicom-web", "/api", "/metrics")):
            for handler in route.route_handlers:
                assert isinstance(handler, HTTPRouteHandler)
                if need_of(handler) == "nothing":
                    continue
                for method in sorted(handler.http_methods - {"OPTIONS", "HEAD"}):
                    yield method, path


def test_no_route_opens_without_a_token(guarded: TestClient[Litestar], parts: Parts) -> None:
    """Or with one that is none; and none of them says more than that."""
    found = list(doors(guarded.app))
    assert len(found) > 45, found
    for method, path in found:
        for shown in ({}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic eDp5"}, {"cookie": "token=x"}):
            answer = guarded.request(method, path, headers=shown, content=b"[")
            assert answer.status_code == 401, (method, path, shown)
            assert answer.headers["www-authenticate"].startswith("Bearer ")
            assert set(answer.json()) <= {"type", "title", "status", "detail", "code"}
    auditor = {"authorization": f"Bearer {open_entrance(parts.database).tokens.create('watcher', Role.AUDITOR)}"}
    opened = {path for method, path in found if guarded.request(method, path, headers=auditor).status_code != 403}
    assert not any(path.startswith("/dicom-web") for path in opened), opened


def test_what_is_neither_guarded_nor_known_is_not_there(guarded: TestClient[Litestar]) -> None:
    """A route of a new kind has to be thought of here."""
    known = ("/dicom-web", "/api", "/fhir", "/metrics", "/health", "/schema")
    known += ("/login", "/logout", "/first", "/emergency")
    for route in guarded.app.routes:
        assert str(route.path).startswith(known) or route.path == "/", route.path  # which leads to the login
        assert not isinstance(route, ASGIRoute) or str(route.path).startswith("/schema"), route.path


def test_no_notification_connection_opens_without_a_token(guarded: TestClient[Litestar], parts: Parts) -> None:
    sockets = [route.path for route in guarded.app.routes if isinstance(route, WebSocketRoute)]
    assert len(sockets) == 2
    for path in (re.sub(r"\{[^}]+\}", "READER", str(one)) for one in sockets):
        for shown in ({}, {"authorization": "Bearer nonsense"}):
            with pytest.raises(WebSocketDisconnect), guarded.websocket_connect(path, headers=shown):
                pass
    secret = open_entrance(parts.database).tokens.create("reader", Role.ADMINISTRATOR)
    with guarded.websocket_connect(SOCKET, headers={"authorization": f"Bearer {secret}"}):
        pass


def test_no_page_of_another_origin_is_told_anything(guarded: TestClient[Litestar]) -> None:
    for origin in ("https://evil.example", "null", f"{ORIGIN}.evil.example", ORIGIN.upper() + ":444", "https://viewer"):
        for path in ("/dicom-web/studies", "/api/studies", "/metrics"):
            preflight = {"origin": origin, "access-control-request-method": "GET"}
            for answer in (guarded.options(path, headers=preflight), guarded.get(path, headers={"origin": origin})):
                allowed = {name for name in answer.headers if name.startswith("access-control-allow-origin")}
                assert not allowed, (origin, path)
    open_to_it = guarded.get("/dicom-web/studies", headers={"origin": ORIGIN})
    assert open_to_it.status_code == 401
    assert open_to_it.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in open_to_it.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((name, 200) for name in ("localhost", "localhost:8080", "LOCALHOST", "127.0.0.1:1", "[::1]", "[::1]:8080")),
        *((name, 421) for name in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "[::2]", "0.0.0.0")),
        *((name, 400) for name in ("localhost:99999", "localhost:x", "[::1", "[::1]evil", "a@localhost", "a/x")),
    ],
)
def test_only_this_host_is_answered_for(parts: Parts, host: str, status: int) -> None:
    app = make_app(parts.database, parts.ledger, dicomweb=parts)
    with TestClient(app, base_url="http://localhost.local", raise_server_exceptions=False) as client:
        for path in ("/dicom-web/studies", "/api/studies"):
            assert client.get(path, headers={"host": host}).status_code == status
        if status != 200:
            with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET, headers={"host": host}):
                pass


def test_a_malformed_host_is_refused_with_a_token_too(guarded: TestClient[Litestar], parts: Parts) -> None:
    """Addresses in answers are made of it."""
    shown = {"authorization": f"Bearer {open_entrance(parts.database).tokens.create('service', Role.SERVICE)}"}
    assert guarded.get("/dicom-web/studies", headers=shown | {"host": "pacs.example:8080"}).status_code == 200
    assert guarded.get("/dicom-web/studies", headers=shown | {"host": "pacs.example:99999"}).status_code == 400
