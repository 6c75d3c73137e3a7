"""What a request must be before it is answered: for this host, and with no parameter that we do not know."""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from litestar.connection import ASGIConnection
from litestar.exceptions import ClientException, ValidationException
from litestar.handlers import BaseRouteHandler

__all__ = ["LOOPBACK", "host_guard", "query_name", "refuse_malformed_host", "refuse_unknown_parameters"]

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._~-]*|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{0,5}))?")

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

Connection = ASGIConnection[Any, Any, Any, Any]


class _Misdirected(ClientException):
    status_code = 421


def host_guard(hosts: Collection[str]) -> Callable[[Connection, BaseRouteHandler], Awaitable[None]]:
    """Make a guard that answers only requests for `hosts`.

    A page in a browser on this machine can reach a server on loopback under a name of its own (DNS rebinding), and
    would read patient data with nobody asked; its requests carry that name.
    """

    async def guard(connection: Connection, _handler: BaseRouteHandler) -> None:
        if _host_name(connection).lower() not in hosts:
            raise _Misdirected("this server does not answer for the host that the request names")

    return guard


async def refuse_malformed_host(connection: Connection, _handler: BaseRouteHandler) -> None:
    """Refuse a request whose Host is none, or that has several: addresses in answers are made of it."""
    _host_name(connection)


def _host_name(connection: Connection) -> str:
    """Return the host that a request names, without its port."""
    named = connection.headers.getall("host", [])
    match = _HOST.fullmatch(named[0]) if len(named) == 1 else None
    if named and (match is None or int(match["port"] or 0) > 0xFFFF):
        raise ClientException("the Host of the request is not one host with, perhaps, a port")
    return match["name"] if match else ""


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
