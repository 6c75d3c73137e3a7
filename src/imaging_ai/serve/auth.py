"""Who asks, and whether they may: a check in front of every route that is not about this server's health.

A handler says in `opt={"needs": …}` what it needs (`core.permission`); one that says nothing needs `read` for GET and
`administrate` for everything else, so that a forgotten word locks a door rather than opens it.

Programs show a bearer token (RFC 6750), browsers a cookie. A browser shows its cookie whoever's page makes it ask; so
with a cookie what changes anything, and WebSockets, are answered only to pages of this server (OWASP: cross-site
request forgery). What a route needs is at `guarded_routes`, for documents and tests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.routes import ASGIRoute, WebSocketRoute

from imaging_ai.core.permission import Need
from imaging_ai.core.principal import Principal, Verifier
from imaging_ai.serve.eager import the_loop
from imaging_ai.serve.guards import SAFE_METHODS, changes, require_host

__all__ = ["Doorkeeper", "GuardedRoute", "guarded_routes", "need_of"]

Connection = ASGIConnection[Any, Any, Any, Any]

_TRUSTED_SECONDS = 2.0
_MOST_KNOWN = 10_000
_LONGEST = 16_384


def need_of(handler: BaseRouteHandler) -> Need:
    """Return what a handler needs of whoever calls it."""
    if needs := handler.opt.get("needs"):
        return needs  # type: ignore[no-any-return]
    reads = isinstance(handler, HTTPRouteHandler) and handler.http_methods <= SAFE_METHODS
    return "read" if reads else "administrate"


@dataclass(frozen=True, slots=True)
class GuardedRoute:
    """A way to call a handler: `method` is "WebSocket" for those, and "*" for an application mounted at `path`."""

    method: str
    path: str
    need: Need
    #: Whether the handler says itself what it needs.
    told: bool


def guarded_routes(app: Litestar) -> Iterator[GuardedRoute]:
    """Go through every route of an application; what litestar answers OPTIONS by itself is left out."""
    for route in app.routes:
        if isinstance(route, WebSocketRoute | ASGIRoute):
            method = "WebSocket" if isinstance(route, WebSocketRoute) else "*"
            handler = route.route_handler
            yield GuardedRoute(method, route.path, need_of(handler), "needs" in handler.opt)
            continue
        for one in route.route_handlers:
            made_by_litestar = one.http_methods == {"OPTIONS"} and one.fn.__module__.startswith("litestar.")
            for name in () if made_by_litestar else sorted(one.http_methods):
                yield GuardedRoute(name, route.path, need_of(one), "needs" in one.opt)


class Doorkeeper:
    """Lets in who may do what a handler needs.

    The verifiers are asked in turn whose a bearer token is, and `cookie` whose a cookie is, at most every two seconds:
    so long one that was revoked may be used. `public_url` is the address of this server as browsers see it, where a
    proxy changes it.
    """

    def __init__(self, verifiers: Sequence[Verifier], cookie: Verifier | None = None, public_url: str = "") -> None:
        self._bearers, self._cookies = tuple(verifiers), () if cookie is None else (cookie,)
        self._public_url = public_url.rstrip("/")
        self._known: dict[tuple[bool, str], tuple[float, Principal]] = {}

    async def check(self, connection: Connection, handler: BaseRouteHandler) -> None:
        """Raise unless the sender of a request may do what a handler needs (a `guards.Check`)."""
        require_host(connection)
        need = need_of(handler)
        if need != "nothing":
            await self.require(connection, need)

    async def require(self, connection: Connection, need: Need) -> Principal:
        """Return who asks.

        Raises
        ------
        NotAuthorizedException
            If nobody has proved who they are.
        PermissionDeniedException
            If they may not do what needs `need`, or if a page of another server asks in their name.
        """
        if secret := _bearer(connection):
            principal = await self._whose(secret, by_cookie=False)
        elif secret := self._cookie(connection):
            principal = await self._whose(secret, by_cookie=True)
            if principal is not None and changes(connection):
                self.require_own_page(connection)
        else:
            raise _unauthorized("this needs a token: Authorization: Bearer …", 'Bearer realm="imaging-ai"')
        if principal is None:
            why = 'Bearer realm="imaging-ai", error="invalid_token"'
            raise _unauthorized("the token is not known here, has expired or was revoked", why)
        connection.scope["user"] = principal
        if not principal.may(need):
            raise PermissionDeniedException(f"the role {principal.role} may not do this: it needs {need!r}")
        return principal

    async def visitor(self, connection: Connection) -> Principal | None:
        """Return who asks by a cookie; None if nobody has logged in."""
        secret = self._cookie(connection)
        return await self._whose(secret, by_cookie=True) if secret else None

    def is_secure(self, connection: Connection) -> bool:
        """Say whether browsers see this server by HTTPS."""
        return connection.scope["scheme"] in ("https", "wss") or self._public_url.startswith("https://")

    def address(self, connection: Connection) -> str:
        """Return the address of this server as browsers see it, without a path."""
        return self._public_url or str(connection.base_url).rstrip("/")

    def cookie_name(self, connection: Connection) -> str:
        """Return the name of our cookie; a browser lets nobody but an HTTPS server of this very name set `__Host-…`."""
        return "__Host-imaging-ai" if self.is_secure(connection) else "imaging-ai"

    def require_own_page(self, connection: Connection) -> None:
        """Raise `PermissionDeniedException` unless a page of this server makes its browser ask."""
        headers = connection.headers
        if (site := headers.get("sec-fetch-site")) is not None:
            ours = site == "same-origin"
        else:
            host = headers.get("host", "")
            ours = headers.get("origin") in {f"http://{host}", f"https://{host}", self._public_url or None} - {None}
        if not ours:
            raise PermissionDeniedException("with a cookie, only pages of this server may ask for this")

    def forget(self) -> None:
        """Ask anew who everybody is: what somebody may do has changed just now."""
        self._known.clear()

    def _cookie(self, connection: Connection) -> str:
        return connection.cookies.get(self.cookie_name(connection), "") if self._cookies else ""

    async def _whose(self, secret: str, *, by_cookie: bool) -> Principal | None:
        key, now = (by_cookie, secret), time.monotonic()
        known = self._known.get(key)  # once: requests begin in another thread than they go on in
        if known is not None and now - known[0] < _TRUSTED_SECONDS:
            return known[1]
        self._known.pop(key, None)
        if len(secret) > _LONGEST:
            return None
        await the_loop()
        principal = await to_thread.run_sync(_asked, self._cookies if by_cookie else self._bearers, secret)
        if principal is not None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = (now, principal)
        return principal


def _asked(verifiers: Sequence[Verifier], secret: str) -> Principal | None:
    return next((found for verify in verifiers if (found := verify(secret)) is not None), None)


def _bearer(connection: Connection) -> str:
    scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def _unauthorized(detail: str, challenge: str) -> NotAuthorizedException:
    return NotAuthorizedException(detail, headers={"WWW-Authenticate": challenge})
