"""QIDO-RS (PS3.18 10.6): searching for patients, studies, series and instances.

The resources of table 10.6.1-1, and `/patients` in their manner. Matches come as DICOM JSON or, one part each, as XML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import BaseRouteHandler
from litestar.response import Stream

from imaging_ai.archive.query import BASE, Page, Query, Search
from imaging_ai.archive.query_attributes import Level
from imaging_ai.serve.dicomweb import wire
from imaging_ai.serve.dicomweb.media import DICOM_JSON, DICOM_XML, JSON, MULTIPART_XML, choose
from imaging_ai.serve.dicomweb.native import to_xml
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.qido_request import query_of

__all__ = ["qido_handlers"]

AnyRequest = Request[Any, Any, Any]

_OFFERS = (DICOM_JSON, JSON, MULTIPART_XML)
_NEEDS = {"needs": "read"}
_AUDITED = {
    Level.PATIENT: ("search-patients", "patient"),
    Level.STUDY: ("search-studies", "study"),
    Level.SERIES: ("search-series", "series"),
    Level.INSTANCE: ("search-instances", "instance"),
}
_STUDIES, _SERIES, _INSTANCES = frozenset({Level.STUDY}), frozenset({Level.SERIES}), frozenset({Level.INSTANCE})


def qido_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""
    search = Search(parts.database, parts.describer, examined=parts.limits.examined)

    def answer(
        request: AnyRequest, level: Level, levels: frozenset[Level], within: Mapping[str, str]
    ) -> Response[bytes] | Stream:
        media_type = choose(request, _OFFERS)
        for keyword, text in within.items():
            wire.uid(text, keyword)
        query = query_of(request.query_params.multi_items(), level, within, levels, parts.limits.results)
        page = search.run(query)
        parts.accesses.note(
            request, *_AUDITED[level], within.get("SeriesInstanceUID", within.get("StudyInstanceUID", ""))
        )
        headers = _headers(query, page)
        base = wire.base_url(request).encode()
        if media_type == MULTIPART_XML:
            return wire.multipart(_xml(page, base), DICOM_XML, headers=headers)
        body = b"[%b]" % b",".join(page.matches).replace(BASE, base)
        return wire.answer(request, body, media_type, headers=headers)

    @get("/patients", sync_to_thread=True, opt=_NEEDS)
    def search_for_patients(request: AnyRequest) -> Response[bytes] | Stream:
        return answer(request, Level.PATIENT, frozenset({Level.PATIENT}), {})

    @get("/studies", sync_to_thread=True, opt=_NEEDS)
    def search_for_studies(request: AnyRequest) -> Response[bytes] | Stream:
        return answer(request, Level.STUDY, _STUDIES, {})

    @get("/series", sync_to_thread=True, opt=_NEEDS)
    def search_for_series(request: AnyRequest) -> Response[bytes] | Stream:
        return answer(request, Level.SERIES, _STUDIES | _SERIES, {})

    @get("/instances", sync_to_thread=True, opt=_NEEDS)
    def search_for_instances(request: AnyRequest) -> Response[bytes] | Stream:
        return answer(request, Level.INSTANCE, _STUDIES | _SERIES | _INSTANCES, {})

    @get("/studies/{study:str}/series", sync_to_thread=True, opt=_NEEDS)
    def search_for_series_of_study(request: AnyRequest, study: str) -> Response[bytes] | Stream:
        return answer(request, Level.SERIES, _SERIES, {"StudyInstanceUID": study})

    @get("/studies/{study:str}/instances", sync_to_thread=True, opt=_NEEDS)
    def search_for_instances_of_study(request: AnyRequest, study: str) -> Response[bytes] | Stream:
        return answer(request, Level.INSTANCE, _SERIES | _INSTANCES, {"StudyInstanceUID": study})

    @get("/studies/{study:str}/series/{series:str}/instances", sync_to_thread=True, opt=_NEEDS)
    def search_for_instances_of_series(request: AnyRequest, study: str, series: str) -> Response[bytes] | Stream:
        return answer(request, Level.INSTANCE, _INSTANCES, {"StudyInstanceUID": study, "SeriesInstanceUID": series})

    return [
        search_for_patients,
        search_for_studies,
        search_for_series,
        search_for_instances,
        search_for_series_of_study,
        search_for_instances_of_study,
        search_for_instances_of_series,
    ]


def _headers(query: Query, page: Page) -> dict[str, str]:
    """Say what a body cannot: how many more matches there are, and which keys did not count (PS3.18 8.3.4.4)."""
    told = []
    if page.remaining:
        number = f"more than {page.remaining}" if page.more_remain else f"{page.remaining}"
        told.append(f"There are {number} additional results that can be requested")
    if page.ignored:
        names = ", ".join(page.ignored)
        told.append(f"These keys are not of the level of the search and were not matched: {names}")
    headers = wire.warning(". ".join(told)) if told else {}
    return headers if page.total is None else {**headers, "X-Total-Count": str(page.total)}


def _xml(page: Page, base: bytes) -> Iterator[wire.Part]:
    for match in page.matches:
        elements = msgspec.json.decode(match.replace(BASE, base))
        yield wire.Part(DICOM_XML, (to_xml(elements),))
