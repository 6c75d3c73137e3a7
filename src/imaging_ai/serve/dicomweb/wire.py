"""What every DICOMweb transaction needs of HTTP: UIDs in paths, addresses, answers in JSON and in parts.

Answers to conditional requests and compression are here too (PS3.18 8.4, 8.7; RFC 9110, RFC 2387).
"""

from __future__ import annotations

import ctypes
import re
import secrets
import threading
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO
from itertools import chain
from types import MappingProxyType
from typing import Any, cast

from litestar import Request, Response
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream
from litestar.types import ASGIApp, Receive, Scope, Send

from imaging_ai.archive.retrieve import Fill
from imaging_ai.errors import BadParameterError

__all__ = [
    "ALWAYS",
    "Part",
    "Pieces",
    "Whole",
    "answer",
    "base_url",
    "begun",
    "etag_of",
    "filled",
    "gathered",
    "multipart",
    "not_modified",
    "part_head",
    "parts_end",
    "sent_as",
    "stream",
    "takes",
    "takes_gzip",
    "uid",
    "warning",
    "whole",
]

AnyRequest = Request[Any, Any, Any]

#: Headers of every answer of DICOMweb.
ALWAYS: Mapping[str, str] = MappingProxyType(
    {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}
)
_ALWAYS = tuple((name.lower().encode(), value.encode()) for name, value in ALWAYS.items())

_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_char_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)

_UID = re.compile(r"[0-9]+(\.[0-9]+)*\Z")
_WORTH_COMPRESSING = 1_024
_WORTH_SENDING = 1 << 18
_AHEAD = 8 << 20
_COMPRESSIBLE = ("application/dicom+json", "application/json", "application/dicom+xml")


def uid(text: str, name: str) -> str:
    """Return a UID of a path or query, as PS3.5 9.1 has them (leading zeros in components are let pass).

    Raises
    ------
    BadParameterError
        If it is none.
    """
    if len(text) > 64 or not _UID.match(text):
        raise BadParameterError(name, "is not a UID (PS3.5 9.1: digits and dots, at most 64 characters)")
    return text


def base_url(request: AnyRequest) -> str:
    """Return the address of `/dicom-web` as the client sees it: `http.public_url`, else what the request came to."""
    if public := request.app.state.get("public_url", ""):
        return f"{public.rstrip('/')}/dicom-web"
    host = next((value.decode("latin-1") for name, value in request.scope["headers"] if name == b"host"), "")
    return f"{request.scope['scheme']}://{host or request.url.netloc}/dicom-web"


def warning(text: str) -> dict[str, str]:
    """Return the Warning header of PS3.18 (code 299)."""
    return {"Warning": f'299 imaging-ai "{text}"'}


def etag_of(*pieces: bytes | str | int | float) -> str:
    """Return an entity tag of what decides the content."""
    digest = blake2b(digest_size=16)
    for piece in pieces:
        digest.update(piece if isinstance(piece, bytes) else str(piece).encode())
        digest.update(b"\0")
    return f'"{digest.hexdigest()}"'


def not_modified(request: AnyRequest, etag: str) -> bool:
    """Say whether the client holds this content already (If-None-Match)."""
    held = _said(request, b"if-none-match")
    return held.strip() == "*" or etag in (one.strip().removeprefix("W/") for one in held.split(","))


def _said(request: AnyRequest, header: bytes) -> str:
    """Return what a request says in a list header, all of its lines in one (RFC 9110 5.3)."""
    return ",".join(value.decode("latin-1") for name, value in request.scope["headers"] if name == header)


