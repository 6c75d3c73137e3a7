"""Reading a request body of any length: in pieces of about a megabyte, within limits of size and of time.

While one piece is worked on in a thread the next one comes in, and no more than that: a client that sends faster than
the storage takes is held back by TCP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import anyio
from anyio import to_thread
from litestar import Request

from imaging_ai.errors import InputError, TooLarge, TooSlow

__all__ = ["Body"]

_log = logging.getLogger(__name__)

_PIECE_BYTES = 1 << 20
#: So much must come for each `idle_seconds` of waiting, or the client is as good as gone.
_LEAST_BYTES = 16 << 10
#: What is refused is read on for a while, since a client that is still sending does not hear the answer.
_DRAINED_BYTES, _DRAIN_SECONDS = 256 << 20, 10.0


class Body:
    """The body of one request, which may be up to `most_bytes` long."""

    def __init__(self, request: Request[Any, Any, Any], *, idle_seconds: float, most_bytes: int) -> None:
        self._receive = request.receive
        length = request.headers.get("content-length", "")
        self._announced = int(length) if length.isdecimal() else None
        self._awaits_permission = "expect" in request.headers
        self._idle_seconds, self._most_bytes = idle_seconds, most_bytes
        self._patience, self._lately = idle_seconds, 0
        self._received = 0
        self._ended = False

    async def pour(self, into: Callable[[bytes], None]) -> None:
        """Give the body to `into` piece by piece, in threads. On return, also by an error, none of them runs.

        Raises
        ------
        InputError
            If the body breaks off; `TooLarge` if it is longer than allowed, `TooSlow` if it does not come.
        """
        if self._announced is not None and self._announced > self._most_bytes:
            raise TooLarge(f"the body is longer than the {self._most_bytes} bytes that are allowed")
        working: asyncio.Task[None] | None = None
        try:
            while piece := await self._piece():
                if working is not None:
                    await working
                working = asyncio.create_task(to_thread.run_sync(into, piece))
            if working is not None:
                await working
        finally:
            if working is not None and not working.done():
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({working})
                working.exception()  # another one is being told

    async def drain(self) -> None:
        """Read the rest of a body that is refused, if it is not too much."""
        if self._awaits_permission and not self._received:
            return
        most = self._received + _DRAINED_BYTES
        if self._announced is not None and self._announced > most:
            return
        self._patience = _DRAIN_SECONDS
        self._most_bytes = most
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._ended:
                    await self._chunk()
        except (InputError, TimeoutError):
            _log.debug("the rest of a refused body did not come")

    async def _piece(self) -> bytes:
        """Return what comes next; nothing at the end."""
        chunks: list[bytes] = []
        size = 0
        while size < _PIECE_BYTES and not self._ended:
            chunk = await self._chunk()
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks)

    async def _chunk(self) -> bytes:
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            async with asyncio.timeout(self._patience):
                message = await self._receive()
        except TimeoutError:
            self._ended = True
            raise TooSlow(f"the body did not come: too little in {self._idle_seconds:g} seconds") from None
        if message["type"] != "http.request":
            self._ended = True
            raise InputError("the client went away in the middle of the body")
        chunk = message["body"]
        self._ended = not message["more_body"]
        self._received += len(chunk)
        self._lately += len(chunk)
        self._patience -= clock() - begun
        if self._lately >= _LEAST_BYTES:
            self._patience, self._lately = self._idle_seconds, 0
        if self._received > self._most_bytes:
            raise TooLarge(f"the body is longer than the {self._most_bytes} bytes that are allowed")
        if self._ended and self._announced is not None and self._received != self._announced:
            raise InputError("the body is not as long as its Content-Length")
        return chunk
