"""A thousand long heads of anybody leave nothing behind; what is short is remembered, as it should be."""

from __future__ import annotations

import gc
from functools import _lru_cache_wrapper
from typing import Any

import pytest
from litestar import Litestar, Request, get
from litestar._parsers import parse_cookie_string, parse_query_string
from litestar.testing import TestClient

import imaging_ai.wiring.web  # noqa: F401 - all that the web role remembers
from imaging_ai.serve import guards
from imaging_ai.serve.forgetting import forgetful


@get("/{name:str}", sync_to_thread=False)
def asked(request: Request[Any, Any, Any], name: str, q: str = "") -> str:
    guards.require_host(request)
    return f"{name[:5]} {q[:5]} {len(request.cookies)}"


def remembered(app: Litestar) -> list[int]:
    caches = parse_cookie_string, parse_query_string, guards._host_name, app.asgi_router.handle_routing
    return [one.cache_info().currsize for one in caches]


@pytest.mark.parametrize("head", ["path", "query", "cookie"])
def test_what_a_long_head_said_is_forgotten(head: str) -> None:
    app = Litestar([asked], openapi_config=None)
    long = "x" * 5_000
    with TestClient(forgetful(app)) as client:
        short = client.get("/a?q=b", headers={"Cookie": "a=b"})
        assert short.text == "a b 1"
        assert min(remembered(app)) > 0
        answer = client.get(
            f"/{long if head == 'path' else 'a'}?q={long if head == 'query' else 'b'}",
            headers={"Cookie": f"a={long if head == 'cookie' else 'b'}"},
        )
        assert answer.status_code == 200
        assert remembered(app) == [0, 0, 0, 0]


def test_what_a_long_head_said_is_forgotten_also_where_it_was_refused() -> None:
    app = Litestar([asked], openapi_config=None)
    with TestClient(forgetful(app)) as client:
        client.get("/a?q=b", headers={"Cookie": "a=b"})
        assert client.get("/no/such/place", headers={"X": "y" * 5_000}).status_code == 404
        assert remembered(app) == [0, 0, 0, 0]


def test_what_is_remembered_of_what_strangers_send_stays_a_few_megabytes() -> None:
    ours = [one for one in gc.get_objects() if isinstance(one, _lru_cache_wrapper)]
    ours = [one for one in ours if str(getattr(one, "__module__", "")).startswith("imaging_ai.")]
    most = {f"{one.__module__}.{one.__name__}": one.cache_parameters()["maxsize"] for one in ours}
    assert len(most) > 10
    # what a module knows by heart of the standard or of its own has no bound
    assert {name: size for name, size in most.items() if (size or 0) > 4_096} == {}
