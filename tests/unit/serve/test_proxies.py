"""Behind proxies of ours everybody is who they are; anybody else who says so is not believed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import anyio
import pytest
from litestar import Litestar
from litestar.testing import TestClient
from sqlalchemy import text

from entering import PASSWORD, open_entrance
from imaging_ai.core.permission import Role
from imaging_ai.db.engine import Database
from imaging_ai.queue.ledger import Ledger
from imaging_ai.serve.app import make_app
from imaging_ai.serve.proxies import behind, client_address
from ledgers import Clock

PROXIES = tuple(map(ip_network, ("10.0.0.0/30", "2001:db8:1::/64")))
PROXY = "10.0.0.1"


def seen(peer: str | None, *headers: tuple[str, str], kind: str = "http", scheme: str = "http") -> tuple[str, str]:
    """What an application behind this sees of a request: the address and the scheme."""
    scopes: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        scopes.append(scope)

    scope = {
        "type": kind,
        "scheme": scheme,
        "client": None if peer is None else (peer, 40_000),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    before = dict(scope)
    anyio.run(behind(app, PROXIES), scope, None, None)  # type: ignore[arg-type]
    assert scope == before, "what belongs to the server is not changed"
    return client_address(scopes[0]), scopes[0].get("scheme", "")


def told(*values: str, peer: str = PROXY) -> str:
    return seen(peer, *(("x-forwarded-for", value) for value in values))[0]


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.0.0.2"], "192.0.2.7"),
        (["192.0.2.7", "10.0.0.2"], "192.0.2.7"),
        (["192.0.2.7,10.0.0.2,,10.0.0.3 , "], "192.0.2.7"),
        (["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        (["192.0.2.7:51234"], "192.0.2.7"),
        (["2001:DB8::7"], "2001:db8::7"),
        (["[2001:db8::7]:443"], "2001:db8::7"),
        (["[2001:db8::7], 2001:db8:1::2"], "2001:db8::7"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
    ],
)
def test_a_proxy_says_who_asked_it(values: list[str], client: str) -> None:
    assert told(*values) == client


def test_a_proxy_is_known_in_ipv6_and_in_ipv6_clothes() -> None:
    assert told("192.0.2.7", peer="2001:db8:1::9") == "192.0.2.7"
    assert told("192.0.2.7", peer="::ffff:10.0.0.1") == "192.0.2.7"
    assert told("192.0.2.7", peer="::ffff:10.0.0.9") == "::ffff:10.0.0.9"


@pytest.mark.parametrize("forged", ["127.0.0.1", "198.51.100.1, 10.0.0.2", "10.0.0.2, 10.0.0.3", "nonsense", ","])
def test_what_a_client_has_written_itself_is_left_of_what_is_read(forged: str) -> None:
    assert told(f"{forged}, 192.0.2.7") == "192.0.2.7"
    assert told(forged, "192.0.2.7") == "192.0.2.7"
    assert told(forged, "192.0.2.7, 10.0.0.2") == "192.0.2.7"


@pytest.mark.parametrize("peer", ["192.0.2.7", "10.0.0.4", "2001:db8:2::1", "testclient", ""])
def test_whoever_is_no_proxy_of_ours_is_not_believed(peer: str) -> None:
    headers = [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-proto", "https")]
    assert seen(peer, *headers) == (peer, "http")
    assert seen(None, *headers) == ("", "http")


@pytest.mark.parametrize(
    "garbage",
    [
        "unknown",
        "_hidden",
        "192.0.2.256",
        "192.0.2",
        "192.0.2.7:port",
        "192.0.2.7:123456",
        "[192.0.2.7",
        "2001:db8::7]",
        "[2001:db8::7]x",
        "fe80::1%eth0",
        ":::::",
        "1.2.3.4\x00",
        "<script>",
        "é" * 20,
        "9" * 60_000,
    ],
)
def test_what_is_no_address_leaves_the_last_who_was_one(garbage: str) -> None:
    assert told(garbage) == PROXY
    assert told(f"{garbage}, 10.0.0.2") == "10.0.0.2"
    assert told(f"192.0.2.7, {garbage}") == PROXY, "nobody says that whoever stands further left asked it"


def test_without_the_header_it_is_the_proxy() -> None:
    assert seen(PROXY) == (PROXY, "http")
    assert told("") == told(" , ,") == PROXY


def test_ten_thousand_hops_are_read_no_further_than_to_the_client() -> None:
    assert told(", ".join(["10.0.0.2"] * 5_000 + ["192.0.2.7"])) == "192.0.2.7"
    assert told(", ".join(["192.0.2.7"] + ["10.0.0.2"] * 5_000)) == "192.0.2.7"


@pytest.mark.parametrize(
    ("kind", "said", "scheme"),
    [
        ("http", "https", "https"),
        ("http", "HTTPS", "https"),
        ("http", "wss", "https"),
        ("http", "https, http", "http"),
        ("http", "gopher", "http"),
        ("http", "", "http"),
        ("websocket", "https", "wss"),
        ("websocket", "wss", "wss"),
        ("websocket", "http", "ws"),
    ],
)
def test_a_proxy_says_whether_it_was_asked_by_https(kind: str, said: str, scheme: str) -> None:
    assert seen(PROXY, ("x-forwarded-proto", said), kind=kind, scheme=kind.replace("websocket", "ws"))[1] == scheme


def test_the_beginning_and_the_end_of_the_server_are_nobodys() -> None:
    assert seen(PROXY, ("x-forwarded-for", "192.0.2.7"), kind="lifespan")[0] == PROXY


# -- the whole application


@pytest.fixture
def web(database: Database, ledger: Ledger) -> Iterator[TestClient[Litestar]]:
    entrance = open_entrance(database, clock=Clock(time.time()))  # which stands: a lock does not end meanwhile
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    app = make_app(database, ledger, entrance=entrance, proxies=PROXIES)
    inside = app.asgi_handler

    async def from_elsewhere(scope: Any, receive: Any, send: Any) -> None:
        peer = next((value.decode() for name, value in scope.get("headers", ()) if name == b"peer"), PROXY)
        await inside({**scope, "client": (peer, 40_000)}, receive, send)

    app.asgi_handler = from_elsewhere
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def login(web: TestClient[Litestar], name: str, client: str, password: str = "wrong", peer: str = PROXY) -> Any:
    headers = {"peer": peer, "x-forwarded-for": client}
    return web.post("/api/login", json={"name": name, "password": password}, headers=headers)


def test_who_guesses_behind_a_proxy_locks_out_themselves_and_not_the_others(
    web: TestClient[Litestar], database: Database
) -> None:
    answers = [login(web, f"nobody{number}", "192.0.2.66").status_code for number in range(27)]
    assert (answers[0], answers[-1]) == (401, 429)
    assert login(web, "nobody", "192.0.2.66, 192.0.2.66").status_code == 429, "nor by what they write themselves"
    assert login(web, "ada", "192.0.2.1", PASSWORD).status_code == 200
    with database.read() as session:
        rows = session.connection().execute(text("SELECT origin, count(*) FROM audit_event GROUP BY origin")).all()
    assert {"192.0.2.66", "192.0.2.1"} <= {row[0] for row in rows}
    assert PROXY not in {row[0] for row in rows}


def test_who_is_no_proxy_does_not_get_round_the_lock_by_the_header(web: TestClient[Litestar]) -> None:
    answers = [login(web, f"no{n}", f"198.51.100.{n}", peer="192.0.2.66").status_code for n in range(27)]
    assert answers[-1] == 429
    assert login(web, "ada", "192.0.2.66", PASSWORD).status_code == 429, "and is the same by way of the proxy"


def test_the_cookie_is_one_of_https_when_a_proxy_was_asked_by_it(web: TestClient[Litestar]) -> None:
    def cookie(peer: str) -> str:
        headers = {"peer": peer, "x-forwarded-for": "192.0.2.9", "x-forwarded-proto": "https"}
        own = {"origin": "http://testserver.local", "host": "testserver.local"}
        form = {"name": "ada", "password": PASSWORD}
        answer = web.post("/login", data=form, headers={**headers, **own}, follow_redirects=False)
        return str(answer.headers.get("set-cookie", answer.text))

    assert cookie(PROXY).startswith("__Host-imaging-ai=")
    assert "Secure" in cookie(PROXY)
    assert cookie("192.0.2.9").startswith("imaging-ai=")
