"""WebSockets that are refused, or end: with the status that the same error has over HTTP.

Before the handshake is over the refusal is an ordinary answer of HTTP (RFC 6455 4.2.2), where the server lets us give
one (ASGI's "websocket.http.response"); else, and afterwards, the code of the closing is 4000 and the status.
"""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, WebSocketException
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from imaging_ai.errors import ImagingAiError
from imaging_ai.serve.problem import respond

__all__ = ["refused_as_http"]

_DENIAL = "websocket.http.response"
_LONGEST = 123  # of a reason, in bytes (RFC 6455 5.5)


def refused_as_http(app: ASGIApp) -> ASGIApp:
    """Wrap an application."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.WEBSOCKET:
            await app(scope, receive, send)
            return
        accepted = False

        async def sent(message: Message) -> None:
            nonlocal accepted
            accepted = accepted or message["type"] == "websocket.accept"
            await send(message)

        try:
            await app(scope, receive, sent)
        except (HTTPException, ImagingAiError) as error:
            if accepted or _DENIAL not in (scope.get("extensions") or {}):
                raise _closing(error) from None
            await _deny(error, scope, receive, send)

    return answer


def _closing(error: HTTPException | ImagingAiError) -> WebSocketException:
    if isinstance(error, ImagingAiError):
        status, told = error.http_status, error.message
    else:
        status, told = error.status_code, error.detail
    return WebSocketException(detail=told.encode()[:_LONGEST].decode(errors="ignore"), code=4000 + status)


async def _deny(error: Exception, scope: Any, receive: Receive, send: Any) -> None:
    async def as_denial(message: Any) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    as_http: Any = {**scope, "type": "http", "method": "GET"}
    request: Request[Any, Any, Any] = Request(as_http)
    await respond(request, error).to_asgi_response(None, request)(as_http, receive, as_denial)
