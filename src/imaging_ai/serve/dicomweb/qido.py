"""QIDO-RS (PS3.18 10.6): searching for patients, studies, series and instances.

The resources of table 10.6.1-1, and `/patients` in their manner. Matches come as DICOM JSON or, one part each, as XML.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Request, get
from litestar.concurrency import sync_to_thread
from litestar.handlers import BaseRouteHandler
from litestar.response import Stream
from litestar.types import ASGIApp

from imaging_ai.archive.query import BASE, Page, Prepared, Search
from imaging_ai.archive.query_attributes import Level
from imaging_ai.serve.dicomweb.media import DICOM_JSON, DICOM_XML, JSON, MULTIPART_XML, choose
from imaging_ai.serve.dicomweb.native import to_xml
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.qido_request import query_of
from imaging_ai.serve.dicomweb.wire import Part, Whole, base_url, multipart, sent_as, uid, warning, whole
from imaging_ai.serve.eager import the_loop

__all__ = ["qido_handlers"]

AnyRequest = Request[Any, Any, Any]

_OFFERS = (DICOM_JSON, JSON, MULTIPART_XML)
_REMEMBERED = 256  # work lists ask for the same again and again
#: Names with their values.
_Pairs = tuple[tuple[str, str], ...]
_AUDITED = {
    Level.PATIENT: ("search-patients", "patient"),
    Level.STUDY: ("search-studies", "study"),
    Level.SERIES: ("search-series", "series"),
    Level.INSTANCE: ("search-instances", "instance"),
}


def qido_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""
    search = Search(parts.database, parts.describer, examined=parts.limits.examined)

    def found(request: AnyRequest, prepared: Prepared, media_type: str) -> Whole | Stream:
        page = search.answer(prepared)
        base = base_url(request).encode()
        if media_type == MULTIPART_XML:
            return multipart(_xml(page, base), DICOM_XML, headers=_headers(page))
        body = b"[%b]" % b",".join(page.matches).replace(BASE, base)
        return whole(request, body, media_type, _headers(page))

    def handler(path: str, level: Level, *levels: Level) -> BaseRouteHandler:
        """Make the handler that searches for matches of a level, which tell the attributes of `levels`."""

        @lru_cache(maxsize=_REMEMBERED)
        def prepared_for(asked: bytes, within: _Pairs) -> Prepared:
            parameters = parse_qsl(asked.decode("latin-1"), keep_blank_values=True)
            return search.prepare(query_of(parameters, level, dict(within), frozenset(levels), parts.limits.results))

        async def answered(request: AnyRequest, **place: str) -> ASGIApp:
            media_type = choose(request, _OFFERS)
            within = tuple([(f"{name.title()}InstanceUID", uid(text, name)) for name, text in place.items()])
            prepared = prepared_for(request.scope["query_string"], within)
            parts.accesses.note(request, *_AUDITED[level], within[-1][1] if within else "")
            if search.is_prompt(prepared):
                return sent_as(request, found(request, prepared, media_type))
            await the_loop()
            return sent_as(request, await sync_to_thread(found, request, prepared, media_type))

        async def at_once(request: AnyRequest, **place: str) -> ASGIApp | None:
            if choose(request, _OFFERS) == MULTIPART_XML:
                return None
            return await answered(request, **place)

        @get(path, opt={"needs": "read", "at_once": at_once})
        async def search_here(request: AnyRequest) -> ASGIApp:
            return await answered(request, **request.path_params)

        return search_here

    patient, study, series, instance = Level
    return [
        handler("/patients", patient, patient),
        handler("/studies", study, study),
        handler("/series", series, study, series),
        handler("/instances", instance, study, series, instance),
        handler("/studies/{study:str}/series", series, series),
        handler("/studies/{study:str}/instances", instance, series, instance),
        handler("/studies/{study:str}/series/{series:str}/instances", instance, instance),
    ]


def _headers(page: Page) -> dict[str, str]:
    """Say what a body cannot: how many more matches there are, and which keys did not count (PS3.18 8.3.4.4)."""
    told = []
    if page.remaining:
        number = f"more than {page.remaining}" if page.more_remain else f"{page.remaining}"
        told.append(f"There are {number} additional results that can be requested")
    if page.ignored:
        names = ", ".join(page.ignored)
        told.append(f"These keys are not of the level of the search and were not matched: {names}")
    headers = warning(". ".join(told)) if told else {}
    return headers if page.total is None else {**headers, "X-Total-Count": str(page.total)}


def _xml(page: Page, base: bytes) -> Iterator[Part]:
    for match in page.matches:
        elements = msgspec.json.decode(match.replace(BASE, base))
        yield Part(DICOM_XML, (to_xml(elements),))
