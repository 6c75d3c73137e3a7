"""Access tokens are ours or nothing: RFC 8725, and what its attacks look like."""

from __future__ import annotations

import base64
import json
import time
import warnings
from typing import Any

import jwt
import pytest

from entering import KEY
from imaging_ai.people.key import ServerKey
from imaging_ai.people.signing import Signing

SESSION = "0123456789abcdef" * 2
SIGNING = Signing(KEY, 300)


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    plain = {"iss": "imaging-ai", "aud": "imaging-ai", "sub": "ada", "sid": SESSION, "iat": now, "exp": now + 300}
    return {name: value for name, value in {**plain, **changed}.items() if value is not None}


def signed(
    key: bytes = KEY.derive("access token"), algorithm: str = "HS256", typ: str = "at+jwt", **changed: Any
) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that are short for an algorithm that nobody should use
        return jwt.encode(claims(**changed), key, algorithm, headers={"typ": typ})


def unsigned(**header: Any) -> str:
    parts = ({"typ": "at+jwt", **header}, claims())
    return ".".join(base64.urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=") for one in parts) + "."


def test_our_own_token_is_known_again() -> None:
    assert SIGNING.session_of_access(SIGNING.access(SESSION, "ada")) == SESSION
    assert SIGNING.session_of_access(signed()) == SESSION, "what the tests below change is good but for that"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "..",
        "a.b.c",
        unsigned(alg="none"),
        unsigned(alg="None"),
        unsigned(alg="HS256"),
        unsigned(),
        signed(key=KEY.secret),
        signed(key=KEY.derive("refresh token")),
        signed(key=b"another key, of the same length!"),
        signed(algorithm="HS512"),
        signed(typ="JWT"),
        signed(iss="another"),
        signed(aud="another"),
        signed(iss=None),
        signed(aud=None),
        signed(sid=None),
        signed(sub=None),
        signed(exp=None),
        signed(iat=None),
        signed(exp=int(time.time()) - 1),
        signed(nbf=int(time.time()) + 60),
        signed(sid=["x"]),
        signed(sub="a" * 2000),
    ],
)
def test_what_is_not_ours_to_the_last_bit_is_nothing(token: str) -> None:
    assert SIGNING.session_of_access(token) is None


def test_no_changed_character_goes_unnoticed() -> None:
    token = SIGNING.access(SESSION, "ada")
    for at in range(len(token) - 1):  # of the last, base64 has bits to spare
        other = "A" if token[at] != "A" else "B"
        assert SIGNING.session_of_access(token[:at] + other + token[at + 1 :]) is None, at


def test_a_refresh_token_is_its_session_and_number_and_cannot_be_made_up() -> None:
    token = SIGNING.refresh(SESSION, 7)
    assert SIGNING.read_refresh(token) == (SESSION, 7)
    head, mac = token.rsplit(".", 1)
    for wrong in (
        f"{head.replace('.7', '.8')}.{mac}",
        f"{head}.{mac[:-1]}{'A' if mac[-2] != 'A' else 'B'}",
        token + "\n",
        token.upper(),
        f"iar_{SESSION}.07.{mac}",
        Signing(ServerKey(b"y" * 32), 300).refresh(SESSION, 7),
        "",
    ):
        assert SIGNING.read_refresh(wrong) is None
