"""Requests that come by way of a proxy: from whom, and whether by HTTPS.

Behind a proxy every connection is the proxy's, and whatever counts, locks out or writes down by address would mean
everybody at once. So of proxies that the settings name, and of nobody else, X-Forwarded-For is read: from the right,
where each of them has added whom it was asked by, up to the first that is no proxy of ours. What stands left of it
anybody may have written. (granian has such a wrapper too; it takes for an address whatever stands there.)

Everything that asks who is at the other end asks `client_address`, behind this.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from litestar.types import ASGIApp

from imaging_ai.core.addresses import IPNetwork, address_of, is_within

__all__ = ["behind", "client_address"]

#: An address as proxies write it: IPv6 with brackets or without, IPv4, and a port perhaps.
_HOP = re.compile(
    r"\[(?P<six>[0-9A-Fa-f:.]{2,45})\](:\d{1,5})?|(?P<four>[0-9.]{7,15})(:\d{1,5})?|(?P<bare>[0-9A-Fa-f:.]{2,45})"
)
_SECURE = {"http": False, "ws": False, "https": True, "wss": True}


def client_address(scope: Any) -> str:
    """Return the address that a request comes from, "" where there is none."""
    return scope["client"][0] if scope.get("client") else ""


def behind(app: ASGIApp, proxies: Collection[IPNetwork]) -> ASGIApp:
    """Wrap an application so that requests of `proxies` are those of whoever asked them."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket") and is_within(client_address(scope), proxies):
            scope = {**scope, **_told(scope, proxies)}
        await app(scope, receive, send)

    return answer


def _told(scope: Any, proxies: Collection[IPNetwork]) -> dict[str, Any]:
    """Return what of a scope is otherwise than the connection says."""
    client = client_address(scope)
    for hop in reversed(list(_listed(scope, b"x-forwarded-for"))):
        if not is_within(client, proxies) or not (address := _address(hop)):
            break
        client = address
    told: dict[str, Any] = {"client": (client, 0)}
    *_, scheme = ("", *_listed(scope, b"x-forwarded-proto"))
    if (secure := _SECURE.get(scheme.lower())) is not None:
        told["scheme"] = (
            ("wss" if secure else "ws") if scope["type"] == "websocket" else ("https" if secure else "http")
        )
    return told


def _listed(scope: Any, wanted: bytes) -> Iterator[str]:
    """Give the elements of a header that may be there several times (RFC 9110 5.6.1: empty ones are none)."""
    lines: Iterable[bytes] = (value for name, value in scope["headers"] if name == wanted)
    for line in lines:
        yield from (one for part in line.decode("latin-1").split(",") if (one := part.strip(" \t")))


def _address(hop: str) -> str:
    """Return the address that a hop is, without its port; "" when it is none."""
    match = _HOP.fullmatch(hop)
    try:
        return str(address_of(match["six"] or match["four"] or match["bare"])) if match else ""
    except ValueError:
        return ""
