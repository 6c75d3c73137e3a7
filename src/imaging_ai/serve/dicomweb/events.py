"""The notification connection (PS3.18 8.10.4, 8.10.5, 11.13): Workitem Event Reports over a WebSocket.

    GET /dicom-web/ws/subscribers/{AE title}[?after=N]        (the same at /dicom-web/subscribers/{AE title})

Each report is a text frame of DICOM JSON. They come in order, and each comes at least once, also when the connection
breaks: it counts as delivered

    when the client says so, with N-EVENT-REPORT-RSP ({"00000120": {"vr": "US", "Value": [Message ID]}}), which confirms
      all up to that report, or with the event number in `after` when it connects again; a client that has confirmed
      one report confirms all of them;
    for a client that never confirms, when the connection stood for longer after it than TCP goes on trying (a quarter
      of an hour), or when the client has said goodbye (close code 1000 or 1001) more than five seconds after it.

What was not delivered is sent again on the next connection, with the same event number (0077,1001). An application has
one connection: a newer one takes over, and the older is closed with code 4000.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import anyio
import msgspec
from anyio import to_thread
from litestar import WebSocket, websocket
from litestar.exceptions import PermissionDeniedException, WebSocketDisconnect
from litestar.handlers import BaseRouteHandler

from imaging_ai.core.identity import parse_ae_title
from imaging_ai.errors import BadParameterError, UnavailableError
from imaging_ai.queue.events import number_of
from imaging_ai.queue.workitem_feed import Feed
from imaging_ai.serve.dicomweb.ups_notifier import Notifier

__all__ = ["connection_handler"]

logger = logging.getLogger(__name__)

AnySocket = WebSocket[Any, Any, Any]

#: Longer than TCP tries to bring a segment to its peer (Linux: tcp_retries2, 924 s): after it, what was sent is there.
_SETTLED_SECONDS = 1_000.0
_GOODBYE_SECONDS = 5.0
_GOODBYES = (1000, 1001)
_TAKEN_OVER, _TOO_BIG, _TRY_LATER, _TOO_SLOW = 4000, 1009, 1013, 4001
_MOST_CONNECTIONS = 256
_MOST_UNCONFIRMED = 1_000
_LONGEST_FRAME = 4_096
_SEND_SECONDS = 30.0
_LOOK_EVERY = 5.0
_MOMENT = 0.05  # for the server to see that nobody receives any more


def connection_handler(feed: Feed, notifier: Notifier) -> BaseRouteHandler:
    """Return the handler that opens notification connections."""

    @websocket(["/ws/subscribers/{ae_title:str}", "/subscribers/{ae_title:str}"], opt={"needs": "read"})
    async def open_notification_connection(socket: AnySocket, ae_title: str) -> None:
        title = parse_ae_title(ae_title)
        after = _after(socket)
        _check_origin(socket)
        notifier.start()
        name = await to_thread.run_sync(feed.open, title, after)
        await socket.accept()
        if notifier.connections >= _MOST_CONNECTIONS:
            await socket.close(_TRY_LATER, "too many connections")
            return
        with notifier.waking() as wake:
            await _Connection(socket, feed, title, name, wake, after or 0).run()

    return open_notification_connection


def _after(socket: AnySocket) -> int | None:
    given = socket.query_params.get("after")
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise BadParameterError("after", "must be an event number")
    return int(given)


def _check_origin(socket: AnySocket) -> None:
    """Refuse a page of another origin: browsers let any page open a WebSocket anywhere."""
    origin = socket.headers.get("origin", "")
    cors = socket.app.cors_config
    if not origin or (cors is not None and cors.is_origin_allowed(origin)):
        return
    ours = {socket.headers.get("host", "").lower(), urlsplit(socket.app.state.get("public_url", "")).netloc.lower()}
    if urlsplit(origin).netloc.lower() not in ours:
        raise PermissionDeniedException("pages of this origin may not open connections here")


@dataclass(slots=True)
class _Connection:
    """One connection, from its first report to its end."""

    socket: AnySocket
    feed: Feed
    ae_title: str
    name: str
    wake: Any
    position: int
    confirms: bool = False
    confirmed: int = 0
    over: _Over | None = None
    sent: deque[tuple[int, float]] = field(default_factory=deque)

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._receive, tasks.cancel_scope)
            await self._send()
            tasks.cancel_scope.cancel()
        if self.over is not None:  # only now: the server sends no goodbye while somebody still receives
            await self._say_goodbye(self.over)
        try:
            await self._settle()
        except UnavailableError as error:
            logger.warning("what a subscriber has confirmed was not written down: %s", error.message)

    # -- sending

    async def _send(self) -> None:
        try:
            while True:
                self.wake.clear()
                if await self._send_next():
                    continue
                with anyio.move_on_after(_LOOK_EVERY):
                    await self.wake.wait()
        except _Over as over:
            self.over = over
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            logger.debug("a notification connection has ended: %s", error)

    async def _send_next(self) -> bool:
        """Send what is there, and say whether there may be more."""
        try:
            await self._settle()
            if self.confirms and len(self.sent) >= _MOST_UNCONFIRMED:
                return False
            found = await to_thread.run_sync(self.feed.after, self.ae_title, self.name, self.position)
        except UnavailableError as error:
            logger.warning("a notification connection waits: %s", error.message)
            return False
        if found is None:
            raise _Over(_TAKEN_OVER, "another connection of this application has taken over")
        for one in found:
            with anyio.move_on_after(_SEND_SECONDS) as patience:
                await self.socket.send_data(one.data.decode(), mode="text")
            if patience.cancelled_caught:
                raise _Over(_TOO_SLOW, "reports are not read")
            self.position = one.number
            self.sent.append((one.number, time.monotonic()))
        return bool(found)

    async def _say_goodbye(self, over: _Over) -> None:
        await anyio.sleep(_MOMENT)
        with anyio.move_on_after(1.0):
            try:
                await self.socket.close(over.code, over.reason)
            except (WebSocketDisconnect, RuntimeError, OSError) as error:
                logger.debug("a notification connection had ended: %s", error)

    # -- what is known to have arrived

    async def _receive(self, ended: anyio.CancelScope) -> None:
        while True:
            message: Any = await self.socket.receive()
            if message["type"] != "websocket.receive":
                if not self.confirms and message.get("code") in _GOODBYES:
                    self._count_as_delivered(_GOODBYE_SECONDS)
                ended.cancel()
                return
            text = message.get("text") or message.get("bytes") or ""
            if len(text) > _LONGEST_FRAME:
                self.over = _Over(_TOO_BIG, "an answer is one data set of a few bytes")
                ended.cancel()
                return
            self._hear(text)

    def _hear(self, text: str | bytes) -> None:
        try:
            answer = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # not an answer to a report
        number = number_of(answer, (number for number, _ in self.sent))
        if number is not None:
            self.confirms, self.confirmed = True, max(self.confirmed, number)
            self.wake.set()

    def _count_as_delivered(self, seconds: float) -> None:
        old = [number for number, at in self.sent if at < time.monotonic() - seconds]
        if old:
            self.confirmed = max(self.confirmed, old[-1])

    async def _settle(self) -> None:
        """Write down how far the subscriber has come."""
        if not self.confirms:
            self._count_as_delivered(_SETTLED_SECONDS)
        if self.sent and self.confirmed >= self.sent[0][0]:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self.feed.acknowledge, self.ae_title, self.name, self.confirmed)
            while self.sent and self.sent[0][0] <= self.confirmed:
                self.sent.popleft()


class _Over(Exception):
    """Raised when a connection has to end."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason
