"""What a request must be before it is answered: for this host, and with no parameter that we do not know.

A guard of litestar is given a copy of the handler for every request, which takes longer than most guards; so those in
front of everything are the door of a router (`door`), which is the same without the copy.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable, Collection
from functools import lru_cache
from typing import Any

from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.exceptions import ClientException, PermissionDeniedException, ValidationException
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, Message, Receive, Scope, Send

__all__ = [
    "LOOPBACK",
    "SAFE_METHODS",
    "Check",
    "Door",
    "changes",
    "door",
    "host_check",
    "query_name",
    "refuse_unknown_parameters",
    "require_host",
]

_HOST = re.compile(rb"(?P<name>[A-Za-z0-9._~-]*|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{0,5}))?")

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

#: What changes nothing (RFC 9110 9.2.1).
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

Connection = ASGIConnection[Any, Any, Any, Any]

#: Raises unless a request may be answered by a handler.
Check = Callable[[Connection, BaseRouteHandler], Awaitable[None]]

#: A middleware that lets in what a check does.
Door = Callable[[ASGIApp], ASGIApp]


class _Misdirected(ClientException):
    status_code = 421


def door(check: Check) -> Door:
    """Make a door of a check: what it refuses never comes to a handler, and hears no more of a WebSocket."""

    def hung(app: ASGIApp) -> ASGIApp:
        async def enter(scope: Scope, receive: Receive, send: Send) -> None:
            connection, handler = ASGIConnection[Any, Any, Any, Any](scope), scope["route_handler"]
            await check(connection, handler)

            async def send_while_let_in(message: Message) -> None:
                if message["type"] == "websocket.send":
                    await check(connection, handler)
                await send(message)

            await app(scope, receive, send_while_let_in if scope["type"] == ScopeType.WEBSOCKET else send)

        return enter

    return hung


def host_check(hosts: Collection[str], origins: Collection[str] = ()) -> Check:
    """Make a check that lets in only requests for `hosts`, and none that a page of another server makes a browser send.

    A page in a browser on this machine can reach a server on loopback under a name of its own (DNS rebinding), and
    would read patient data with nobody asked; its requests carry that name. Under ours it can send forms, and listen to
    WebSockets (OWASP: cross-site request forgery); then the browser says whose page it is. Pages of `origins` may.
    """

    async def check(connection: Connection, _handler: BaseRouteHandler) -> None:
        if require_host(connection) not in hosts:
            raise _Misdirected("this server does not answer for the host that the request names")
        if changes(connection) and _is_of_another_page(connection, origins):
            raise PermissionDeniedException("a page of another server may not ask for this")

    return check


def changes(connection: Connection) -> bool:
    """Say whether a request may change something, or opens a WebSocket: browsers let any page do that."""
    return connection.scope["type"] != ScopeType.HTTP or connection.scope.get("method") not in SAFE_METHODS


def _is_of_another_page(connection: Connection, origins: Collection[str]) -> bool:
    """Say whether a browser asks for a page that is not ours; programs tell of no page."""
    origin = connection.headers.get("origin")
    if origin is None or "*" in origins:
        return False
    host = connection.headers.get("host", "")
    return origin not in {f"http://{host}", f"https://{host}", *origins}


def require_host(connection: Connection) -> str:
    """Return the host that a request names, without its port, in lower case; "" when it names none.

    Raises
    ------
    ClientException
        If that is none, or if there are several: addresses in answers are made of it.
    """
    named = [value for name, value in connection.scope["headers"] if name == b"host"]
    host = _host_name(named[0]) if len(named) == 1 else None if named else ""
    if host is None:
        raise ClientException("the Host of the request is not one host with, perhaps, a port")
    return host


@lru_cache(maxsize=256)  # nearly always the same one
def _host_name(named: bytes) -> str | None:
    match = _HOST.fullmatch(named)
    return None if match is None or int(match["port"] or 0) > 0xFFFF else match["name"].decode().lower()


def query_name(handler: BaseRouteHandler, name: str) -> str:
    """Return what a parameter of a handler is called in a request."""
    parameter = handler.parsed_fn_signature.parameters.get(name)
    return getattr(parameter and parameter.kwarg_definition, "query", None) or name


async def refuse_unknown_parameters(connection: Connection, handler: BaseRouteHandler) -> None:
    """Refuse an unknown query parameter: a filter with a typing error must not match everything."""
    known = [query_name(handler, name) for name in handler.parsed_fn_signature.parameters]
    for name in connection.query_params:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            message = f"no such parameter{f'; did you mean {near[0]}?' if near else ''}"
            raise ValidationException(extra=[{"parameter": name, "message": message}])