def answer(
    request: AnyRequest,
    body: bytes,
    media_type: str,
    *,
    status: int = 200,
    etag: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response[bytes]:
    """Answer with a body, compressed where the client takes it; 304 where it holds it already."""
    sent = {"Vary": "Accept, Accept-Encoding", **(headers or {})}
    if etag:
        sent["ETag"] = etag
        if status == 200 and not_modified(request, etag):
            return Response(b"", status_code=304, headers=sent)
    body = _packed(request, body, media_type, sent)
    return Response(body, status_code=status, media_type=media_type, headers=sent)


def whole(request: AnyRequest, body: bytes, media_type: str, headers: Mapping[str, str]) -> Whole:
    """Answer with a body as `answer` does, past litestar."""
    sent = {"Vary": "Accept, Accept-Encoding", **headers}
    return Whole(_packed(request, body, media_type, sent), media_type, sent)


def _packed(request: AnyRequest, body: bytes, media_type: str, headers: dict[str, str]) -> bytes:
    """Return a body, compressed where the client takes it, which the headers say then."""
    if len(body) < _WORTH_COMPRESSING or not media_type.startswith(_COMPRESSIBLE) or not takes_gzip(request):
        return body
    headers["Content-Encoding"] = "gzip"
    engine = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    return engine.compress(body) + engine.flush()


def takes_gzip(request: AnyRequest) -> bool:
    """Say whether the client takes a body compressed with gzip (RFC 9110 12.5.3)."""
    return takes(request, "gzip", "x-gzip", "*")


def takes(request: AnyRequest, *names: str) -> bool:
    """Say whether the client takes a body in a content coding of one of these names."""
    for item in _said(request, b"accept-encoding").lower().split(","):
        coding, _, weight = item.partition(";")
        if coding.strip() in names:
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer that is all in memory: one status and one body, which nothing between here and the server copies."""

    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI)."""
        described = ((b"content-type", self.media_type.encode("latin-1")), (b"content-length", b"%d" % len(self.body)))
        further = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": [*_ALWAYS, *described, *further]})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def sent_as(request: AnyRequest, answer: Whole | Response[Any]) -> ASGIApp:
    """Return what sends an answer. Of handlers that may return any, litestar would give a stream the wrong type."""
    return answer if isinstance(answer, Whole) else answer.to_asgi_response(None, request, headers=dict(ALWAYS))


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart answer: its media type with parameters, further headers, and its bytes in pieces."""

    content_type: str
    body: Iterable[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


def multipart(
    parts: Iterator[Part] | AsyncIterator[Part] | Callable[[str], AsyncGenerator[bytes]],
    of_type: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Stream:
    """Answer with parts as they come (RFC 2387); nothing is held but the piece being sent.

    A synchronous iterator is run in threads by the server; a function gives the body itself, of a boundary. `of_type`
    is the `type` parameter: the type of the parts.
    """
    boundary = secrets.token_hex(16)
    pieces: Iterator[bytes] | AsyncGenerator[bytes]
    if callable(parts):
        pieces = parts(boundary)
    else:
        pieces = _pieces(parts, boundary) if isinstance(parts, Iterator) else _async_pieces(parts, boundary)
    media_type = f'multipart/related; type="{of_type}"; boundary="{boundary}"'
    return stream(pieces, media_type, status=status, headers=headers)


def stream(
    pieces: Iterator[bytes] | AsyncGenerator[bytes],
    media_type: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Stream:
    """Answer with pieces as they come. What they are made of is let go when the client has gone, and not some day."""
    if isinstance(pieces, Iterator):
        each = Pieces(pieces)
        over = BackgroundTask(each.close)
        return Stream(each, media_type=media_type, status_code=status, headers=dict(headers or {}), background=over)
    each_async = _each_async(pieces)

    async def close() -> None:  # litestar would call `aclose` itself in a thread, and wait for nothing
        await each_async.aclose()

    over = BackgroundTask(close)
    return Stream(each_async, media_type=media_type, status_code=status, headers=dict(headers or {}), background=over)


class Pieces(Iterator[bytes]):
    """Pieces that can be let go while a thread may still be waiting for the next one, with what they are made of."""

    def __init__(self, pieces: Iterator[bytes], source: Iterable[bytes] = ()) -> None:
        self._pieces, self._source = pieces, source
        self._lock = threading.Lock()

    def __next__(self) -> bytes:
        with self._lock:
            try:
                return next(self._pieces)
            except ValueError as error:  # litestar takes one for the end of the pieces
                raise RuntimeError("the pieces of an answer could not be made") from error

    def close(self) -> None:
        """Let go, as soon as nobody waits for a piece: files are closed now, not when memory is looked through."""
        with self._lock:
            self._pieces = iter(())
            if isinstance(self._source, Generator):
                self._source.close()


async def _each_async(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(pieces):
        async for piece in pieces:
            yield piece


def begun(pieces: Iterator[bytes], ahead: int = _AHEAD) -> Iterator[bytes]:
    """Begin bytes that are being made, up to their end when they are few: what is wrong is known before they go out."""
    ready, size = list[bytes](), 0
    for piece in pieces:
        ready.append(piece)
        size += len(piece)
        if size >= ahead:
            break
    return _after(b"".join(ready), pieces)


def _after(first: bytes, pieces: Iterator[bytes]) -> Generator[bytes]:
    yield first
    yield from pieces


def gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Give bytes in pieces of some size: each of them wakes a thread."""
    waiting, size = list[bytes](), 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _WORTH_SENDING:
            yield b"".join(waiting)
            waiting, size = [], 0
    if size:
        yield b"".join(waiting)


def part_head(boundary: str, content_type: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Return what comes before the bytes of a part; after them comes ``CRLF``."""
    lines = [f"--{boundary}", f"Content-Type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def parts_end(boundary: str) -> bytes:
    """Return what comes after the last part."""
    return f"--{boundary}--\r\n".encode()


def filled(fill: Fill, ranges: Sequence[tuple[int, int]], head: bytes, tail: bytes) -> bytes | None:
    """Return bytes whose middle is read right to where it is sent from; None if it is empty, or not in memory."""
    position, length = len(head), sum(size for _, size in ranges)
    if not length:
        return None
    body = BytesIO(_room(position + length + len(tail)))
    with body.getbuffer() as view:
        view[:position], view[position + length :] = head, tail
        for start, size in ranges:
            if not fill(start, view[position : position + size]):
                return None
            position += size
    return body.getvalue()


def _room(size: int) -> bytes:
    """Return bytes that nobody has written yet: to fill half a megabyte with zeros takes as long as to read it.

    A `BytesIO` that is the only one to hold them writes into them (PyBytes_FromStringAndSize of NULL is made for this).
    """
    return cast("bytes", _new_bytes(None, size))


def _pieces(parts: Iterator[Part], boundary: str) -> Iterator[bytes]:
    return gathered(chain(chain.from_iterable(_of_part(part, boundary) for part in parts), (parts_end(boundary),)))


async def _async_pieces(parts: AsyncIterator[Part], boundary: str) -> AsyncGenerator[bytes]:
    async for part in parts:
        for piece in _of_part(part, boundary):
            yield piece
    yield parts_end(boundary)


def _of_part(part: Part, boundary: str) -> Iterator[bytes]:
    return chain((part_head(boundary, part.content_type, part.headers),), part.body, (b"\r\n",))
