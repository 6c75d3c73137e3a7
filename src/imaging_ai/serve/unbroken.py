"""Answers that fail on their way: nothing is begun before its first bytes are there, and nothing cut looks whole.

An error before the first bytes of a body is answered as any other. After them the status is out: the error is logged,
and the body is left without its end, so that the server closes the connection and the client sees that it is not whole.
"""

from __future__ import annotations

import logging
from typing import Any

from litestar import Request
from litestar.enums import ScopeType
from litestar.exceptions import LitestarException
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from imaging_ai.errors import ImagingAiError
from imaging_ai.serve.problem import respond

__all__ = ["unbroken"]

_log = logging.getLogger(__name__)


def unbroken(app: ASGIApp) -> ASGIApp:
    """Wrap an application."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        begun = _Begun(send)
        try:
            await app(scope, receive, begun.send)
        except Exception as raised:  # the edge of the body: whatever it is, an answer cannot be begun twice
            error = _cause(raised)
            if begun.held is None and not begun.sent:
                raise
            if not begun.sent:
                request: Request[Any, Any, Any] = Request(scope, receive, send)
                await respond(request, error).to_asgi_response(None, request)(scope, receive, send)
                return
            known = isinstance(error, ImagingAiError)
            where = scope["raw_path"].decode("latin-1")[:300]
            _log.error("the answer to %s broke off: %s", where, error, exc_info=None if known else error)

    return answer


class _Begun:
    """Holds the status and headers back until there is something of the body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.held: Message | None = None  # the status, while there is nothing of the body
        self.sent = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.held = message
            return
        if self.held is not None:
            held, self.held = self.held, None
            self.sent = True
            await self._send(held)
        await self._send(message)


def _cause(error: Exception) -> Exception:
    """Return what was raised at first: litestar puts it into a group of tasks, and that into an error of its own."""
    while True:
        if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        elif type(error) is LitestarException and isinstance(error.__cause__, Exception):
            error = error.__cause__
        else:
            return error
