"""A browser can show no header when it opens a WebSocket: its cookie lets it in, and no page but ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from litestar.exceptions import WebSocketDisconnect
from litestar.testing import TestClient

import ledgers
import storing
from entering import PASSWORD, open_entrance
from imaging_ai.core.permission import Role
from imaging_ai.db.engine import Database
from imaging_ai.people.entrance import Entrance
from imaging_ai.serve import auth
from imaging_ai.serve.app import make_app
from imaging_ai.serve.dicomweb.parts import Parts

SOCKET = "/dicom-web/ws/subscribers/READER"
HOST = "pacs.example"
VIEWER = "https://viewer.example"


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    database = Database(ledgers.sqlite_url(tmp_path))
    ledgers.open_database(database.url).dispose()
    made = storing.make_parts(database, tmp_path)
    yield made
    made.archive.close()
    database.dispose()


@pytest.fixture
def entrance(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Entrance:
    monkeypatch.setattr(auth, "_TRUSTED_SECONDS", 0.0)
    entrance = open_entrance(parts.database)
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    entrance.users.add("otto", Role.AUDITOR, PASSWORD)
    return entrance


def open_web(parts: Parts, entrance: Entrance, **options: Any) -> TestClient[Litestar]:
    app = make_app(parts.database, parts.ledger, entrance=entrance, dicomweb=parts, origins=[VIEWER], **options)
    if "proxies" in options:
        inside = app.asgi_handler

        async def from_proxy(scope: Any, receive: Any, send: Any) -> None:
            await inside({**scope, "client": ("10.0.0.1", 1)}, receive, send)

        app.asgi_handler = from_proxy
    return TestClient(app, base_url=f"http://{HOST}", raise_server_exceptions=False)


def opens(client: TestClient[Litestar], **headers: str) -> bool:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with client.websocket_connect(SOCKET, headers=told):
            return True
    except WebSocketDisconnect as refused:
        assert refused.code in (4401, 4403), refused.code
        return False


def test_the_cookie_opens_the_connection_for_our_pages_alone(parts: Parts, entrance: Entrance) -> None:
    cookie = f"imaging-ai={entrance.sessions.begin_in_browser('ada')}"
    with open_web(parts, entrance) as client:
        assert opens(client, cookie=cookie, origin=f"http://{HOST}")
        assert opens(client, cookie=cookie, origin=f"http://{HOST}", sec_fetch_site="same-origin")
        assert not opens(client, origin=f"http://{HOST}"), "without a cookie"
        assert not opens(client, cookie=cookie), "whoever asks does not say for which page"
        assert not opens(client, cookie=f"imaging-ai={'x' * 50}", origin=f"http://{HOST}")
        for origin in ("https://evil.example", "null", f"http://{HOST}.evil.example", f"http://{HOST}:81", VIEWER):
            assert not opens(client, cookie=cookie, origin=origin), origin
        for site in ("cross-site", "same-site", "none"):
            assert not opens(client, cookie=cookie, origin=f"http://{HOST}", sec_fetch_site=site), site
        auditor = f"imaging-ai={entrance.sessions.begin_in_browser('otto')}"
        assert not opens(client, cookie=auditor, origin=f"http://{HOST}"), "who may not read"


def test_nothing_more_is_told_after_logout(parts: Parts, entrance: Entrance) -> None:
    cookie = f"imaging-ai={entrance.sessions.begin_in_browser('ada')}"
    own = {"cookie": cookie, "origin": f"http://{HOST}"}
    with open_web(parts, entrance) as client, ExitStack() as opened:
        opened.enter_context(client.websocket_connect(SOCKET, headers=own))
        assert client.post("/logout", headers=own, follow_redirects=False).is_redirect
        assert not opens(client, **own)


@pytest.mark.parametrize("host", [HOST, "imaging-ai.internal:8080"])
def test_behind_a_proxy_that_ends_tls_it_is_the_same(parts: Parts, entrance: Entrance, host: str) -> None:
    """By its public address the server knows its pages, whatever Host the proxy names; or by X-Forwarded-Proto."""
    cookie = f"__Host-imaging-ai={entrance.sessions.begin_in_browser('ada')}"
    own = {"cookie": cookie, "origin": f"https://{HOST}", "host": host}
    with open_web(parts, entrance, public_url=f"https://{HOST}") as client:
        assert opens(client, **own)
        assert not opens(client, **{**own, "origin": "https://evil.example"})
    told = {**own, "x_forwarded_proto": "wss", "x_forwarded_for": "192.0.2.1"}
    with open_web(parts, entrance, proxies=(ip_network("10.0.0.1"),)) as client:
        assert opens(client, **told) == (host == HOST)
    with open_web(parts, entrance) as client:
        assert not opens(client, **{**told, "host": HOST}), "who is no proxy of ours does not make it HTTPS"
