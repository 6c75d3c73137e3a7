"""The OpenID provider of a hospital: its endpoints (OpenID Connect Discovery 1.0 4), its keys (RFC 7517), its tokens.

It is spoken to at the address of its issuer and nowhere else, over TLS, with limits of time and size, and no
redirection is followed. Its keys are kept for a while. A key that is not among them is asked for once, so that keys can
be changed there at any time; but not more often than every few seconds, so that nobody makes us ask all day with
invented keys.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from imaging_ai.core.permission import Role
from imaging_ai.core.tls import client_context
from imaging_ai.errors import ConfigError, UnavailableError

__all__ = ["Provider", "PublicKey", "Registration"]

logger = logging.getLogger(__name__)

_FRESH, _GOOD = 600.0, 3600.0  # keys are asked for again after the one, and no longer believed after the other
_BETWEEN = 10.0
_SECONDS = 5.0
_WAITING = 8
_LARGEST = 256 * 1024
_MOST_KEYS = 64
_SHORTEST_RSA = 2048
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
#: What keys may sign with: nothing symmetric, whatever a token says (RFC 8725 2.1).
_ALGORITHMS: Mapping[tuple[str, str], tuple[str, ...]] = {("RSA", ""): ("RS256", "PS256"), ("EC", "P-256"): ("ES256",)}

Answer = TypeVar("Answer", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Registration:
    """What this server is to a provider, and what is believed of its tokens.

    `audience` is who tokens of programs must be for (`client_id` when empty); `roles` says which value of the claim
    `role_claim` gives which role, the first that fits. A dotted name leads into a claim: ``realm_access.roles``.

    Raises
    ------
    ConfigError
        If the issuer cannot be spoken to safely, or nobody could ever come in.
    """

    issuer: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    audience: str = ""
    role_claim: str = "groups"
    roles: Mapping[str, Role] = field(default_factory=dict)
    scopes: tuple[str, ...] = ("openid", "profile")
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.issuer)
        local = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if (
            not parts.hostname
            or parts.username
            or parts.query
            or parts.fragment
            or not (parts.scheme == "https" or local)
        ):
            raise ConfigError("auth.oidc_issuer: give the https:// address of the issuer (http:// on loopback only)")
        if not self.client_id:
            raise ConfigError("auth.oidc_client_id: say as what this server is registered with the provider")
        if not self.roles:
            raise ConfigError(
                'auth.oidc_roles: nobody could come in; say which groups are what: { "radiology" = "clinician" }'
            )
        if "openid" not in self.scopes:
            raise ConfigError('auth.oidc_scopes: "openid" has to be among them')

    def has(self, url: str) -> bool:
        """Say whether an address is one of the provider's own: of its issuer's scheme, host and port."""
        return urlsplit(url)[:2] == urlsplit(self.issuer)[:2]


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key, and the algorithms that it signs with."""

    key: Any
    algorithms: tuple[str, ...]


