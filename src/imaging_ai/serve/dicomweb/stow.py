"""STOW-RS (PS3.18 10.5): storing instances, sent as DICOM files or as metadata with bulk data.

Everything a request brings is staged while it comes, and stored at its end: a body that breaks off, is malformed or
too large leaves nothing behind. Instances that are whole succeed or fail one by one from there on. Nothing is coerced:
what is stored are the bytes that came, so there are neither warnings nor Original Attributes to tell (10.5.3).
"""

from __future__ import annotations

import logging
from typing import Any

import anyio
import msgspec
from anyio import to_thread
from litestar import Request, Response, post
from litestar.handlers import BaseRouteHandler

from imaging_ai.archive.archive import Visit
from imaging_ai.archive.usage import DailyUse
from imaging_ai.errors import InputError, OverLimit, UnsupportedMediaType
from imaging_ai.serve.access import actor, origin
from imaging_ai.serve.dicomweb.body import Body
from imaging_ai.serve.dicomweb.media import DICOM, DICOM_JSON, DICOM_XML, JSON, MediaType, choose
from imaging_ai.serve.dicomweb.multipart_in import PartBegins, PartEnds, Splitter
from imaging_ai.serve.dicomweb.native import to_xml
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.stow_answer import store_response, store_status
from imaging_ai.serve.dicomweb.stow_intake import Intake, Outcome
from imaging_ai.serve.dicomweb.wire import answer, base_url, uid

__all__ = ["stow_handlers"]

_log = logging.getLogger(__name__)
_ANSWERS = (DICOM_JSON, DICOM_XML, JSON)
_BODIES = frozenset({DICOM, DICOM_JSON, DICOM_XML, JSON, "application/xml", "text/xml"})

AnyRequest = Request[Any, Any, Any]


def stow_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""

    @post(["/studies", "/studies/{study:str}"], status_code=200, opt={"needs": "store"}, request_max_body_size=None)
    async def store_instances(request: AnyRequest, study: str | None = None) -> Response[bytes]:
        """Store instances, of one study or of any."""
        body = Body(request, idle_seconds=parts.limits.idle_seconds, most_bytes=parts.limits.request_bytes)
        try:
            if parts.use is not None:
                await to_thread.run_sync(_check_share, parts, parts.use, actor(request), origin(request))
            return await _store(parts, request, body, None if study is None else uid(study, "study"))
        except InputError:
            await body.drain()
            raise

    return [store_instances]


def _check_share(parts: Parts, use: DailyUse, principal: str, address: str) -> None:
    """Refuse a principal that has stored its share of today."""
    if principal and use.of(principal) >= parts.limits.day_bytes:
        if parts.refusals is not None:
            parts.refusals.note(
                OverLimit.code, address, principal, "begin-transferring-instances", "request", proved=True
            )
        raise OverLimit("the share of today is stored; go on tomorrow", use.seconds_left())


async def _store(parts: Parts, request: AnyRequest, body: Body, study: str | None) -> Response[bytes]:
    offer, media_type, base = choose(request, _ANSWERS), _body_type(request), base_url(request)
    part_type = media_type.part if media_type.part != "*/*" else DICOM
    intake = Intake(parts, Visit(actor(request), origin(request), "stow"), part_type, study=study, base_url=base)
    sink = _MultipartSink(intake, media_type) if media_type.multipart else _SinglePartSink(intake)
    try:
        await body.pour(sink.feed)
        outcomes = await to_thread.run_sync(sink.finish)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(intake.discard)
        raise
    response = store_response(outcomes, base, study)
    content = to_xml(response) if offer == DICOM_XML else msgspec.json.encode(response)
    return answer(request, content, offer, status=store_status(outcomes))


def _body_type(request: AnyRequest) -> MediaType:
    """Return what the body is, if it is something that can be stored."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body must come without a Content-Encoding")
    text = request.headers.get("content-type", "")
    media_type = MediaType.parse(text) if text else MediaType("unknown/unknown")
    if media_type.part not in _BODIES and not (media_type.multipart and media_type.part == "*/*"):
        taken = ", ".join(sorted(_BODIES))
        raise UnsupportedMediaType(f"instances are taken as {taken}, alone or as parts of multipart/related")
    return media_type


class _MultipartSink:
    """Feeds a multipart body to an intake."""

    def __init__(self, intake: Intake, media_type: MediaType) -> None:
        self._intake = intake
        self._splitter = Splitter(media_type.parameters.get("boundary", ""))

    def feed(self, data: bytes) -> None:
        intake = self._intake
        for event in self._splitter.feed(data):
            if isinstance(event, PartBegins):
                intake.begin(event.headers)
            elif isinstance(event, PartEnds):
                intake.end()
            else:
                intake.write(event)

    def finish(self) -> list[Outcome]:
        self._splitter.finish()
        return self._intake.finish()


class _SinglePartSink:
    """Feeds a body that is one part by itself."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._begun = False

    def feed(self, data: bytes) -> None:
        if not self._begun:
            self._intake.begin({})
            self._begun = True
        self._intake.write(memoryview(data))

    def finish(self) -> list[Outcome]:
        if self._begun:
            self._intake.end()
        return self._intake.finish()
