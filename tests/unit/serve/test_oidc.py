"""A person logs in with the hospital's provider, a real one, and has a session of ours; nobody else's code is good."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from entering import open_entrance
from imaging_ai.core.permission import Role
from imaging_ai.db.engine import Database
from imaging_ai.people.entrance import Entrance
from imaging_ai.people.oidc_provider import Provider, Registration
from imaging_ai.queue.ledger import Ledger
from imaging_ai.serve import auth
from imaging_ai.serve.app import make_app
from services.openid import PASSWORD, Client, OpenIdProvider, User

HERE = "http://imaging-ai.example"
CALLBACK = f"{HERE}/login/oidc/callback"
SECRET = "of the client: + and % and *"


@pytest.fixture(scope="module")
def hospital() -> Iterator[OpenIdProvider]:
    provider = OpenIdProvider()
    provider.clients["imaging-ai"] = Client("imaging-ai", SECRET, (CALLBACK,))
    provider.clients["public"] = Client("public", "", (CALLBACK,))
    provider.clients["other"] = Client("other", "", (CALLBACK,))
    provider.users["ada"] = User({"sub": "u-1", "preferred_username": "ada", "groups": ["radiology"]})
    provider.users["bob"] = User({"sub": "u-2", "preferred_username": "bob", "groups": ["kitchen"]})
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture
def entrance(database: Database, hospital: OpenIdProvider) -> Entrance:
    roles = {"radiology": Role.CLINICIAN}
    return open_entrance(database, provider=Provider(Registration(hospital.issuer, "imaging-ai", SECRET, roles=roles)))


@pytest.fixture
def app(
    database: Database, ledger: Ledger, entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient[Litestar]]:
    monkeypatch.setattr(auth, "_TRUSTED_SECONDS", 0.0)
    with browser(make_app(database, ledger, entrance=entrance)) as client:
        yield client


def browser(app: Litestar) -> TestClient[Litestar]:
    client = TestClient(app, base_url=HERE, raise_server_exceptions=False)
    client.follow_redirects = False
    return client


def enter(address: str, name: str = "ada") -> str:
    """Log in with the provider, and return the address that it sends the browser back to."""
    answer = httpx.post(address, data={"name": name, "password": PASSWORD})
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]


def leave(app: TestClient[Litestar], then: str = "/api/studies") -> str:
    answer = app.get("/login/oidc", params={"next": then})
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def test_a_person_goes_to_the_provider_and_comes_back_with_a_session(
    app: TestClient[Litestar], hospital: OpenIdProvider, database: Database
) -> None:
    address = leave(app)
    asked = dict(parse_qsl(urlsplit(address).query))
    assert address.startswith(f"{hospital.issuer}/authorize?tenant=1&")
    assert (asked["code_challenge_method"], asked["scope"], asked["redirect_uri"]) == (
        "S256",
        "openid profile",
        CALLBACK,
    )
    back = app.get(enter(address))
    assert back.status_code == 200, back.text
    assert 'content="0;url=/api/studies"' in back.text, "led on by a page of ours: the strict cookie is shown then"
    session, ended = sorted(back.headers.get_list("set-cookie"), key=len, reverse=True)
    assert all(word in session for word in ("imaging-ai=ias_", "HttpOnly", "SameSite=strict"))
    assert ended.startswith('imaging-ai-login=""; ') and "Max-Age=0" in ended
    assert app.get("/api/session").json()["name"] == "ada"
    assert "You are <strong>ada</strong>, clinician" in app.get("/login").text
    with database.read() as connection:
        told = connection.connection().exec_driver_sql("SELECT action, actor, detail FROM audit_event").all()
    assert [tuple(one) for one in told] == [("add-user", "ada", "clinician"), ("login", "ada", "OpenID Connect")]
    out = app.post("/logout", headers={"sec-fetch-site": "same-origin"})
    assert (out.status_code, out.headers["location"]) == (303, "/login")
    assert app.get("/api/session").status_code == 401


def test_what_a_login_remembers_is_told_to_no_script_and_no_other_site(app: TestClient[Litestar]) -> None:
    (cookie,) = app.get("/login/oidc").headers.get_list("set-cookie")
    assert all(word in cookie for word in ("HttpOnly", "SameSite=lax", "Max-Age=600", "Path=/"))
    secret = re.search(r"imaging-ai-login=([^;]+)", cookie)
    assert secret is not None
    assert secret[1].split(".")[1] not in leave(app)


def test_a_public_client_has_no_secret_to_show(database: Database, ledger: Ledger, hospital: OpenIdProvider) -> None:
    registration = Registration(hospital.issuer, "public", roles={"radiology": Role.TECHNOLOGIST})
    entrance = open_entrance(database, provider=Provider(registration))
    with browser(make_app(database, ledger, entrance=entrance)) as app:
        assert app.get(enter(leave(app))).status_code == 200
        assert app.get("/api/session").json()["role"] == "technologist"


def test_who_has_no_role_here_is_told_so_and_recorded(app: TestClient[Litestar], database: Database) -> None:
    refused = app.get(enter(leave(app), "bob"))
    assert refused.status_code == 403
    assert "gives you no role here" in refused.text
    assert app.get("/api/session").status_code == 401
    with database.read() as connection:
        (told,) = connection.connection().exec_driver_sql("SELECT action, outcome, actor FROM audit_event").all()
    assert tuple(told) == ("login", "refused", "")


def test_an_answer_is_good_once_in_the_browser_that_asked(
    app: TestClient[Litestar], database: Database, ledger: Ledger, entrance: Entrance
) -> None:
    back = enter(leave(app))
    with browser(make_app(database, ledger, entrance=entrance)) as thief:
        assert thief.get(back).status_code == 401, "without the cookie"
        leave(thief)
        assert thief.get(back).status_code == 401, "with the cookie of a login of its own"
    assert app.get(back).status_code == 200
    app.cookies.delete("imaging-ai")
    assert app.get(back).status_code == 401, "a second time"


def test_another_answer_than_the_one_that_was_asked_for_lets_nobody_in(app: TestClient[Litestar]) -> None:
    def asked() -> dict[str, str]:
        return dict(parse_qsl(urlsplit(enter(leave(app))).query))

    for change in (
        {"state": "x"},
        {"state": ""},
        {"state": "ü"},
        {"code": ""},
        {"code": "x"},
        {"code": "x" * 5000},
        {"iss": "http://localhost:1"},
        {"error": "access_denied", "code": ""},
    ):
        refused = app.get("/login/oidc/callback", params={**asked(), **change})
        assert (refused.status_code, "Try again" in refused.text) == (401, True), change
    for missing in ("code", "state"):
        told = {name: value for name, value in asked().items() if name != missing}
        assert app.get("/login/oidc/callback", params=told).status_code == 401
    assert app.get("/api/session").status_code == 401


def test_a_token_of_another_login_or_for_another_is_not_taken(
    app: TestClient[Litestar], hospital: OpenIdProvider
) -> None:
    def tampered(**others: object) -> int:
        back = enter(leave(app))
        (code,) = (one for one in hospital.codes.values() if one.code in back)
        code.user = User({**code.user.claims, **others})
        return app.get(back).status_code

    assert tampered(nonce="another") == 401
    assert tampered(aud="other") == 401
    assert tampered(aud=["imaging-ai", "other"]) == 401
    assert tampered(aud=["imaging-ai", "other"], azp="other") == 401
    assert tampered(iss="http://localhost:1") == 401
    assert tampered(exp=1) == 401
    assert tampered(aud=["imaging-ai", "other"], azp="imaging-ai") == 200


def test_the_provider_wants_the_code_verifier(app: TestClient[Litestar], hospital: OpenIdProvider) -> None:
    back = enter(leave(app))
    (code,) = (one for one in hospital.codes.values() if one.code in back)
    code.code_challenge = "x" * 43
    assert app.get(back).status_code == 401


def test_a_login_that_took_too_long_is_begun_anew(
    app: TestClient[Litestar], entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert entrance.openid is not None
    began = entrance.openid._clock()
    back = enter(leave(app))
    monkeypatch.setattr(entrance.openid, "_clock", lambda: began + 700)
    assert app.get(back).status_code == 401


def test_nobody_is_led_elsewhere_afterwards(app: TestClient[Litestar]) -> None:
    for evil in ("https://evil.example/", "//evil.example", "/\\evil.example", "/" + "x" * 3000):
        back = app.get(enter(leave(app, evil)))
        assert 'content="0;url=/login"' in back.text
        app.cookies.clear()


def test_the_login_page_offers_the_hospital_and_takes_passwords_too(
    app: TestClient[Litestar], database: Database, ledger: Ledger
) -> None:
    page = app.get("/login?next=/viewer?a=1%26b=2").text
    assert 'href="/login/oidc?next=%2Fviewer%3Fa%3D1%26b%3D2"' in page
    assert 'name="password"' in page
    with browser(make_app(database, ledger, entrance=open_entrance(database))) as alone:
        assert "oidc" not in alone.get("/login").text
        assert alone.get("/login/oidc").status_code == 404


def test_without_the_provider_a_page_says_so_and_passwords_are_taken(
    database: Database, ledger: Ledger, hospital: OpenIdProvider
) -> None:
    nobody = Registration("http://localhost:9", "imaging-ai", roles={"radiology": Role.CLINICIAN})
    with browser(make_app(database, ledger, entrance=open_entrance(database, provider=Provider(nobody)))) as app:
        away = app.get("/login/oidc")
        assert (away.status_code, "does not answer" in away.text, 'name="password"' in away.text) == (503, True, True)


def test_a_disabled_guest_stays_out_and_a_role_follows_the_provider(
    app: TestClient[Litestar], entrance: Entrance, hospital: OpenIdProvider
) -> None:
    assert app.get(enter(leave(app))).status_code == 200
    entrance.users.disable("ada")
    assert app.get("/api/session").status_code == 401
    assert app.get(enter(leave(app))).status_code == 403
    entrance.users.enable("ada")
    assert app.get(enter(leave(app))).status_code == 200
