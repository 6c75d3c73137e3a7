"""What is answered ahead of litestar is answered to the same people, and leaves the same traces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from litestar import Litestar, get
from litestar.testing import TestClient

import phantoms
from entering import open_entrance
from imaging_ai.core.permission import Role
from imaging_ai.errors import BadParameterError
from imaging_ai.people.tokens import Tokens
from imaging_ai.serve import auth
from imaging_ai.serve.ahead import answer_ahead
from imaging_ai.serve.app import make_app
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.wire import Whole
from imaging_ai.serve.guards import host_check
from shelf import OHIF, shelf, split

only_linux = pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux tells what is in memory")


class Asked:
    """An application of one handler that may answer at once, and what was asked of it."""

    def __init__(self) -> None:
        self.at_once: list[str] = []
        self.slowly: list[str] = []

        async def at_once(_request: Any, name: str) -> Whole | None:
            self.at_once.append(name)
            if name == "wrong":
                raise BadParameterError("name", "is wrong")
            if name == "broken":
                raise ArithmeticError(name)
            return None if name == "cold" else Whole(b"at once", "text/plain")

        @get("/things/{name:str}/x", opt={"at_once": at_once})
        async def thing(name: str) -> str:
            self.slowly.append(name)
            return "slowly"

        app = Litestar([thing], logging_config=None)
        answer_ahead(app, host_check({"here.local"}))
        self.client = TestClient(app, base_url="http://here.local", raise_server_exceptions=False)


def test_a_handler_that_can_is_asked_before_litestar_does_anything() -> None:
    asked = Asked()
    answer = asked.client.get("/things/warm/x")
    assert (answer.text, answer.headers["content-length"]) == ("at once", "7")
    assert (asked.at_once, asked.slowly) == (["warm"], [])


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/things/cold/x", {}),
        ("/things/broken/x", {}),
        ("/things/warm/x", {"origin": "https://viewer.example"}),
        ("/things/warm//x/", {}),
        ("/things/warm/x", {"host": "elsewhere"}),
    ],
)
def test_what_is_out_of_the_ordinary_goes_to_litestar(path: str, headers: dict[str, str]) -> None:
    asked = Asked()
    assert asked.client.get(path, headers=headers).text == "slowly"


def test_what_is_wrong_is_not_tried_twice() -> None:
    asked = Asked()
    answer = asked.client.get("/things/wrong/x")
    assert (answer.status_code, answer.json()["parameters"][0]["parameter"]) == (400, "name")
    assert (asked.at_once, asked.slowly) == (["wrong"], [])


def test_other_methods_and_places_are_answered_by_litestar() -> None:
    asked = Asked()
    assert asked.client.delete("/things/warm/x").status_code == 405
    assert asked.client.options("/things/warm/x").headers["allow"] == "GET, OPTIONS"
    assert asked.client.get("/things/warm/x/y").status_code == 404
    assert asked.at_once == []


# -- frames, through the whole application


@dataclass(frozen=True)
class Frames:
    """The application over one instance, and the path of its frame."""

    app: Litestar
    client: TestClient[Litestar]
    parts: Parts
    tokens: Tokens
    path: str

    def get(self, secret: str = "", path: str = "", **headers: str) -> httpx.Response:
        sent = {"accept": OHIF, **({"authorization": f"Bearer {secret}"} if secret else {}), **headers}
        return self.client.get(path or self.path, headers=sent)

    @contextmanager
    def without_litestar(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """What only litestar can answer fails."""
        with monkeypatch.context() as patched:
            patched.setattr(self.app.asgi_router, "handle_routing", None)
            yield


@contextmanager
def open_frames(tmp_path: Path, *, guarded: bool = False) -> Iterator[Frames]:
    with shelf(tmp_path) as opened:
        (path,) = opened.put(*phantoms.series(np.zeros((1, 6, 8), np.float32), name="ahead"))
        parts = opened.parts
        entrance = open_entrance(parts.database)
        app = make_app(parts.database, parts.ledger, dicomweb=parts, entrance=entrance if guarded else None)
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        yield Frames(app, client, parts, entrance.tokens, f"/dicom-web/{path}/frames/1")


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Frames]:
    monkeypatch.setattr(auth, "_TRUSTED_SECONDS", 0.0)
    with open_frames(tmp_path, guarded=True) as frames:
        yield frames


def audited(frames: Frames, action: str = "read-frames") -> list[tuple[Any, ...]]:
    frames.parts.accesses.flush()
    with frames.parts.database.read() as session:
        query = "SELECT actor, action, detail FROM audit_event WHERE action = ? ORDER BY id"
        return [tuple(row) for row in session.connection().exec_driver_sql(query, (action,)).all()]


@only_linux
def test_only_who_may_read_gets_a_frame_that_is_in_memory(guarded: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, auditor = guarded.tokens.create("viewer", Role.SERVICE), guarded.tokens.create("watcher", Role.AUDITOR)
    assert guarded.get(reader).status_code == 200, "and now it is remembered"
    with guarded.without_litestar(monkeypatch):
        assert guarded.get(reader).status_code == 200
        assert guarded.get().status_code == guarded.get(auditor).status_code == 500, "left to litestar"
    assert [guarded.get(secret).status_code for secret in ("", "wrong", auditor)] == [401, 401, 403]
    assert guarded.get(reader, host="a b").status_code == 400
    guarded.tokens.revoke("viewer")
    assert guarded.get(reader).status_code == 401
    assert audited(guarded) == [("viewer", "read-frames", "2 times")], "nothing else was read"


@only_linux
def test_a_frame_in_memory_is_for_this_host_and_for_as_long_as_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_frames(tmp_path) as frames:
        first = frames.get()
        with frames.without_litestar(monkeypatch):
            again = frames.get()
        assert (again.status_code, [one.body for one in split(again)]) == (200, [one.body for one in split(first)])
        assert set(again.headers) == set(first.headers)
        assert frames.get(host="evil.example").status_code == 421
        assert frames.get(path=frames.path.replace("/frames/1", "/frames/2")).status_code == 404
        assert frames.get(path=frames.path.replace("/studies/2", "/studies/3")).status_code == 404
        assert frames.get(accept="image/png").status_code == 406
        assert frames.client.delete(frames.path.partition("/frames")[0]).status_code == 204
        assert frames.get().status_code == 410
        assert audited(frames) == [("", "read-frames", "2 times")]


# -- searches, through the whole application

JSON, XML = "application/dicom+json", 'multipart/related; type="application/dicom+xml"'


def search(frames: Frames, query: str = "?limit=1", secret: str = "", **headers: str) -> httpx.Response:
    return frames.get(secret, f"/dicom-web/studies{query}", **{"accept": JSON, **headers})


def test_only_who_may_read_finds_anything(guarded: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, auditor = guarded.tokens.create("viewer", Role.SERVICE), guarded.tokens.create("watcher", Role.AUDITOR)
    with guarded.without_litestar(monkeypatch):
        found = [search(guarded, query, reader) for query in ("", "?PatientName=*hant*", "?includefield=all&limit=1")]
        assert [(answer.status_code, len(answer.json())) for answer in found] == [(200, 1)] * 3
        assert search(guarded).status_code == search(guarded, secret=auditor).status_code == 500, "left to litestar"
    assert [search(guarded, secret=secret).status_code for secret in ("", "wrong", auditor)] == [401, 401, 403]
    assert audited(guarded, "search-studies") == [("viewer", "search-studies", "3 times")]


@pytest.mark.parametrize("query", ["?limit=1&fuzzymatching=perhaps", "?StudyDate=abc", "?limit=-1"])
def test_what_is_wrong_with_a_search_is_told_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    with open_frames(tmp_path) as frames:
        behind = search(frames, query, origin="https://viewer.example")
        with frames.without_litestar(monkeypatch):
            ahead = search(frames, query)
        assert (ahead.status_code, ahead.json()) == (400, behind.json())


def test_an_answer_to_a_search_is_the_same_ahead_of_litestar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_frames(tmp_path) as frames:
        plain = {"accept-encoding": "identity"}
        for query in ("?limit=0", "?PatientID=nobody", "?includefield=all", "?00100010=*&SeriesDate=20240101-"):
            behind = search(frames, query, origin="https://viewer.example", **plain)
            with frames.without_litestar(monkeypatch):
                ahead, packed = search(frames, query, **plain), search(frames, query)
            assert (ahead.status_code, ahead.content, ahead.headers) == (200, behind.content, behind.headers)
            assert packed.content == ahead.content
        assert packed.headers["vary"] == "Accept, Accept-Encoding"
        assert search(frames, accept=XML).headers["content-type"].startswith(XML)
        (study,) = search(frames).json()
        (url,) = study["00081190"]["Value"]
        assert url.startswith("http://127.0.0.1/dicom-web/studies/")
        with frames.without_litestar(monkeypatch):
            assert search(frames, accept=XML).status_code == 500, "a stream may break off, and is left to litestar"
            every = frames.client.get("/dicom-web/instances?includefield=all", headers={"accept": JSON})
            assert (every.headers["content-encoding"], len(every.json())) == ("gzip", 1)
            for below in ("/series", "/instances"):
                assert len(frames.client.get(url + below, headers={"accept": JSON}).json()) == 1
            assert search(frames, "/1.2.x/series").status_code == 400


# -- pictures, through the whole application


def test_a_picture_is_the_same_ahead_of_litestar_and_seen_by_those_who_may(
    guarded: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, auditor = guarded.tokens.create("viewer", Role.SERVICE), guarded.tokens.create("watcher", Role.AUDITOR)
    for path in (guarded.path, guarded.path.partition("/frames")[0]):
        asked = f"{path}/rendered?viewport=4,4"
        behind = guarded.get(reader, asked, accept="image/png", origin="https://viewer.example")
        with guarded.without_litestar(monkeypatch):
            ahead = guarded.get(reader, asked, accept="image/png")
            etag = {"if-none-match": ahead.headers["etag"], "accept": "image/png"}
            assert guarded.get(reader, asked, **etag).status_code == 304
            assert guarded.get(reader, f"{path}/rendered?viewport=4", accept="image/png").status_code == 400
            assert guarded.get(auditor, asked).status_code == 500, "left to litestar"
        assert (ahead.status_code, ahead.content, ahead.headers) == (200, behind.content, behind.headers)
    assert [guarded.get(secret, asked).status_code for secret in ("", auditor)] == [401, 403]
    assert audited(guarded, "read-rendered") == [("viewer", "read-rendered", "6 times")]


@pytest.mark.parametrize("below", ["series", "instances", "frames"])
def test_what_comes_in_parts_is_left_to_litestar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    with open_frames(tmp_path) as frames:
        asked = frames.path.partition(f"/{below}/")[0] + "/rendered"
        parts = 'multipart/related; type="image/png"'
        answer = frames.get(path=asked, accept=parts)
        assert (answer.status_code, len(split(answer))) == (200, 1)
        assert len(audited(frames, "read-rendered")) == 1
        with frames.without_litestar(monkeypatch):
            assert frames.get(path=asked, accept=parts).status_code == 500


# -- without an event loop


def outside(frames: Frames, path: str, accept: str) -> list[Any] | None:
    """Return what is sent where no event loop is; None if one is needed."""
    path, _, query = path.partition("?")
    headers = [(b"host", b"127.0.0.1"), (b"accept", accept.encode())]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": headers}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    more = {"raw_path": path.encode(), "root_path": "", "scheme": "http", "client": None, "server": None, "state": {}}
    request: Any = frames.app({**scope, **more}, None, send)  # type: ignore[typeddict-item, arg-type]
    try:
        request.send(None)
    except StopIteration:
        return sent
    request.close()
    return None


@only_linux
def test_what_waits_for_nothing_needs_no_event_loop(tmp_path: Path) -> None:
    with open_frames(tmp_path) as frames:
        picture = f"{frames.path}/rendered"
        wanted = [(frames.path, OHIF), (picture, "image/png"), ("/dicom-web/studies?limit=1", JSON)]
        assert [outside(frames, *one) is None for one in wanted] == [True, True, False]
        inside = [frames.get(path=path, accept=accept, **{"accept-encoding": "identity"}) for path, accept in wanted]
        for one, answer in zip(wanted, inside, strict=True):
            start, body = outside(frames, *one) or ({}, {})
            assert (start["status"], len(body["body"])) == (answer.status_code, len(answer.content))


def test_everything_else_goes_on_in_one(tmp_path: Path) -> None:
    with open_frames(tmp_path) as frames:
        assert outside(frames, "/health/live", "*/*") is None
        assert outside(frames, f"{frames.path.partition('/frames')[0]}/metadata", JSON) is None
