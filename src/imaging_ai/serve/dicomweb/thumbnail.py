"""WADO-RS thumbnails (PS3.18 10.4.1.1.4): one small image for a study, series, instance or frame, without patient data.

A study or series shows the middle instance of its first series of images; what has no image shows its modality.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import BaseRouteHandler

from imaging_ai import __version__
from imaging_ai.core.instance import StoredInstance
from imaging_ai.errors import NotAcceptable
from imaging_ai.render.wish import Viewport, Wish
from imaging_ai.serve.dicomweb.media import choose
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.rendered_offers import IMAGES
from imaging_ai.serve.dicomweb.rendered_place import Place, paths
from imaging_ai.serve.dicomweb.rendered_query import thumbnail_wish
from imaging_ai.serve.dicomweb.rendered_work import Rendering
from imaging_ai.serve.dicomweb.wire import answer, etag_of, not_modified

__all__ = ["thumbnail_handlers"]

AnyRequest = Request[Any, Any, Any]

_SIZE = 128
_MOST_SERIES = 16
_STORAGE = "1.2.840.10008.5.1.4.1.1."
#: Segmentations, presentation states, reports, waveforms, documents, radiotherapy: images of a study come before them.
_SECOND = tuple(_STORAGE + branch for branch in ("66", "11.", "88.", "9.", "104.", "481.", "30", "68.", "67"))


def thumbnail_handlers(parts: Parts, rendering: Rendering) -> list[BaseRouteHandler]:
    """Return the handlers of thumbnails."""

    @get(paths("thumbnail"), opt={"needs": "read"}, name="retrieve-thumbnail")
    async def retrieve_thumbnail(request: AnyRequest) -> Response[bytes]:
        return await rendering.run(lambda: _retrieve(parts, rendering, request))

    return [retrieve_thumbnail]


def _retrieve(parts: Parts, rendering: Rendering, request: AnyRequest) -> Response[bytes]:
    place, wish = Place.of(request.path_params), thumbnail_wish(request)
    media_type = choose(request, IMAGES)
    candidates = list(_candidates(place.stored(rendering.retriever)))
    wish = replace(wish, viewport=wish.viewport or Viewport(_SIZE, _SIZE))
    pieces = [str(piece) for one in candidates for piece in (one.blob.key, one.blob.offset, one.blob.length)]
    etag = etag_of(__version__, *pieces, media_type, repr(wish), str(place.frames))
    body = b"" if not_modified(request, etag) else _image(rendering, candidates, place, media_type, wish)
    parts.accesses.note(request, "read-thumbnail", place.level, place.object_uid)
    return answer(request, body, media_type, etag=etag)


def _candidates(stored: Sequence[StoredInstance]) -> Iterator[StoredInstance]:
    """Give the middle instance of each series, those of images first."""
    by_series = groupby(stored, lambda one: one.series_instance_uid)
    middles = [held[len(held) // 2] for held in (list(group) for _, group in by_series)]
    return islice(sorted(middles, key=lambda one: one.sop_class_uid.startswith(_SECOND)), _MOST_SERIES)


def _image(
    rendering: Rendering, candidates: Sequence[StoredInstance], place: Place, media_type: str, wish: Wish
) -> bytes:
    for stored in candidates:
        source = rendering.open(stored)
        if place.frames:
            place.check_frames(source)
        if not source.frame_count:
            continue
        number = place.frames[0] if place.frames else source.representative_frame(source.frame_count // 2 + 1)
        try:
            return rendering.image(stored, source, number, media_type, wish)
        except NotAcceptable:
            if place.frames:
                raise
    return rendering.tile(rendering.open(candidates[0]), media_type, wish)
