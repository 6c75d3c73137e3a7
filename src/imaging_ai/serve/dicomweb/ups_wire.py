"""Work items on the wire (PS3.18 11.1.3): a body with one of them, answers with some, in JSON and XML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from litestar import Request, Response

from imaging_ai.errors import InputError, UnsupportedMediaType
from imaging_ai.queue.workitem_elements import Elements, checked
from imaging_ai.serve.dicomweb.body import Body
from imaging_ai.serve.dicomweb.media import DICOM_JSON, DICOM_XML, JSON, MULTIPART_XML, MediaType, choose
from imaging_ai.serve.dicomweb.multipart_in import PartBegins, PartEnds, Splitter
from imaging_ai.serve.dicomweb.native import from_xml, to_xml
from imaging_ai.serve.dicomweb.wire import Part, answer, multipart, uid

__all__ = ["LARGEST_BODY", "bare_parameter", "read_body", "respond_with"]

AnyRequest = Request[Any, Any, Any]

#: Bytes that the data set of one work item may have.
LARGEST_BODY = 4 << 20
_IDLE_SECONDS = 30.0
_TAKEN = f"{DICOM_JSON}, {DICOM_XML}, {MULTIPART_XML}"


async def read_body(request: AnyRequest, *, needed: bool = True) -> Elements:
    """Return the data set in the body of a request, checked; an empty one where none is needed.

    Raises
    ------
    InputError
        If it is no data set or does not come, `UnsupportedMediaType` if it is of a kind that is not taken.
    """
    body = await _whole_body(request)
    if not body.strip():
        if needed:
            raise InputError("the request has no body; it needs the data set of a work item")
        return {}
    kind = MediaType.parse(request.headers.get("content-type", "") or "none/none")
    if kind.multipart:
        kind, body = _only_part(kind, body)
    if kind.essence in (DICOM_JSON, JSON):
        return checked(_from_json(body))
    if kind.essence in (DICOM_XML, "application/xml", "text/xml"):
        return checked(from_xml(body))
    raise UnsupportedMediaType(f"the body is of a kind that is not taken here; taken are {_TAKEN}")


async def _whole_body(request: AnyRequest) -> bytes:
    pieces: list[bytes] = []
    body = Body(request, idle_seconds=_IDLE_SECONDS, most_bytes=LARGEST_BODY)
    try:
        await body.pour(pieces.append)
    except InputError:
        await body.drain()
        raise
    return b"".join(pieces)


def respond_with(
    request: AnyRequest, datasets: Sequence[Mapping[str, Any]], headers: Mapping[str, str] | None = None
) -> Response[Any]:
    """Answer with work items, in the media type that the request wants most."""
    single = (DICOM_XML,) if len(datasets) == 1 else ()
    wanted = choose(request, (DICOM_JSON, MULTIPART_XML, JSON, *single))
    if wanted == MULTIPART_XML:
        return multipart((Part(DICOM_XML, [to_xml(one)]) for one in datasets), DICOM_XML, headers=headers)
    if wanted == DICOM_XML:
        return answer(request, to_xml(datasets[0]), DICOM_XML, headers=headers)
    ordered = [{key: one[key] for key in sorted(one)} for one in datasets]
    return answer(request, msgspec.json.encode(ordered), wanted, headers=headers)


def bare_parameter(request: AnyRequest, *names: str) -> str:
    """Return a UID given as ``?1.2.3`` or under one of some names; "" without one."""
    for name in names:
        if given := request.query_params.get(name):
            return uid(given, name)
    query = request.scope["query_string"].decode("latin-1")
    for piece in query.split("&"):
        text, _, value = unquote(piece).partition("=")
        if text[:1].isdigit() and "." in text and not value:
            return uid(text, names[0])
    return ""


def _from_json(body: bytes) -> object:
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the body is no JSON that can be read: {type(error).__name__}") from None
    if isinstance(given, list):
        if len(given) != 1:
            raise InputError(f"the body has {len(given)} data sets; one is taken at a time")
        return given[0]
    return given


def _only_part(kind: MediaType, body: bytes) -> tuple[MediaType, bytes]:
    """Return the type and the bytes of the one part of a multipart body."""
    splitter = Splitter(kind.parameters.get("boundary", ""))
    parts: list[tuple[str, bytearray]] = []
    events = [*splitter.feed(body)]
    splitter.finish()
    for event in events:
        if isinstance(event, PartBegins):
            parts.append((event.headers.get("content-type", kind.part), bytearray()))
        elif not isinstance(event, PartEnds):
            parts[-1][1].extend(event)
    if len(parts) != 1:
        raise InputError(f"the body has {len(parts)} parts; one is taken at a time")
    return MediaType.parse(parts[0][0]), bytes(parts[0][1])
