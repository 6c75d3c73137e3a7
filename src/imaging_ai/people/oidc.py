"""OpenID Connect: people and programs that the provider of a hospital knows (OpenID Connect Core 1.0, RFC 9700).

Programs show a token that the provider signed, as bearer. People log in there with their browser, by authorization
code with PKCE (RFC 7636), state and nonce, and get a session of ours. What a login has to remember is a secret in a
cookie of the browser that began it; state, nonce and code verifier are made of it with a key of this server. So nothing
is kept here, and a code is good only in the browser that asked for it.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx
import jwt

from imaging_ai.core.permission import Role
from imaging_ai.core.principal import Principal
from imaging_ai.errors import NotAllowed
from imaging_ai.people.guests import Guest, Guests
from imaging_ai.people.oidc_provider import Provider, PublicKey, Registration

__all__ = ["MINUTES_TO_LOG_IN", "LoggedIn", "OpenId"]

MINUTES_TO_LOG_IN = 10

_SKEW = 60  # seconds that clocks may differ
_LONGEST = 16_384
_LONGEST_WORD = 255
_LONGEST_NEXT = 2048
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_CLAIMS = ["iss", "aud", "exp", "iat", "sub"]
_NO_ROLE = "the hospital's provider knows you, and gives you no role here; an administrator can tell"


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Who logged in, and the address that was wanted before."""

    name: str
    then: str


class OpenId:
    """One provider, and who comes in by it. `key` is a key of this server, the same in every process."""

    def __init__(self, provider: Provider, guests: Guests, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._provider, self._guests, self._key, self._clock = provider, guests, key, clock
        self._registration = provider.registration

    def principal(self, secret: str) -> Principal | None:
        """Return whose bearer token this is (a `Verifier`).

        Raises
        ------
        NotAllowed
            If the token is good, and gives no role.
        UnavailableError
            If the provider does not answer, and without it nobody can tell.
        """
        claims = self._believed(secret, self._registration.audience or self._registration.client_id)
        if claims is None:
            return None
        if (role := _role(self._registration, claims)) is None:
            raise NotAllowed(_NO_ROLE)
        return self._guests.principal(Guest.of(claims, role))

    def begin(self, then: str, redirect_uri: str) -> tuple[str, str]:
        """Begin a login: return the secret for the cookie, and where to send the browser. Raises `UnavailableError`."""
        wanted = then if len(then) <= _LONGEST_NEXT else ""
        cookie = f"{int(self._clock())}.{secrets.token_urlsafe(32)}.{_encoded(wanted.encode())}"
        asked = {
            "response_type": "code",
            "client_id": self._registration.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._registration.scopes),
            "state": self._made("state", cookie),
            "nonce": self._made("nonce", cookie),
            "code_challenge": _challenge(self._made("verifier", cookie)),
            "code_challenge_method": "S256",
        }
        return cookie, str(httpx.URL(self._provider.authorization_endpoint).copy_merge_params(asked))

    def finish(self, cookie: str, answer: Mapping[str, str], redirect_uri: str, origin: str) -> LoggedIn | None:
        """Finish a login with what the provider sent the browser back with; None if it is not good.

        Raises
        ------
        NotAllowed
            If the provider gives no role to this one, or this server has disabled them.
        UnavailableError
            If the provider does not answer.
        """
        then = self._wanted(cookie, answer.get("state", ""))
        issuer = answer.get("iss", self._registration.issuer)  # RFC 9207
        if then is None or not answer.get("code") or issuer != self._registration.issuer:
            return None
        token = self._provider.redeem(answer["code"], self._made("verifier", cookie), redirect_uri)
        claims = self._believed(token or "", self._registration.client_id)
        if claims is None or not self._is_for_us(claims, self._made("nonce", cookie)):
            return None
        if (role := _role(self._registration, claims)) is None:
            self._guests.refused(origin)
            raise NotAllowed(_NO_ROLE)
        return LoggedIn(self._guests.come_in(Guest.of(claims, role), origin), then)

    def _believed(self, token: str, audience: str) -> dict[str, Any] | None:
        """Return the claims of a token that the provider signed for somebody; None if anything is wrong with it."""
        if len(token) > _LONGEST or token.count(".") != 2:
            return None
        try:
            key = self._key_of(jwt.get_unverified_header(token))
            claims = key and jwt.decode(
                token,
                key.key,
                algorithms=list(key.algorithms),
                audience=audience,
                issuer=self._registration.issuer,
                leeway=_SKEW,
                options={"require": _CLAIMS},
            )
        except jwt.PyJWTError:
            return None
        return claims if claims and 0 < len(claims["sub"]) <= _LONGEST_WORD else None

    def _key_of(self, header: Mapping[str, Any]) -> PublicKey | None:
        """Return the key that a header names, after all that can be said without asking anybody."""
        kid, algorithm = header.get("kid"), header.get("alg")
        if algorithm not in ("RS256", "PS256", "ES256") or str(header.get("typ", "jwt")).lower() not in _TYPES:
            return None
        if kid is not None and not (isinstance(kid, str) and len(kid) <= _LONGEST_WORD):
            return None
        key = self._provider.key(kid)
        return key if key is not None and algorithm in key.algorithms else None

    def _is_for_us(self, claims: Mapping[str, Any], nonce: str) -> bool:
        """Say whether an ID token is the one that was asked for (OpenID Connect Core 3.1.3.7)."""
        only = not isinstance(claims["aud"], list) or len(claims["aud"]) == 1
        party = claims.get("azp", self._registration.client_id if only else None)
        return party == self._registration.client_id and _equal(claims.get("nonce"), nonce)

    def _wanted(self, cookie: str, state: str) -> str | None:
        """Return where the login of a cookie was to lead; None if it is another than that of `state`, or old."""
        if not _equal(state, self._made("state", cookie)):
            return None
        began, _, then = cookie.split(".")
        if self._clock() - int(began) > MINUTES_TO_LOG_IN * 60:
            return None
        return _decoded(then)

    def _made(self, what: str, cookie: str) -> str:
        return _encoded(hmac.digest(self._key, f"{what} {cookie}".encode(), "sha256"))


def _role(registration: Registration, claims: Mapping[str, Any]) -> Role | None:
    found: Any = claims.get(registration.role_claim)
    if found is None:
        found = claims
        for name in registration.role_claim.split("."):
            found = found.get(name) if isinstance(found, dict) else None
    said = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return next((role for name, role in registration.roles.items() if name in said), None)


def _equal(said: object, known: str) -> bool:
    return isinstance(said, str) and hmac.compare_digest(said.encode(), known.encode())


def _challenge(verifier: str) -> str:
    return _encoded(sha256(verifier.encode()).digest())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> str:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
