"""A refusal is heard: what is left of a request's body is read before the refusal is answered.

Over HTTP/2 a stream whose body is not taken is reset, and many clients then report a broken stream instead of the 401
or 413 that was the answer. So the rest is read and dropped, as far as a bound of bytes and seconds goes.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from litestar.types import ASGIApp

from imaging_ai.serve.eager import the_loop

__all__ = ["heard_out"]

_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
_REFUSED = 400


def heard_out(app: ASGIApp, *, most_bytes: int = 64 << 20, seconds: float = 10.0) -> ASGIApp:
    """Wrap an application so that it hears requests out before it refuses them."""

    async def hearing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] in _WITHOUT_BODY or _asks_first(scope):
            await app(scope, receive, send)
            return
        ended = False

        async def received() -> Any:
            nonlocal ended
            message = await receive()
            ended = ended or message["type"] != "http.request" or not message.get("more_body")
            return message

        async def rest() -> None:
            size = 0
            while not ended and size <= most_bytes:
                size += len((await received()).get("body", b""))

        async def answered(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] >= _REFUSED and not ended:
                await the_loop()  # it may be refused before it has come there
                with suppress(TimeoutError):  # a client that neither sends nor ends takes the answer as it is
                    await asyncio.wait_for(rest(), seconds)
            await send(message)

        await app(scope, received, answered)

    return hearing


def _asks_first(scope: Any) -> bool:
    """Say whether the client waits for a word before its body (Expect: 100-continue): reading would be the word."""
    return any(name == b"expect" for name, _ in scope.get("headers", ()))
