"""Not more requests than agreed: 429 with Retry-After (RFC 6585 section 4), before anything else is done with one.

Whoever was let in before by the same credentials is counted by name, from wherever; everybody else by address, so that
guessing credentials makes nobody new. The state is a number for each (the generic cell rate algorithm, as
`core.pace`), in a table that does not grow beyond its bound. Health is always told: a supervisor cannot wait.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from litestar.types import ASGIApp

from imaging_ai.core.addresses import neighbourhood
from imaging_ai.serve.problem import MEDIA_TYPE, Problem
from imaging_ai.serve.proxies import client_address

__all__ = ["Rates", "limited"]

_MOST_KNOWN = 20_000
_CREDENTIALS = (b"authorization", b"cookie")
_CODE = "too-many-requests"
_TRY_AGAIN_LATER = 1013  # WebSocket close codes, IANA


class Rates:
    """Counts requests of one process: `per_second` each in the long run, and `burst` at once."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval, self._slack, self._clock = 1 / per_second, (burst - 1) / per_second, clock
        self._due: dict[str, float] = {}

    def wait(self, who: str) -> float:
        """Count a request; 0, or the seconds after which it would be in time, and then it is not counted."""
        now = self._clock()
        due = max(self._due.get(who, 0.0), now)
        if due - now > self._slack:
            return due - now - self._slack
        if who not in self._due and len(self._due) >= _MOST_KNOWN:
            self._forget(now)
        self._due[who] = due + self._interval
        return 0.0

    def _forget(self, now: float) -> None:
        """Make room: of those who owe nothing first, and of the longest known then."""
        self._due = {who: due for who, due in self._due.items() if due > now}
        for who in list(self._due)[: max(len(self._due) - _MOST_KNOWN // 2, 0)]:
            del self._due[who]


def limited(app: ASGIApp, rates: Rates) -> ASGIApp:
    """Put the rates in front of an application; it says in the scope's `user` whom it let in."""
    known: dict[tuple[bytes, ...], str] = {}

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"].startswith("/health/"):
            await app(scope, receive, send)
            return
        shown = tuple(value for name, value in scope["headers"] if name in _CREDENTIALS)
        who = known.get(shown) or neighbourhood(client_address(scope))
        if wait := rates.wait(who):
            await _refuse(scope, send, wait)
            return
        await app(scope, receive, send)
        if name := getattr(scope.get("user"), "name", ""):
            if shown not in known and len(known) >= _MOST_KNOWN:
                known.clear()
            known[shown] = f"@{name}"
        else:
            known.pop(shown, None)

    return answer


async def _refuse(scope: Any, send: Any, wait: float) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "too many requests"})
        return
    status, seconds = HTTPStatus.TOO_MANY_REQUESTS, math.ceil(wait)
    detail = f"more requests than are answered in this time; try again in {seconds} s"
    body = msgspec.json.encode(Problem(f"urn:imaging-ai:problem:{_CODE}", status.phrase, status, detail, _CODE))
    headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), "retry-after": str(seconds)}
    told = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": told})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
