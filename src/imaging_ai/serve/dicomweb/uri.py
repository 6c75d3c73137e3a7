"""WADO-URI (PS3.18 9): one instance, as an image, report or document, or as the DICOM object itself.

It is answered at the base address, where clients that have it from one setting ask, and at `/wado`.
"""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.handlers import BaseRouteHandler

from imaging_ai.errors import BadParameterError
from imaging_ai.render.source import Source
from imaging_ai.serve.dicomweb.media import best_of
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.rendered import Answering
from imaging_ai.serve.dicomweb.rendered_offers import IMAGES, category_of, offers_of
from imaging_ai.serve.dicomweb.rendered_work import Rendering
from imaging_ai.serve.dicomweb.uri_query import Asked, asked
from imaging_ai.serve.dicomweb.wado_instances import answer_instances

__all__ = ["uri_handlers"]

AnyRequest = Request[Any, Any, Any]


def uri_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""
    rendering = Rendering(parts)

    @get(["/", "/wado"], opt={"needs": "read"}, name="retrieve-by-uri")
    async def retrieve_by_uri(request: AnyRequest) -> Response[Any]:
        return await _retrieve(parts, rendering, request)

    return [retrieve_by_uri]


async def _retrieve(parts: Parts, rendering: Rendering, request: AnyRequest) -> Response[Any]:
    wanted = asked(request)
    if wanted.dicom:
        response = await rendering.run(lambda: _object(rendering, request, wanted))
    else:
        response = await _rendered(rendering, request, wanted)
    action = "read-instances" if wanted.dicom else "read-rendered"
    parts.accesses.note(request, action, "instance", wanted.instance)
    return response


def _object(rendering: Rendering, request: AnyRequest, wanted: Asked) -> Response[Any]:
    listed = rendering.retriever.one(wanted.study, wanted.series, wanted.instance)
    return answer_instances(rendering.retriever, request, [listed], single=True, ranges=wanted.ranges)


async def _rendered(rendering: Rendering, request: AnyRequest, wanted: Asked) -> Response[Any]:
    stored, source = await rendering.find(wanted.study, wanted.series, wanted.instance)
    answering = Answering(rendering, request, wanted.wish)
    if category_of(source) != "image":
        if wanted.frame_number is not None:
            raise BadParameterError("frameNumber", "the instance is no image")
        return await answering.text(stored, source, best_of(wanted.ranges, offers_of(source)))
    media_type = best_of(wanted.ranges, IMAGES)
    number = _frame_number(source, wanted.frame_number)
    if media_type == "image/gif" and wanted.frame_number is None and source.frame_count > 1:
        return await answering.moving(stored, source)
    return await answering.frame(stored, source, number, media_type)


def _frame_number(source: Source, wanted: int | None) -> int:
    if wanted is not None and wanted > source.frame_count:
        raise BadParameterError("frameNumber", f"the instance has {source.frame_count} frames (PS3.18 9.5.2.1)")
    return wanted or source.representative_frame()
