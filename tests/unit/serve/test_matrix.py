"""Everybody at every door: each role, narrowed, in an emergency, and nobody, on each route, as the tables say.

The application is the one that is served. What it answers to a token that is not good is the same, whatever is wrong.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from litestar import Litestar
from litestar.exceptions import WebSocketDisconnect
from litestar.testing import TestClient

import phantoms
from entering import PASSWORD, bearer, cheap_passwords
from imaging_ai.config import Settings, load
from imaging_ai.core.permission import EMERGENCY, ROLES, Need, Role
from imaging_ai.people.entrance import Entrance
from imaging_ai.serve import auth
from imaging_ai.serve.auth import GuardedRoute, guarded_routes
from imaging_ai.wiring import make_entrance, make_web_app
from services.openid import OpenIdProvider
from storing import content_type, ct, instance, multipart

#: Asked last, in this order: after them whoever asked is somebody else.
_LAST = ("/emergency", "/api/emergency", "/api/logout")
#: They need nothing, and refuse by themselves what is not good.
_JUDGES = {"/api/login/refresh", "/login/oidc/callback"}
_IMAGE = ct(1, "matrix")[0]
_NAMES = {
    "study": _IMAGE.StudyInstanceUID,
    "series": _IMAGE.SeriesInstanceUID,
    "instance": _IMAGE.SOPInstanceUID,
    "study_instance_uid": _IMAGE.StudyInstanceUID,
    "workitem": "2.25.7",
    "ae_title": "WATCHER",
}


@dataclass(frozen=True)
class Asker:
    """Somebody, by what they show and by what they may."""

    called: str
    shows: Mapping[str, str]
    may: frozenset[Need]


@dataclass(frozen=True)
class Place:
    """The served application, and who is known there."""

    app: Litestar
    client: TestClient[Litestar]
    entrance: Entrance
    hospital: OpenIdProvider

    def routes(self) -> Sequence[GuardedRoute]:
        return sorted(guarded_routes(self.app), key=lambda one: (*(one.path == last for last in _LAST), one.path))

    def log_in(self, name: str) -> dict[str, str]:
        return bearer(self.entrance.sessions.begin(name).access)

    def of_hospital(self, **others: Any) -> str:
        now = int(time.time())
        told = {"iss": self.hospital.issuer, "aud": "imaging-ai", "sub": "u-1", "iat": now, "exp": now + 600}
        return self.hospital.sign({**told, "groups": ["radiology"], **others})


@pytest.fixture(scope="module")
def hospital() -> Iterator[OpenIdProvider]:
    provider = OpenIdProvider()
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, hospital: OpenIdProvider) -> Iterator[Place]:
    settings = _settings(tmp_path_factory.mktemp("matrix"), hospital)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imaging_ai.people.entrance.Passwords", cheap_passwords)
        app, entrance = make_web_app(settings), make_entrance(settings)
    for role in Role:
        entrance.users.add(f"a-{role}", role, PASSWORD if role is Role.AUDITOR else None)
    for role in (Role.CLINICIAN, Role.TECHNOLOGIST):
        entrance.users.add(f"narrow-{role}", role, None, scopes=["work"])
    with TestClient(app, base_url="http://localhost.local", raise_server_exceptions=False) as client:
        client.follow_redirects = False
        yield Place(app, client, entrance, hospital)
    entrance.database.dispose()


def _settings(folder: Path, hospital: OpenIdProvider) -> Settings:
    file = folder / "imaging-ai.toml"
    file.write_text(
        f'[auth]\noidc_issuer = "{hospital.issuer}"\noidc_client_id = "imaging-ai"\n'
        'oidc_roles = { "radiology" = "clinician" }\n[http]\nviewer = "/nonexistent"\n'
    )
    return load(file, environment={"IMAGING_AI_DATA_DIR": str(folder)})


# -- who asks


def _by_role(place: Place) -> Iterator[Asker]:
    for role in Role:
        yield Asker(f"{role}, logged in", place.log_in(f"a-{role}"), ROLES[role])
        secret = place.entrance.tokens.create(f"t-{role}", role)
        yield Asker(f"{role}, by token", bearer(secret), ROLES[role])


def _otherwise(place: Place) -> Iterator[Asker]:
    cookie = place.entrance.sessions.begin_in_browser("a-administrator")
    yield Asker("administrator, in a browser", {"cookie": f"imaging-ai={cookie}"}, ROLES[Role.ADMINISTRATOR])
    yield Asker("clinician, of the hospital", bearer(place.of_hospital()), ROLES[Role.CLINICIAN])
    for scope in ("read", "store", "metrics"):
        secret = place.entrance.tokens.create(f"only-{scope}", Role.SERVICE, scopes=[scope])
        yield Asker(f"a program that may only {scope}", bearer(secret), frozenset({scope}))  # type: ignore[arg-type]


def _narrowed(place: Place) -> Iterator[Asker]:
    for role in (Role.CLINICIAN, Role.TECHNOLOGIST):
        name, may = f"narrow-{role}", frozenset[Need]({"work", "emergency"})
        yield Asker(f"{role}, narrowed", place.log_in(name), may)
        access = place.entrance.sessions.begin(name).access
        who = place.entrance.sessions.of_access_token(access)
        assert who is not None
        place.entrance.emergencies.begin(who, "the matrix of roles")
        yield Asker(f"{role}, in an emergency", bearer(access), may | EMERGENCY[role])


# -- what is asked


def _asked(place: Place, route: GuardedRoute, shows: Mapping[str, str]) -> int:
    """Ask for a route in a way that somebody might, and return the status."""
    path = re.sub(r"\{(\w+):(\w+)\}", lambda one: str(_NAMES.get(one[1], "1")), route.path)
    if route.method == "DELETE":
        path = path.replace(str(_IMAGE.StudyInstanceUID), "1.2.3")
    if route.method == "WebSocket":
        try:
            with place.client.websocket_connect(path, headers={**shows, "sec-fetch-site": "same-origin"}):
                return 101
        except WebSocketDisconnect as closed:
            return closed.code - 4000
    brings = _brings(route)
    headers = {"sec-fetch-site": "same-origin", **shows, **brings.pop("headers", {})}
    return place.client.request(route.method, path, headers=headers, **brings).status_code


def _brings(route: GuardedRoute) -> dict[str, Any]:
    if route.method not in ("POST", "PUT"):
        return {}
    if route.path.startswith("/dicom-web/studies"):
        return {
            "content": multipart([instance(phantoms.to_bytes(_IMAGE))]),
            "headers": {"content-type": content_type()},
        }
    known, reason = {"name": "a-auditor", "password": PASSWORD}, {"reason": "because of the matrix"}
    forms = {"/login": known, "/first": known, "/logout": {}, "/emergency": reason}
    if route.path in forms:
        return {"data": forms[route.path]}
    told = {"/api/login": known, "/api/emergency": reason, "/api/login/refresh": {"refresh_token": "x"}}
    return {"json": told.get(route.path, {})}


# -- the matrix


def _everybody(place: Place) -> list[Asker]:
    known = [*_by_role(place), *_otherwise(place), *_narrowed(place)]
    return [Asker("nobody", {}, frozenset()), *known]


def _stated(asker: Asker, route: GuardedRoute) -> str:
    """What the tables say: "in", "out" (401) or "forbidden" (403)."""
    if route.need == "nothing":
        return "in"
    if not asker.shows:
        return "out"
    return "in" if route.need == "session" or route.need in asker.may else "forbidden"


def _happened(route: GuardedRoute, status: int) -> str:
    if route.path in _JUDGES:
        return "in" if status == 401 else f"{status}"
    if route.path.startswith("/viewer") and status == 303:
        return "out"  # led to the login
    if 500 <= status < 600:
        return f"{status}"
    return {401: "out", 403: "forbidden"}.get(status, "in")


def test_everybody_is_answered_on_every_route_as_the_tables_say(place: Place) -> None:
    routes, asked, wrong = place.routes(), 0, []
    for asker in _everybody(place):
        for route in routes:
            place.client.cookies.clear()
            status = _asked(place, route, asker.shows)
            asked += 1
            if _happened(route, status) != (stated := _stated(asker, route)):
                wrong.append(f"{asker.called}: {route.method} {route.path} ({route.need}): {status}, not {stated}")
    assert wrong == []
    assert asked > 2000


# -- what is not good


def _of_ours(place: Place) -> Iterator[tuple[str, str]]:
    """Our own tokens, of programs and of people."""
    tokens, sessions = place.entrance.tokens, place.entrance.sessions
    good = tokens.create("good", Role.ADMINISTRATOR)
    yield "of nobody", good[:-1] + ("A" if good[-1] != "A" else "B")
    yield "expired", tokens.create("brief", Role.ADMINISTRATOR, days=1e-9)
    yield "revoked", (revoked := tokens.create("revoked", Role.ADMINISTRATOR))
    tokens.revoke("revoked")
    assert revoked != good
    access = sessions.begin("a-administrator").access
    who = sessions.of_access_token(access)
    assert who is not None
    sessions.end(who)
    yield "of a session that has ended", access
    place.entrance.users.add("gone", Role.ADMINISTRATOR, None)
    of_gone = sessions.begin("gone").access
    place.entrance.users.disable("gone")
    yield "of a disabled person", of_gone
    live = sessions.begin("a-administrator")
    yield "a refresh token", live.refresh
    yield "a cookie", sessions.begin_in_browser("a-administrator")
    header, payload, signature = live.access.split(".")
    yield "tampered", f"{header}.{_changed(payload, sub='a-service')}.{signature}"
    yield "alg=none", f"{_encoded({'alg': 'none', 'typ': 'at+jwt'})}.{payload}."
    yield "by another key", jwt.encode(_decoded(payload), "x" * 32, "HS256", {"typ": "at+jwt"})


def _of_the_hospital(place: Place) -> Iterator[tuple[str, str]]:
    """What is not quite a token of the provider."""
    now = int(time.time())
    for wrong in (
        {"exp": now - 120},
        {"nbf": now + 120},
        {"iat": now + 120},
        {"iss": "https://login.other.example"},
        {"aud": "another"},
    ):
        yield f"{wrong}", place.of_hospital(**wrong)
    header, payload, signature = place.of_hospital().split(".")
    key = place.hospital.keys[0]
    public = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    symmetric = f"{_encoded({'alg': 'HS256', 'kid': key.kid})}.{payload}"
    yield "tampered, of the hospital", f"{header}.{_changed(payload, sub='root')}.{signature}"
    yield "alg=none, of the hospital", f"{_encoded({'alg': 'none', 'kid': key.kid})}.{payload}."
    yield "HS256 by the public key", f"{symmetric}.{_base64(hmac.digest(public, symmetric.encode(), 'sha256'))}"
    yield "of an unknown key", f"{_encoded({'alg': 'RS256', 'kid': 'unknown'})}.{payload}.{signature}"
    yield "brackets", f"{_base64(b'[' * 9000)}.{payload}.{signature}"
    yield "huge", f"{header}.{payload}.{signature}{'A' * 60_000}"
    yield "nothing of the kind", "\x7f.\x7f.\x7f"


def test_tokens_that_are_not_good_are_answered_alike_whatever_is_wrong(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_TRUSTED_SECONDS", 0.0)
    bad = dict([*_of_ours(place), *_of_the_hospital(place)])
    answers: dict[tuple[int, str, str], list[str]] = {}
    for called, secret in bad.items():
        for method, path in (("GET", "/dicom-web/studies"), ("POST", "/api/users"), ("DELETE", "/api/holds/1.2")):
            answer = place.client.request(method, path, headers=bearer(secret))
            told = (answer.status_code, answer.text, answer.headers.get("www-authenticate", ""))
            answers.setdefault(told, []).append(f"{called}: {path}")
    assert len(answers) == 1, answers
    ((status, body, challenge),) = answers
    assert (status, challenge) == (401, 'Bearer realm="imaging-ai", error="invalid_token"')
    assert json.loads(body)["detail"] == "the token is not known here, has expired or was revoked"
    assert place.client.get("/dicom-web/studies", headers=bearer(place.of_hospital())).status_code == 200


def test_a_cookie_that_is_not_good_is_answered_as_a_token_is(place: Place) -> None:
    place.client.cookies.clear()
    ended = place.entrance.sessions.begin_in_browser("a-clinician")
    who = place.entrance.sessions.of_cookie(ended)
    assert who is not None
    place.entrance.sessions.end(who)
    bodies = set()
    for secret in (ended, "ias_x", place.entrance.tokens.create("no-cookie", Role.ADMINISTRATOR), place.of_hospital()):
        answer = place.client.get("/dicom-web/studies", headers={"cookie": f"imaging-ai={secret}"})
        assert answer.status_code == 401
        bodies.add(answer.text)
    assert len(bodies) == 1


def _changed(payload: str, **claims: Any) -> str:
    return _encoded({**_decoded(payload), **claims})


def _decoded(part: str) -> dict[str, Any]:
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def _encoded(told: Mapping[str, Any]) -> str:
    return _base64(json.dumps(told).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
