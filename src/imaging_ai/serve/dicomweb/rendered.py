"""WADO-RS rendered resources (PS3.18 10.4.1.1.3): images, reports and documents as a browser shows them.

One frame, report or document is a single part. A study, a series, a list of frames and, unless one image is asked for,
a multi-frame instance are multipart, each part in the media type that is wanted most of what its instance can be.
What of them cannot be rendered as wanted is left out; an image that should be there and fails is told in its part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import BaseRouteHandler
from litestar.response import Stream
from litestar.types import ASGIApp

from imaging_ai import __version__
from imaging_ai.core.instance import StoredInstance
from imaging_ai.errors import ImagingAiError, InputError, NotAcceptable, NotFound, StorageUnavailable
from imaging_ai.render.source import Source
from imaging_ai.render.wish import Wish
from imaging_ai.serve.dicomweb import rendered_query
from imaging_ai.serve.dicomweb.media import MediaType, accepted, best_of, choose
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.rendered_offers import (
    IMAGES,
    MULTIPART_IMAGES,
    category_of,
    offers_of,
)
from imaging_ai.serve.dicomweb.rendered_place import Place, paths
from imaging_ai.serve.dicomweb.rendered_work import Rendering
from imaging_ai.serve.dicomweb.thumbnail import thumbnail_handlers
from imaging_ai.serve.dicomweb.wire import (
    Part,
    answer,
    base_url,
    etag_of,
    multipart,
    not_modified,
    sent_as,
    stream,
    whole,
)
from imaging_ai.serve.problem import MEDIA_TYPE

__all__ = ["Answering", "rendered_handlers"]

AnyRequest = Request[Any, Any, Any]

_Make = Callable[[StoredInstance, Source, int, str, Wish], bytes | None]

#: Texts of strangers are shown as text: nothing in them is run or fetched.
_HARMLESS = {"Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'"}
_CHARSET = "; charset=utf-8"


def rendered_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""
    rendering = Rendering(parts)

    async def at_once(request: AnyRequest, **named: str) -> ASGIApp | None:
        place, wish = Place.of(named), rendered_query.wish(request)
        image = await _one_image(rendering, request, place, wish)
        if image is not None:
            parts.accesses.note(request, "read-rendered", place.level, place.object_uid)
        return image

    @get(paths("rendered"), opt={"needs": "read", "at_once": at_once}, name="retrieve-rendered")
    async def retrieve_rendered(request: AnyRequest) -> Response[Any]:
        place, wish = Place.of(request.path_params), rendered_query.wish(request)
        response = await _retrieve(rendering, request, place, wish)
        parts.accesses.note(request, "read-rendered", place.level, place.object_uid)
        return response

    return [retrieve_rendered, *thumbnail_handlers(parts, rendering)]


async def _one_image(rendering: Rendering, request: AnyRequest, place: Place, wish: Wish) -> ASGIApp | None:
    """Answer with one image, past litestar; None if it is something else that is asked for."""
    if place.series is None or place.instance is None:
        return None
    names = place.study, place.series, place.instance

    def image(found: tuple[StoredInstance, Source], make: _Make) -> ASGIApp | None:
        stored, source = found
        place.check_frames(source)
        if len(place.frames or range(source.frame_count)) != 1:
            return None
        media_type = choose(request, (*IMAGES, *MULTIPART_IMAGES))
        if media_type not in IMAGES:
            return None
        number = place.frames[0] if place.frames else source.representative_frame()
        etag = _etag(stored, media_type, number, wish)
        if not_modified(request, etag):
            return sent_as(request, answer(request, b"", media_type, etag=etag))
        body = make(stored, source, number, media_type, wish)
        return whole(request, body, media_type, {"ETag": etag}) if body else None

    there = rendering.open_already(*names)
    at_once = image(there, rendering.made_already) if there else None
    return at_once or await rendering.run(lambda: image(there or rendering.found(*names), rendering.image))


def _etag(stored: StoredInstance, media_type: str, number: int, wish: Wish) -> str:
    blob = stored.blob
    return etag_of(__version__, blob.key, blob.offset, blob.length, media_type, number, repr(wish))


async def _retrieve(rendering: Rendering, request: AnyRequest, place: Place, wish: Wish) -> Response[Any]:
    ranges, answering = accepted(request), Answering(rendering, request, wish)
    if place.series is None or place.instance is None:
        return await rendering.run(lambda: answering.everything(place.stored(rendering.retriever), ranges))
    stored, source = await rendering.find(place.study, place.series, place.instance)
    place.check_frames(source)
    if category_of(source) == "image":
        return await answering.image(stored, source, place.frames, ranges)
    return await answering.text(stored, source, best_of(ranges, offers_of(source)))


@dataclass(frozen=True, slots=True)
class Answering:
    """Answers one request for something rendered."""

    rendering: Rendering
    request: AnyRequest
    wish: Wish

    async def image(
        self, stored: StoredInstance, source: Source, frames: tuple[int, ...], ranges: tuple[MediaType, ...]
    ) -> Response[Any]:
        """Answer with frames of an instance, with all of them when none are named."""
        if len(frames or range(source.frame_count)) == 1:
            chosen = best_of(ranges, (*IMAGES, *MULTIPART_IMAGES))
        elif frames:
            chosen = f'multipart/related; type="{best_of(_of_parts(ranges), IMAGES)}"'
        else:
            chosen = best_of(ranges, (*MULTIPART_IMAGES, *IMAGES))
        media_type = MediaType.parse(chosen)
        if media_type.multipart:
            numbers = frames or tuple(range(1, source.frame_count + 1))
            parts = self._frames(stored, source, numbers, media_type.part)
            return await self.rendering.run(lambda: self._stream(parts))
        if media_type.essence == "image/gif" and not frames and source.frame_count > 1:
            return await self.moving(stored, source)
        number = frames[0] if frames else source.representative_frame()
        return await self.frame(stored, source, number, media_type.essence)

    async def frame(self, stored: StoredInstance, source: Source, number: int, media_type: str) -> Response[bytes]:
        """Answer with one frame."""
        etag = _etag(stored, media_type, number, self.wish)
        held = not_modified(self.request, etag)
        body = b"" if held else await self.rendering.image_soon(stored, source, number, media_type, self.wish)
        return answer(self.request, body, media_type, etag=etag)

    async def moving(self, stored: StoredInstance, source: Source) -> Response[bytes]:
        """Answer with all frames in one moving image."""
        etag = _etag(stored, "image/gif", 0, self.wish)
        held = not_modified(self.request, etag)
        body = b"" if held else await self.rendering.run(lambda: self.rendering.moving(stored, source, self.wish))
        return answer(self.request, body, "image/gif", etag=etag)

    async def text(self, stored: StoredInstance, source: Source, media_type: str) -> Response[Any]:
        """Answer with a report, or with the document an instance encapsulates."""
        return await self.rendering.run(lambda: self._text(stored, source, media_type))

    def _text(self, stored: StoredInstance, source: Source, media_type: str) -> Response[Any]:
        etag = _etag(stored, media_type, 0, self.wish)
        headers = dict(_HARMLESS) if media_type.startswith("text/") else {}
        if not_modified(self.request, etag):
            return answer(self.request, b"", media_type, etag=etag, headers=headers)
        if category_of(source) == "report":
            return answer(
                self.request, self.rendering.report(source, media_type), media_type, etag=etag, headers=headers
            )
        pieces, length = self.rendering.document(source)
        # the type is a header of its own: the encoding of a text is what the text itself says
        headers |= {"ETag": etag, "Content-Length": str(length), "Vary": "Accept", "Content-Type": media_type}
        return stream(self.rendering.each(pieces), media_type, headers=headers)

    def everything(self, stored: tuple[StoredInstance, ...], ranges: tuple[MediaType, ...]) -> Response[Any]:
        """Answer with everything of many instances that can be rendered as wanted."""
        return self._stream(self._all_parts(stored, _of_parts(ranges)))

    def _stream(self, found: Iterator[Part | ImagingAiError]) -> Stream:
        """Send parts as they come. Before the first one that is well, an error is still an answer."""
        failed: list[ImagingAiError] = []
        first = None
        for one in found:
            if isinstance(one, Part):
                first = one
                break
            failed.append(one)
        if first is None:
            raise failed[0] if failed else NotAcceptable("there is nothing here that can be rendered as wanted")
        everything = chain(failed, [first], found)
        parts = (one if isinstance(one, Part) else _problem_part(one) for one in everything)
        return multipart(self.rendering.each(parts), first.content_type)

    def _all_parts(
        self, stored: tuple[StoredInstance, ...], ranges: tuple[MediaType, ...]
    ) -> Iterator[Part | ImagingAiError]:
        refusal: ImagingAiError | None = None
        shown = False
        for instance in stored:
            try:
                source = self.rendering.open(instance)
                media_type = best_of(ranges, offers_of(source))
            except (NotAcceptable, NotFound, StorageUnavailable) as error:
                refusal = refusal or error
                continue
            shown = True
            if category_of(source) == "image":
                yield from self._frames(instance, source, tuple(range(1, source.frame_count + 1)), media_type)
            else:
                yield self._text_part(instance, source, media_type)
        if not shown and refusal is not None:
            yield refusal

    def _frames(
        self, stored: StoredInstance, source: Source, numbers: tuple[int, ...], media_type: str
    ) -> Iterator[Part | ImagingAiError]:
        for number in numbers:
            try:
                data = self.rendering.image(stored, source, number, media_type, self.wish)
            except (InputError, StorageUnavailable) as error:
                yield error
            else:
                location = f"{self._url(stored)}/frames/{number}/rendered"
                yield Part(media_type, [data], {"Content-Location": location})

    def _text_part(self, stored: StoredInstance, source: Source, media_type: str) -> Part:
        location = {"Content-Location": f"{self._url(stored)}/rendered"}
        if category_of(source) == "report":
            return Part(media_type + _CHARSET, [self.rendering.report(source, media_type)], location)
        return Part(media_type, self.rendering.document(source)[0], location)

    def _url(self, stored: StoredInstance) -> str:
        study, series = stored.study_instance_uid, stored.series_instance_uid
        return f"{base_url(self.request)}/studies/{study}/series/{series}/instances/{stored.sop_instance_uid}"


def _of_parts(ranges: tuple[MediaType, ...]) -> tuple[MediaType, ...]:
    """Return ranges as what they say of each part: many images are multipart, whether asked for so or not (8.7.8.1)."""
    return tuple(MediaType(one.part, {}, one.q) for one in ranges)


def _problem_part(error: ImagingAiError) -> Part:
    document = {"type": f"urn:imaging-ai:problem:{error.code}", "status": error.http_status, "detail": error.message}
    return Part(MEDIA_TYPE, [msgspec.json.encode(document)])
