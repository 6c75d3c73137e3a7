"""Who asks, and whether they may: a check in front of every route that is not about this server's health.

A handler says in `opt={"needs": …}` what it needs (`core.permission`); one that says nothing needs `read` for GET and
`administrate` for everything else, so that a forgotten word locks a door rather than opens it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from anyio import to_thread
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler

from imaging_ai.core.permission import Need
from imaging_ai.core.principal import Principal, Verifier
from imaging_ai.serve.guards import Check, require_host

__all__ = ["need_of", "token_check"]

Connection = ASGIConnection[Any, Any, Any, Any]

_TRUSTED_SECONDS = 2.0
_MOST_KNOWN = 10_000


def need_of(handler: BaseRouteHandler) -> Need:
    """Return what a handler needs of whoever calls it."""
    if needs := handler.opt.get("needs"):
        return needs  # type: ignore[no-any-return]
    reads = isinstance(handler, HTTPRouteHandler) and handler.http_methods <= {"GET", "HEAD", "OPTIONS"}
    return "read" if reads else "administrate"


def token_check(verifiers: Sequence[Verifier]) -> Check:
    """Return a check that lets in who shows a token whose owner may do what the handler needs (RFC 6750).

    The verifiers are asked in turn whose it is, at most every two seconds: so long one that was revoked may be used.
    """

    def verify(secret: str) -> Principal | None:
        return next((found for one in verifiers if (found := one(secret)) is not None), None)

    known: dict[str, tuple[float, Principal]] = {}

    async def principal_of(secret: str) -> Principal | None:
        now = time.monotonic()
        if secret in known and now - known[secret][0] < _TRUSTED_SECONDS:
            return known[secret][1]
        principal = await to_thread.run_sync(verify, secret)
        known.pop(secret, None)
        if principal is not None:
            if len(known) >= _MOST_KNOWN:
                known.clear()
            known[secret] = (now, principal)
        return principal

    async def check(connection: Connection, handler: BaseRouteHandler) -> None:
        require_host(connection)
        need = need_of(handler)
        if need == "nothing":
            return
        scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _unauthorized("this needs a token: Authorization: Bearer …", 'Bearer realm="imaging-ai"')
        principal = await principal_of(secret.strip())
        if principal is None:
            why = 'Bearer realm="imaging-ai", error="invalid_token"'
            raise _unauthorized("the token is not known here, has expired or was revoked", why)
        connection.scope["user"] = principal
        if not principal.may(need):
            raise PermissionDeniedException(f"the role {principal.role} may not do this: it needs {need!r}")

    return check


def _unauthorized(detail: str, challenge: str) -> NotAuthorizedException:
    return NotAuthorizedException(detail, headers={"WWW-Authenticate": challenge})