class _Document(msgspec.Struct, frozen=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str


@dataclass(frozen=True, slots=True)
class _Said:
    """What the provider said, and when."""

    document: _Document
    keys: Mapping[str, PublicKey]
    at: float

    def key(self, kid: str | None) -> PublicKey | None:
        """Return a key by its id; a token that names none was signed with the only one (OpenID Connect Core 10.1)."""
        if kid is not None:
            return self.keys.get(kid)
        return next(iter(self.keys.values())) if len(self.keys) == 1 else None


class Provider:
    """One provider, spoken to by many threads. What needs its answer raises `UnavailableError` where there is none."""

    def __init__(self, registration: Registration, clock: Callable[[], float] = time.monotonic) -> None:
        self.registration, self._clock = registration, clock
        self._client = httpx.Client(
            verify=client_context(registration.ca_file) if registration.issuer.startswith("https:") else False,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(_SECONDS),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )
        self._said: _Said | None = None
        self._asked_at, self._trouble = -math.inf, ""
        self._asking, self._waiting = threading.Lock(), threading.BoundedSemaphore(_WAITING)

    @property
    def authorization_endpoint(self) -> str:
        """Where browsers are sent."""
        return self._current().document.authorization_endpoint

    def key(self, kid: str | None) -> PublicKey | None:
        """Return the key of a token; None if the provider has none of this id."""
        return self._current(kid, for_key=True).key(kid)

    def redeem(self, code: str, verifier: str, redirect_uri: str) -> str | None:
        """Return the ID token for an authorization code (RFC 6749 4.1.3, RFC 7636 4.5); None if it is not good."""
        registration, endpoint = self.registration, self._current().document.token_endpoint
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        secret = registration.client_secret
        auth = httpx.BasicAuth(*(quote(one, safe="") for one in (registration.client_id, secret))) if secret else None
        if auth is None:
            form["client_id"] = registration.client_id
        status, body = self._exchange("POST", endpoint, data=form, auth=auth)
        if status in (400, 401):
            if b"invalid_grant" not in body:
                logger.warning("the OpenID provider refuses this server (HTTP %d); see auth.oidc_client_id", status)
            return None
        return _read(status, body, _Tokens).id_token

    def _current(self, kid: str | None = None, *, for_key: bool = False) -> _Said:
        """Return what the provider said last; asked again when that was long ago, or says nothing of a key."""
        said, now = self._said, self._clock()
        needed = said is None or now - said.at > _GOOD or (for_key and said.key(kid) is None)
        if needed:
            self._wait_and_ask()
        elif said is not None and now - said.at > _FRESH and self._asking.acquire(blocking=False):
            self._ask_and_release()
        said = self._said
        if said is None or now - said.at > _GOOD or (self._trouble and for_key and said.key(kid) is None):
            raise UnavailableError(self._trouble or "the OpenID provider was asked a moment ago; try again")
        return said

    def _wait_and_ask(self) -> None:
        if not self._waiting.acquire(blocking=False):
            raise UnavailableError("the OpenID provider does not answer fast enough; try again")
        try:
            self._asking.acquire()
            self._ask_and_release()
        finally:
            self._waiting.release()

    def _ask_and_release(self) -> None:
        try:
            if (now := self._clock()) - self._asked_at >= _BETWEEN:
                self._asked_at = now
                self._said, self._trouble = self._ask(now), ""
        except UnavailableError as error:
            self._trouble = error.message
            logger.warning("%s", error.message)
        finally:
            self._asking.release()

    def _ask(self, now: float) -> _Said:
        registration = self.registration
        address = f"{registration.issuer.rstrip('/')}/.well-known/openid-configuration"
        document = _read(*self._exchange("GET", address), _Document)
        if document.issuer != registration.issuer:
            raise UnavailableError("the OpenID provider says that it is another issuer; see auth.oidc_issuer")
        if not (registration.has(document.jwks_uri) and registration.has(document.token_endpoint)):
            raise UnavailableError("the OpenID provider names endpoints at another address than its issuer's")
        if not (registration.has(end := document.authorization_endpoint) or urlsplit(end).scheme == "https"):
            raise UnavailableError("the OpenID provider names a page to log in that is not https://")
        return _Said(document, _public_keys(_read(*self._exchange("GET", document.jwks_uri), _KeySet).keys), now)

    def _exchange(self, method: str, url: str, **options: Any) -> tuple[int, bytes]:
        """Return status and body of an answer, as far as it is neither too long nor too slow."""
        until, body = time.monotonic() + _SECONDS, bytearray()
        try:
            with self._client.stream(method, url, **options) as answer:
                for part in answer.iter_raw(16_384):
                    body += part
                    if len(body) > _LARGEST or time.monotonic() > until:
                        raise UnavailableError("the OpenID provider answers too much, or too slowly")
                return answer.status_code, bytes(body)
        except httpx.HTTPError as error:
            raise UnavailableError(f"the OpenID provider does not answer ({type(error).__name__})") from None


def _read(status: int, body: bytes, kind: type[Answer]) -> Answer:
    if status != 200:
        raise UnavailableError(f"the OpenID provider answers HTTP {status}")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError):
        raise UnavailableError("the OpenID provider answers what is not understood") from None


def _public_keys(entries: list[dict[str, Any]]) -> dict[str, PublicKey]:
    """Read the keys that sign and that we may believe; others are left out."""
    found: dict[str, PublicKey] = {}
    for entry in entries[:_MOST_KEYS]:
        kind = (str(entry.get("kty")), str(entry.get("crv", "")))
        algorithms = tuple(one for one in _ALGORITHMS.get(kind, ()) if entry.get("alg", one) == one)
        if not algorithms or entry.get("use", "sig") != "sig":
            continue
        public = {name: value for name, value in entry.items() if name in ("kty", "crv", "n", "e", "x", "y")}
        try:
            key = jwt.PyJWK(public, algorithm=algorithms[0]).key
        except jwt.PyJWTError:
            continue
        if not isinstance(key, RSAPublicKey) or key.key_size >= _SHORTEST_RSA:
            found[str(entry.get("kid", ""))] = PublicKey(key, algorithms)
    return found
