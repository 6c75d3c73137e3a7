"""How many requests are answered: by name once known, by address before, and never at the price of memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from imaging_ai.serve import rates as module
from imaging_ai.serve.rates import Rates, limited


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Client:
    """Asks an application that lets in whoever shows a password of `people`."""

    rates: Rates
    people: dict[str, str] = field(default_factory=dict)
    asked: int = 0

    def __post_init__(self) -> None:
        self.app = limited(self._app, self.rates)

    async def _app(self, scope: Any, _receive: Any, send: Any) -> None:
        self.asked += 1
        shown = dict(scope["headers"]).get(b"authorization", b"").decode()
        if shown in self.people:
            scope["user"] = type("Principal", (), {"name": self.people[shown]})()
        await send({"type": "http.response.start", "status": 200 if "user" in scope else 401, "headers": []})

    def ask(
        self, address: str = "10.0.0.1", shown: str = "", path: str = "/api", kind: str = "http", method: str = "GET"
    ) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", shown.encode())] if shown else []
        scope = {"type": kind, "path": path, "method": method, "client": (address, 1), "headers": headers}
        anyio.run(self.app, scope, None, send)  # type: ignore[arg-type]
        return sent

    def status(self, *arguments: str, **more: str) -> int:
        return int(self.ask(*arguments, **more)[0]["status"])


def test_a_burst_is_answered_and_then_so_many_a_second() -> None:
    clock = Clock()
    rates = Rates(2.0, 5, clock)
    assert [rates.wait("a") for _ in range(5)] == [0.0] * 5
    assert rates.wait("a") == pytest.approx(0.5)
    assert rates.wait("a") == pytest.approx(0.5), "what is refused is not counted"
    assert rates.wait("b") == 0.0
    clock.now += 0.5
    assert [rates.wait("a") > 0 for _ in range(2)] == [False, True]
    clock.now += 3600
    assert [rates.wait("a") > 0 for _ in range(6)] == [False] * 5 + [True]


def test_the_refusal_is_a_problem_document_and_says_when_to_try_again() -> None:
    client = Client(Rates(0.1, 1, Clock()))
    assert client.status() == 401
    start, body = client.ask()
    headers = dict(start["headers"])
    assert (start["status"], headers[b"retry-after"]) == (429, b"10")
    assert headers[b"content-type"] == b"application/problem+json"
    assert int(headers[b"content-length"]) == len(body["body"])
    assert json.loads(body["body"])["code"] == "too-many-requests"
    assert client.ask(method="HEAD")[1]["body"] == b""
    assert client.ask(kind="websocket")[0] == {
        "type": "websocket.close",
        "code": 1013,
        "reason": "too many requests",
    }
    assert client.asked == 1, "the application is not asked"


def test_health_is_always_told() -> None:
    client = Client(Rates(0.1, 1, Clock()))
    assert [client.asked for _ in range(10) if client.ask(path="/health/live")][-1] == 10


def test_who_was_let_in_is_counted_by_name_from_everywhere() -> None:
    client = Client(Rates(0.001, 3, Clock()), {"Bearer a1": "anna", "Bearer a2": "anna", "Bearer b": "ben"})
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        assert client.status(address, "Bearer a1") == 200  # the first is of the address, as nobody is known yet
    assert client.status("10.0.0.4", "Bearer a1") == 200
    assert client.status("10.0.0.5", "Bearer a1") == 429
    assert client.status("10.0.0.6", "Bearer a2") == 200, "a new token is not known yet"
    assert client.status("10.0.0.6", "Bearer a2") == 429, "and is anna's"
    assert client.status("10.0.0.1", "Bearer b") == 200, "others behind her address are not held up"


def test_guessing_credentials_makes_nobody_new() -> None:
    client = Client(Rates(0.001, 3, Clock()), {"Bearer good": "anna"})
    assert [client.status("10.0.0.1", f"Bearer guess{number}") for number in range(5)] == [401, 401, 401, 429, 429]


def test_credentials_that_are_no_longer_good_are_counted_by_address_again() -> None:
    client = Client(Rates(0.001, 2, Clock()), {"Bearer a": "anna"})
    assert [client.status("10.0.0.1", "Bearer a") for _ in range(2)] == [200, 200]
    client.people.clear()
    assert client.status("10.0.0.1", "Bearer a") == 401
    assert client.status("10.0.0.1", "Bearer a") == 401
    assert client.status("10.0.0.1", "Bearer a") == 429


def test_addresses_of_one_ipv6_network_are_one() -> None:
    client = Client(Rates(0.001, 2, Clock()))
    assert [client.status(f"2001:db8::{number}") for number in range(1, 4)] == [401, 401, 429]
    assert client.status("2001:db8:0:1::1") == 401
    assert [client.status("::ffff:10.0.0.1"), client.status("10.0.0.1"), client.status("10.0.0.1")] == [401, 401, 429]


def test_the_table_does_not_grow_beyond_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KNOWN", 100)
    clock = Clock()
    rates = Rates(1.0, 10, clock)
    for number in range(1000):
        rates.wait(f"crowd{number}")
        assert len(rates._due) <= 100
    while rates.wait("greedy") == 0.0:
        continue
    for number in range(49):
        rates.wait(f"more{number}")
    assert rates.wait("greedy") > 0, "who is over the rate is not forgotten for a crowd"
