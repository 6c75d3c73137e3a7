"""WADO-RS (PS3.18 10.4): retrieving instances, frames, metadata and bulk data.

A study, a series and an instance answer the same four questions; what is asked for decides which module answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from litestar import Response, get
from litestar.concurrency import sync_to_thread
from litestar.handlers import BaseRouteHandler
from litestar.response import Stream
from litestar.types import ASGIApp

from imaging_ai.archive.retrieve import Listed, Retriever
from imaging_ai.errors import NotAcceptable, NotDicom
from imaging_ai.serve.dicomweb.media import AnyRequest
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.wado_bulk import answer_bulk, answer_value
from imaging_ai.serve.dicomweb.wado_frames import answer_at_once, answer_frames, frame_numbers
from imaging_ai.serve.dicomweb.wado_instances import answer_instances
from imaging_ai.serve.dicomweb.wado_metadata import MetadataAnswers
from imaging_ai.serve.dicomweb.wire import sent_as, uid

__all__ = ["wado_handlers"]

Answer = Response[Any] | Stream
Answering = Callable[[AnyRequest, tuple[Listed, ...]], Answer]

_READS = {"needs": "read"}
_STUDY = "/studies/{study:str}"
_SERIES = _STUDY + "/series/{series:str}"
_INSTANCE = _SERIES + "/instances/{instance:str}"


def wado_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""
    retriever = Retriever(parts.database, parts.archive.store, parts.describer)
    reader = _Reader(parts, retriever)
    metadata = MetadataAnswers(retriever)
    handlers = [reader.frames(), reader.value()]
    for place in (_STUDY, _SERIES, _INSTANCE):
        instances = partial(answer_instances, retriever, single=place == _INSTANCE)
        handlers.append(reader.handler(place, "read-instances", instances))
        handlers.append(reader.handler(f"{place}/metadata", "read-metadata", metadata.answer))
        for name, pixels_only in (("bulkdata", False), ("pixeldata", True)):
            bulk = partial(answer_bulk, retriever, pixels_only=pixels_only)
            handlers.append(reader.handler(f"{place}/{name}", "read-bulkdata", bulk))
    return handlers


class _Reader:
    """Makes the handlers: places are looked up, and every read is noted in the audit."""

    def __init__(self, parts: Parts, retriever: Retriever) -> None:
        self._parts, self._retriever = parts, retriever

    def handler(self, path: str, action: str, answering: Answering) -> BaseRouteHandler:
        """Make the handler that answers for all instances at a place."""

        @get(path, sync_to_thread=True, opt=_READS)
        def retrieve(request: AnyRequest) -> Answer:
            found = self._retriever.listed(**{name: uid(text, name) for name, text in request.path_params.items()})
            return self._noted(request, action, found, lambda: answering(request, found))

        return retrieve

    def frames(self) -> BaseRouteHandler:
        """Make the handler of frames.

        Most frames are in memory, and are there sooner than a thread would wake.
        """

        async def at_once(request: AnyRequest, study: str, series: str, instance: str, frames: str) -> ASGIApp | None:
            there = self._retriever.at_once(study, series, instance)
            answer = there and answer_at_once(request, *there, frames)
            if answer:
                self._parts.accesses.note(request, "read-frames", "series", series)
            return answer

        @get(f"{_INSTANCE}/frames/{{frames:str}}", opt={**_READS, "at_once": at_once})
        async def retrieve_frames(request: AnyRequest, study: str, series: str, instance: str, frames: str) -> ASGIApp:
            if answer := await at_once(request, study, series, instance, frames):
                return answer
            numbers = frame_numbers(frames)
            place = uid(study, "study"), uid(series, "series"), uid(instance, "instance")
            return sent_as(request, await sync_to_thread(self._frames, request, place, numbers))

        return retrieve_frames

    def _frames(self, request: AnyRequest, place: tuple[str, str, str], numbers: Sequence[int]) -> Answer:
        one = self._retriever.one(*place)
        answering = partial(answer_frames, self._retriever, request, one, numbers)
        return self._noted(request, "read-frames", (one,), answering)

    def value(self) -> BaseRouteHandler:
        """Make the handler of a single bulk value."""

        @get(f"{_INSTANCE}/bulkdata/{{path:path}}", sync_to_thread=True, opt=_READS)
        def retrieve_value(request: AnyRequest, study: str, series: str, instance: str, path: str) -> Answer:
            one = self._one(study, series, instance)
            answering = partial(answer_value, self._retriever, request, one, str(path).strip("/"))
            return self._noted(request, "read-bulkdata", (one,), answering)

        return retrieve_value

    def _one(self, study: str, series: str, instance: str) -> Listed:
        return self._retriever.one(uid(study, "study"), uid(series, "series"), uid(instance, "instance"))

    def _noted(
        self, request: AnyRequest, action: str, found: Sequence[Listed], answering: Callable[[], Answer]
    ) -> Answer:
        """Answer, and note the read of each series in the audit."""
        try:
            answer = answering()
        except NotDicom as error:  # it is what is stored that cannot be understood, not the request
            raise NotAcceptable(f"it can be given only as it is stored: {error.message}") from error
        for (_, series), count in Counter([one.series for one in found]).items():
            self._parts.accesses.note(request, action, "series", series, count)
        return answer
