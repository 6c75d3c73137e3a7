"""Tokens of a real provider let in; whatever else looks like one does not, and nobody makes us hammer the provider."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from imaging_ai.core.permission import Role
from imaging_ai.core.principal import Principal
from imaging_ai.db.engine import Database
from imaging_ai.errors import ConfigError, NotAllowed, UnavailableError
from imaging_ai.people.guests import Guest, Guests
from imaging_ai.people.oidc import OpenId
from imaging_ai.people.oidc_provider import Provider, Registration
from imaging_ai.people.tokens import Tokens
from imaging_ai.people.users import Users
from ledgers import Clock
from services.openid import Client, OpenIdProvider

ROLES = {"radiology": Role.CLINICIAN, "programs": Role.SERVICE, "it": Role.ADMINISTRATOR}


@pytest.fixture(scope="module")
def hospital() -> Iterator[OpenIdProvider]:
    provider = OpenIdProvider()
    provider.clients["ehr"] = Client("ehr", "secret of the ehr")
    provider.audience = "imaging-ai"
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture
def provider(hospital: OpenIdProvider, clock: Clock) -> Provider:
    return Provider(Registration(hospital.issuer, "imaging-ai", roles=ROLES), clock)


@pytest.fixture
def openid(provider: Provider, database: Database) -> OpenId:
    return OpenId(provider, Guests(database), b"a key")


def claims(hospital: OpenIdProvider, **others: Any) -> dict[str, Any]:
    now = int(time.time())
    told = {"iss": hospital.issuer, "aud": "imaging-ai", "sub": "u-1", "iat": now, "exp": now + 300}
    return {**told, "preferred_username": "Ada", "groups": ["staff", "radiology"], **others}


def access_token(hospital: OpenIdProvider) -> str:
    """A token that the provider gives to a program by itself."""
    form = {"grant_type": "client_credentials", "scope": "openid"}
    answer = httpx.post(f"{hospital.issuer}/token", data=form, auth=("ehr", "secret of the ehr"))
    return str(answer.json()["access_token"])


def encoded(told: object) -> str:
    data = told if isinstance(told, bytes) else json.dumps(told).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_a_token_that_the_provider_gave_lets_in_as_what_its_groups_say(
    hospital: OpenIdProvider, openid: OpenId
) -> None:
    assert openid.principal(access_token(hospital)) == Principal("ehr", Role.SERVICE)
    assert openid.principal(hospital.sign(claims(hospital))) == Principal("ada", Role.CLINICIAN)


def test_clocks_may_differ_by_a_minute_and_not_by_two(hospital: OpenIdProvider, openid: OpenId) -> None:
    now = int(time.time())
    for near in ({"exp": now - 45}, {"nbf": now + 45}, {"iat": now + 45}):
        assert openid.principal(hospital.sign(claims(hospital, **near))) is not None, near
    for far in ({"exp": now - 75}, {"nbf": now + 75}, {"iat": now + 75}):
        assert openid.principal(hospital.sign(claims(hospital, **far))) is None, far


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "http://localhost:1"},
        {"iss": None},
        {"aud": "another"},
        {"aud": []},
        {"aud": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 256},
        {"exp": None},
        {"iat": None},
    ],
    ids=str,
)
def test_what_a_token_has_to_say_it_says_rightly(
    hospital: OpenIdProvider, openid: OpenId, wrong: dict[str, Any]
) -> None:
    told = {name: value for name, value in claims(hospital, **wrong).items() if value is not None}
    assert openid.principal(hospital.sign(told)) is None


def test_no_other_signature_is_believed(hospital: OpenIdProvider, openid: OpenId) -> None:
    told, kid = claims(hospital), str(hospital.keys[0].kid)
    good = hospital.sign(told)
    header, payload, signature = good.split(".")
    public = hospital.keys[0].public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    by_public_key = f"{encoded({'alg': 'HS256', 'kid': kid})}.{payload}"
    own = hospital.keys[0].as_pem(private=True)
    bad = {
        "none": f"{encoded({'alg': 'none', 'kid': kid})}.{payload}.",
        "None": f"{encoded({'alg': 'None', 'kid': kid})}.{payload}.{signature}",
        "HS256 by the public key": f"{by_public_key}.{encoded(_hmac(public, by_public_key))}",
        "HS256": jwt.encode(told, "x" * 32, "HS256", {"kid": kid}),
        "another key under this name": jwt.encode(told, stranger, "RS256", {"kid": kid}),
        "a key that it brings": jwt.encode(told, stranger, "RS256", {"kid": kid, "jwk": json.loads(_jwk(stranger))}),
        "a key that it points to": jwt.encode(told, stranger, "RS256", {"kid": "x", "jku": "http://127.0.0.1:9/"}),
        "RS512": hospital.sign(told, {"alg": "RS512"}),
        "not signed": f"{header}.{payload}.",
        "other claims": f"{header}.{encoded({**told, 'groups': ['it']})}.{signature}",
        "an unknown need": jwt.encode(told, own, "RS256", {"kid": kid, "crit": ["x"], "x": 1}),
        "for a logout": hospital.sign(told, {"typ": "logout+jwt"}),
        "a kid that is none": f"{encoded({'alg': 'RS256', 'kid': ['x']})}.{payload}.{signature}",
        "brackets": f"{encoded(b'[' * 9000)}.{payload}.{signature}",
        "braces": encoded(b'{"a":' * 2000) + f".{payload}.{signature}",
        "huge": good + "A" * 16_384,
    }
    assert openid.principal(good) is not None
    assert {name for name, token in bad.items() if openid.principal(token) is not None} == set()


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def _jwk(key: rsa.RSAPrivateKey) -> str:
    return str(RSAAlgorithm.to_jwk(key.public_key()))


def test_who_has_no_role_is_told_so(hospital: OpenIdProvider, openid: OpenId) -> None:
    for groups in ([], ["staff"], "staff", {"radiology": 1}, 7, None, ["", 1]):
        with pytest.raises(NotAllowed, match="no role"):
            openid.principal(hospital.sign(claims(hospital, groups=groups)))


def test_of_several_roles_the_first_of_the_settings_is_taken_and_a_claim_may_lie_deep(
    hospital: OpenIdProvider, provider: Provider, database: Database
) -> None:
    def role(claim: str, **told: Any) -> Role:
        registration = Registration(hospital.issuer, "imaging-ai", role_claim=claim, roles=ROLES)
        found = OpenId(Provider(registration), Guests(database), b"").principal(hospital.sign(claims(hospital, **told)))
        assert found is not None
        return found.role

    assert role("groups", groups=["it", "programs", "radiology"]) is Role.CLINICIAN
    assert role("groups", groups="it") is Role.ADMINISTRATOR
    assert role("realm_access.roles", realm_access={"roles": ["programs"]}) is Role.SERVICE
    assert role("https://a.example/roles", **{"https://a.example/roles": ["it"]}) is Role.ADMINISTRATOR


# -- names


def test_a_name_that_is_somebody_elses_is_not_lent(
    hospital: OpenIdProvider, openid: OpenId, database: Database
) -> None:
    Users(database).add("ada", Role.ADMINISTRATOR, None)
    Tokens(database).create("EHR", Role.SERVICE)
    for name in ("ada", "ehr"):
        assert openid.principal(hospital.sign(claims(hospital, preferred_username=name))) is None
        with pytest.raises(NotAllowed, match="somebody else"):
            Guests(database).come_in(Guest(f"{hospital.issuer} u-1", name, Role.CLINICIAN), "")


def test_a_guest_is_known_by_subject_and_stays_who_they_are(
    hospital: OpenIdProvider, openid: OpenId, database: Database
) -> None:
    guests = Guests(database)
    subject = f"{hospital.issuer} u-1"
    assert guests.come_in(Guest(subject, "ada", Role.CLINICIAN), "here") == "ada"
    assert guests.come_in(Guest(subject, "ada.lovelace", Role.ADMINISTRATOR), "here") == "ada"
    (person,) = Users(database).entries()
    assert (person.name, person.role, person.has_password) == ("ada", Role.ADMINISTRATOR, False)
    married = hospital.sign(claims(hospital, preferred_username="ada.lovelace"))
    assert openid.principal(married) == Principal("ada", Role.CLINICIAN)
    assert openid.principal(hospital.sign(claims(hospital, sub="u-2"))) is None, "another Ada"
    with database.read() as session:
        told = session.connection().exec_driver_sql("SELECT action, actor, detail FROM audit_event").all()
    assert [one.action for one in told] == ["add-user", "change-role"]


def test_who_is_disabled_here_stays_out(hospital: OpenIdProvider, openid: OpenId, database: Database) -> None:
    guest = Guest(f"{hospital.issuer} u-1", "ada", Role.CLINICIAN)
    Guests(database).come_in(guest, "")
    Users(database).disable("ada")
    assert openid.principal(hospital.sign(claims(hospital))) is None
    with pytest.raises(NotAllowed, match="disabled"):
        Guests(database).come_in(guest, "")


def test_a_name_that_nobody_may_have_here_gives_way(hospital: OpenIdProvider, openid: OpenId) -> None:
    names = [
        openid.principal(hospital.sign(claims(hospital, preferred_username=said, sub=sub)))
        for said, sub in (("Jörg Müller", "f3a1"), (None, "f3a1"), ("HOSP\\ada", "auth0|1"))
    ]
    assert [one and one.name.partition("-")[0] for one in names] == ["f3a1", "f3a1", "oidc"]


# -- keys


@pytest.mark.parametrize("curve", ["", "P-256"])
def test_keys_may_be_changed_at_any_time(hospital: OpenIdProvider, openid: OpenId, clock: Clock, curve: str) -> None:
    old = hospital.sign(claims(hospital))
    assert openid.principal(old) is not None
    clock.now += 60
    hospital.rotate(curve=curve)
    assert openid.principal(hospital.sign(claims(hospital))) is not None, "signed with the second key"
    assert openid.principal(old) is None, "whose key is published no longer"
    hospital.rotate()


def test_invented_keys_make_us_ask_once_in_a_while(hospital: OpenIdProvider, openid: OpenId, clock: Clock) -> None:
    assert openid.principal(hospital.sign(claims(hospital))) is not None
    clock.now += 60
    before = hospital.asked["/keys"]
    for number in range(50):
        assert openid.principal(hospital.sign(claims(hospital), {"kid": f"x{number}"})) is None
    assert hospital.asked["/keys"] == before + 1


def test_a_token_that_names_no_key_was_signed_with_the_only_one(
    hospital: OpenIdProvider, openid: OpenId, clock: Clock
) -> None:
    pem = hospital.keys[0].as_pem(private=True)
    nameless = jwt.encode(claims(hospital), pem, "RS256")
    assert openid.principal(nameless) is not None
    hospital.rotate(keep=True)
    clock.now += 1000
    assert openid.principal(nameless) is None
    hospital.rotate()


def test_a_key_withdrawn_is_believed_for_minutes_at_most(
    hospital: OpenIdProvider, openid: OpenId, clock: Clock
) -> None:
    old = hospital.sign(claims(hospital))
    assert openid.principal(old) is not None
    hospital.rotate()
    clock.now += 601
    assert openid.principal(old) is None


def test_without_the_provider_known_keys_serve_for_an_hour_and_nobody_else_comes_in(
    hospital: OpenIdProvider, openid: OpenId, clock: Clock
) -> None:
    good = hospital.sign(claims(hospital))
    assert openid.principal(good) is not None
    hospital.stop()
    try:
        clock.now += 700
        assert openid.principal(good) is not None
        with pytest.raises(UnavailableError):
            openid.principal(hospital.sign(claims(hospital), {"kid": "new"}))
        clock.now += 3000
        with pytest.raises(UnavailableError):
            openid.principal(good)
    finally:
        hospital.start()
    with pytest.raises(UnavailableError):
        openid.principal(good)
    clock.now += 11
    assert openid.principal(good) is not None, "and all is well again"


def test_what_looks_like_no_token_asks_nobody(hospital: OpenIdProvider, openid: OpenId) -> None:
    before = hospital.asked.total()
    payload = encoded(claims(hospital))
    for token in ("", "iai_x", "a.b.c", f"{encoded({'alg': 'HS256'})}.{payload}.x", f"{encoded({})}.{payload}.x"):
        assert openid.principal(token) is None
    assert hospital.asked.total() == before


# -- a provider that is not what it should be


def served(hospital: OpenIdProvider, path: str, answer: Callable[[], Any]) -> Callable[[], None]:
    """Let the provider answer something else; returns how to undo it."""
    views = hospital.app.view_functions
    name = {"/.well-known/openid-configuration": "discovery", "/keys": "keys", "/token": "token"}[path]
    was = views[name]
    views[name] = answer
    return lambda: views.update({name: was})


def document(hospital: OpenIdProvider, **others: str) -> dict[str, str]:
    at = hospital.issuer
    told = {"issuer": at, "authorization_endpoint": f"{at}/a", "token_endpoint": f"{at}/t", "jwks_uri": f"{at}/keys"}
    return {**told, **others}


@pytest.mark.parametrize(
    ("path", "answer", "why"),
    [
        ("/.well-known/openid-configuration", {"issuer": "http://localhost:1"}, "another issuer"),
        ("/.well-known/openid-configuration", {"jwks_uri": "http://127.0.0.1:9/keys"}, "another address"),
        ("/.well-known/openid-configuration", {"token_endpoint": "https://elsewhere.example/"}, "another address"),
        ("/.well-known/openid-configuration", {"authorization_endpoint": "javascript:alert(1)"}, "not https"),
        ("/.well-known/openid-configuration", ("", 302, {"Location": "/keys"}), "HTTP 302"),
        ("/keys", ("{", 200), "not understood"),
        ("/keys", ("[" * 5000, 200), "not understood"),
        ("/keys", ("x" * 300_000, 200), "too much"),
        ("/keys", ("", 500), "HTTP 500"),
    ],
    ids=str,
)
def test_a_provider_that_answers_nonsense_lets_nobody_in(
    hospital: OpenIdProvider, openid: OpenId, path: str, answer: Any, why: str
) -> None:
    undo = served(hospital, path, lambda: document(hospital, **answer) if isinstance(answer, dict) else answer)
    try:
        with pytest.raises(UnavailableError, match=why):
            openid.principal(hospital.sign(claims(hospital)))
    finally:
        undo()


def test_keys_that_nobody_should_believe_are_left_out(hospital: OpenIdProvider, openid: OpenId) -> None:
    good = hospital.app.view_functions["keys"]()["keys"]
    weak = json.loads(_jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024)))
    others = [
        {"kty": "oct", "k": encoded(b"x" * 32), "kid": "secret"},
        {**weak, "kid": "weak"},
        {**good[0], "kid": "locks", "use": "enc"},
        {**good[0], "kid": "512", "alg": "RS512"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "kid": "half", "x": "AA"},
        {},
    ]
    undo = served(hospital, "/keys", lambda: {"keys": [*others, *good]})
    try:
        assert openid.principal(hospital.sign(claims(hospital))) is not None
        for one in others:
            assert openid.principal(hospital.sign(claims(hospital), {"kid": one.get("kid", "")})) is None
    finally:
        undo()


def test_a_provider_that_hangs_holds_up_few_and_the_rest_is_told_at_once(
    hospital: OpenIdProvider, openid: OpenId
) -> None:
    go_on, found = threading.Event(), []
    undo = served(hospital, "/keys", lambda: go_on.wait(20) and ("", 500))
    token = hospital.sign(claims(hospital))

    def ask() -> None:
        try:
            openid.principal(token)
        except UnavailableError as error:
            found.append(error.message)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    while len(found) < 12:
        time.sleep(0.01)
    assert all("fast enough" in message for message in found)
    go_on.set()
    for thread in threads:
        thread.join()
    undo()
    assert len(found) == 20


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"issuer": "http://login.hospital.example"}, "oidc_issuer"),
        ({"issuer": "https://user@login.hospital.example"}, "oidc_issuer"),
        ({"issuer": "login.hospital.example"}, "oidc_issuer"),
        ({"client_id": ""}, "oidc_client_id"),
        ({"roles": {}}, "oidc_roles"),
        ({"scopes": ("profile",)}, "oidc_scopes"),
    ],
    ids=str,
)
def test_settings_by_which_nobody_comes_in_safely_are_refused(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Registration(**{"issuer": "https://login.hospital.example", "client_id": "us", "roles": ROLES, **change})
