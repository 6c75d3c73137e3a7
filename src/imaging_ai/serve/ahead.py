"""Answers that wait for nothing, given ahead of litestar.

What litestar does for a request takes longer than reading a frame that is in memory, or finding a study. So a handler
that may answer at once says in ``opt={"at_once": …}`` how, and is asked first. The same check stands before it as
before the handler. Whatever is out of the ordinary goes to litestar as if nothing had been tried: what is refused, or
not in memory, other methods, pages of other origins (CORS).

A request may be in no event loop yet (`eager`): who waits for anything here awaits `the_loop` before.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from litestar import Litestar, Request
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, Receive, Scope, Send

from imaging_ai.errors import ImagingAiError
from imaging_ai.serve.eager import the_loop
from imaging_ai.serve.guards import Check
from imaging_ai.serve.problem import respond

__all__ = ["AtOnce", "answer_ahead"]

#: Answers a request with the parameters of its path; None leaves it to the handler.
AtOnce = Callable[..., Awaitable[ASGIApp | None]]

Lane = tuple[re.Pattern[str], HTTPRouteHandler, AtOnce]

#: Lanes by the number of slashes in their paths: few are tried in vain.
Lanes = Mapping[int, Sequence[Lane]]


def answer_ahead(app: Litestar, check: Check) -> None:
    """Ask handlers that may answer at once before litestar does anything; `check` is what stands before them all."""
    lanes = defaultdict[int, list[Lane]](list)
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            if at_once := handler.opt.get("at_once"):
                pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path_format))
                lanes[route.path_format.count("/")].append((pattern, handler, at_once))
    app.asgi_handler = _ahead(app.asgi_handler, lanes, check)


def _ahead(app: ASGIApp, lanes: Lanes, check: Check) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        found = await _answer(scope, lanes, check) if _is_ordinary(scope) else None
        if found is None:
            await the_loop()
        await (found or app)(scope, receive, send)

    return answer


def _is_ordinary(scope: Any) -> bool:
    if scope["type"] != "http" or scope["method"] != "GET" or scope.get("root_path"):
        return False
    return all(name != b"origin" for name, _ in scope["headers"])


async def _answer(scope: Scope, lanes: Lanes, check: Check) -> ASGIApp | None:
    for pattern, handler, at_once in lanes.get(scope["path"].count("/"), ()):
        if (match := pattern.fullmatch(scope["path"])) is not None:
            try:
                request: Request[Any, Any, Any] = Request(scope)
                await check(request, handler)
                return await at_once(request, **match.groupdict())
            except ImagingAiError as error:  # asked again, it would take the same time to fail
                return respond(request, error).to_asgi_response(None, request)
            except Exception:  # noqa: BLE001 - an edge: litestar meets it again, and answers it
                return None
    return None
