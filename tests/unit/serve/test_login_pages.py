"""People log in with a browser; its cookie lets in, and serves no page but ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from entering import PASSWORD, open_entrance
from imaging_ai.core.permission import Role
from imaging_ai.db.engine import Database
from imaging_ai.people.entrance import Entrance
from imaging_ai.queue.ledger import Ledger
from imaging_ai.serve import auth
from imaging_ai.serve.app import make_app

OURS = {"origin": "http://pacs.example"}


@pytest.fixture
def entrance(database: Database) -> Entrance:
    entrance = open_entrance(database)
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD, scopes=["work"])
    entrance.users.add("bob", Role.TECHNOLOGIST, PASSWORD)
    return entrance


@pytest.fixture
def browser(
    database: Database, ledger: Ledger, entrance: Entrance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient[Litestar]]:
    monkeypatch.setattr(auth, "_TRUSTED_SECONDS", 0.0)
    app = make_app(database, ledger, entrance=entrance, viewer=tmp_path / "viewer")
    with TestClient(app, base_url="http://pacs.example", raise_server_exceptions=False) as client:
        client.follow_redirects = False
        yield client


def login(browser: TestClient[Litestar], name: str = "bob", **data: str) -> httpx.Response:
    return browser.post("/login", data={"name": name, "password": PASSWORD, **data}, headers=OURS)


def cookie_of(answer: httpx.Response) -> Morsel[str]:
    (morsel,) = SimpleCookie(answer.headers["set-cookie"]).values()
    return morsel


def test_a_person_logs_in_goes_where_they_wanted_and_is_let_in(browser: TestClient[Litestar]) -> None:
    led = browser.get("/viewer/segmentation?StudyInstanceUIDs=1.2.3")
    assert (led.status_code, led.headers["location"]) == (
        303,
        "/login?next=/viewer/segmentation%3FStudyInstanceUIDs%3D1.2.3",
    )
    page = browser.get(led.headers["location"])
    assert page.status_code == 200
    (then,) = re.findall(r'name="next" value="([^"]*)"', page.text)
    let_in = login(browser, next=then)
    assert (let_in.status_code, let_in.headers["location"]) == (303, "/viewer/segmentation?StudyInstanceUIDs=1.2.3")
    assert browser.get("/viewer/segmentation").status_code == 404, "let in: the viewer is not installed"
    assert browser.get("/api/studies").status_code == 200


def test_the_cookie_is_for_no_script_no_other_page_and_no_plain_http_where_there_is_https(
    database: Database, ledger: Ledger, entrance: Entrance, browser: TestClient[Litestar]
) -> None:
    plain = cookie_of(login(browser))
    assert (plain.key, plain["httponly"], plain["samesite"], plain["path"], plain["secure"], plain["max-age"]) == (
        "imaging-ai", True, "strict", "/", "", "",
    )  # fmt: skip
    app = make_app(database, ledger, entrance=entrance, public_url="https://pacs.example/")
    with TestClient(app, base_url="http://10.0.0.1") as behind_a_proxy:
        behind_a_proxy.follow_redirects = False
        posted = {"data": {"name": "bob", "password": PASSWORD}, "headers": {"origin": "https://pacs.example"}}
        secure = cookie_of(behind_a_proxy.post("/login", **posted))
    assert (secure.key, secure["secure"], secure["domain"]) == ("__Host-imaging-ai", True, "")


def test_pages_hold_no_script_and_nothing_of_elsewhere(browser: TestClient[Litestar]) -> None:
    for page in (browser.get("/login"), browser.get("/first?link=x"), login(browser, password="wrong")):
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert (page.headers["cache-control"], page.headers["referrer-policy"]) == ("no-store", "same-origin")
        assert not re.search(r"<script|<link|<img|https?://|\son\w+=", page.text)


def test_what_is_typed_comes_back_as_text(browser: TestClient[Litestar]) -> None:
    page = login(browser, '"><script>x</script>', next='/"><b>')
    assert page.status_code == 401
    assert "<script" not in page.text and "<b>" not in page.text
    assert PASSWORD not in page.text


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil",
        "/a\nb",
        "javascript:x",
        "viewer",
        "/ü",
        "/a b",
    ],
)
def test_nobody_is_led_elsewhere(browser: TestClient[Litestar], elsewhere: str) -> None:
    assert login(browser, next=elsewhere).headers["location"] == "/viewer"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://pacs.example.evil.example"},
        {"origin": "http://pacs.example:8080"},
        {"origin": "http://pacs.example", "sec-fetch-site": "cross-site"},
        {"origin": "http://pacs.example", "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_a_page_of_elsewhere_changes_nothing_in_somebodys_name(
    browser: TestClient[Litestar], headers: dict[str, str]
) -> None:
    login(browser, "ada")
    for path in ("/login", "/logout", "/first", "/emergency", "/api/logout", "/api/emergency"):
        answer = browser.post(path, data={"name": "ada", "reason": "because"}, headers=headers)
        assert answer.status_code == 403, path
    assert browser.get("/api/session").json()["emergency"] is False, "still logged in, and nothing changed"


@pytest.mark.parametrize("headers", [OURS, {"origin": "https://pacs.example"}, {"sec-fetch-site": "same-origin"}])
def test_a_page_of_ours_does(browser: TestClient[Litestar], headers: dict[str, str]) -> None:
    login(browser, "ada")
    assert browser.post("/api/logout", headers=headers).status_code == 204
    assert browser.get("/api/session").status_code == 401


def test_a_token_needs_no_page_of_ours(browser: TestClient[Litestar], entrance: Entrance) -> None:
    """A browser adds no token by itself. And who shows one is who it says, whatever the cookie."""
    shown = {"authorization": f"Bearer {entrance.sessions.begin('ada').access}", "origin": "https://evil.example"}
    login(browser, "bob")
    assert browser.get("/api/session", headers=shown).json()["name"] == "ada"
    assert browser.post("/api/logout", headers=shown).status_code == 204
    assert browser.get("/api/session", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert browser.get("/api/session").json()["name"] == "bob"


def test_a_wrong_password_gives_no_cookie_and_too_many_have_to_wait(browser: TestClient[Litestar]) -> None:
    for _ in range(6):
        wrong = login(browser, password="wrong")
        assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
    refused = login(browser)
    assert (refused.status_code, "set-cookie" in refused.headers) == (429, False)
    assert "wait" in refused.text


def test_a_session_ends_with_the_button(browser: TestClient[Litestar], entrance: Entrance) -> None:
    cookie = cookie_of(login(browser)).value
    assert "You are <strong>bob</strong>, technologist" in browser.get("/login").text
    ended = browser.post("/logout", headers=OURS)
    assert (ended.status_code, cookie_of(ended)["max-age"]) == (303, "0")
    assert entrance.sessions.of_cookie(cookie) is None, "not only forgotten by the browser"


def test_emergency_access_is_a_form_for_those_who_may_ask(browser: TestClient[Litestar]) -> None:
    login(browser, "ada")
    assert "Take emergency access" in browser.get("/login").text
    assert browser.get("/api/studies").status_code == 403
    refused = browser.post("/emergency", data={"reason": "x"}, headers=OURS)
    assert (refused.status_code, "needs a reason" in refused.text) == (400, True)
    assert browser.post("/emergency", data={"reason": "nobody else is here"}, headers=OURS).status_code == 303
    assert "Emergency access is in force" in browser.get("/login").text
    assert browser.get("/api/studies").status_code == 200
    browser.post("/emergency", data={"end": "yes"}, headers=OURS)
    assert browser.get("/api/studies").status_code == 403


def test_the_first_administrator_is_made_by_the_link_and_logged_in(database: Database, ledger: Ledger) -> None:
    entrance = open_entrance(database)
    link = entrance.invitations.first()
    with TestClient(make_app(database, ledger, entrance=entrance), base_url="http://pacs.example") as browser:
        browser.follow_redirects = False
        assert "becomes its administrator" in browser.get(f"/first?link={link}").text

        def first(**data: str) -> httpx.Response:
            return browser.post(
                "/first", data={"link": str(link), "name": "root", "password": PASSWORD, **data}, headers=OURS
            )

        assert (first(password="short").status_code, first(name="a b").status_code) == (400, 400)
        assert first(link="wrong").status_code == 410
        done = first()
        assert (done.status_code, done.headers["location"]) == (303, "/login")
        assert browser.get("/api/session").json()["role"] == "administrator"
        assert first(name="mallory").status_code == 410
        assert browser.get(f"/first?link={link}").status_code == 410


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/viewer", 303),
        ("/viewer/", 303),
        ("/viewer/index.html", 303),
        ("/viewer/a/b", 303),
        ("/viewer/app.js", 404),
        ("/viewer/?token=x", 404),
    ],
)
def test_only_the_pages_of_the_viewer_lead_to_the_login(browser: TestClient[Litestar], path: str, status: int) -> None:
    assert browser.get(path).status_code == status
    assert browser.get(path, headers={"host": "a b"}).status_code == 400


def test_who_comes_from_a_page_elsewhere_goes_on_over_one_of_ours(browser: TestClient[Litestar]) -> None:
    """A strict cookie is not shown on the way from elsewhere: the login would be asked for again."""
    page = browser.get('/viewer/x?StudyInstanceUIDs=1&a="', headers={"sec-fetch-site": "cross-site"})
    assert page.status_code == 200
    assert '<meta http-equiv="refresh" content="0;url=/viewer/x?StudyInstanceUIDs=1&amp;a=' in page.text
    assert 'a="' not in page.text.replace('a=""', "")


def test_who_may_not_read_is_told_so_at_the_viewer(browser: TestClient[Litestar]) -> None:
    login(browser, "ada")
    assert browser.get("/viewer/").status_code == 403


def test_an_api_answers_who_shows_nothing_in_its_own_words(browser: TestClient[Litestar]) -> None:
    answer: Any = browser.get("/api/studies")
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")


def test_who_asks_for_nothing_is_led_to_the_login(browser: TestClient[Litestar]) -> None:
    led = browser.get("/")
    assert (led.status_code, led.headers["location"]) == (303, "/login")
