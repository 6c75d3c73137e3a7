"""Searching for work items (PS3.18 11.9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import BaseRouteHandler

from imaging_ai.errors import BadParameterError
from imaging_ai.queue.workitem_elements import Elements, tag
from imaging_ai.queue.workitem_match import Key, attribute_path, parse_key
from imaging_ai.queue.workitem_search import search
from imaging_ai.queue.workitem_views import Views
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.ups_wire import respond_with
from imaging_ai.serve.dicomweb.wire import base_url

__all__ = ["search_handler"]

AnyRequest = Request[Any, Any, Any]

_CONTROLS = frozenset({"limit", "offset", "includefield", "fuzzymatching", "accept", "charset"})
_MOST_KEYS = 64
_USUAL_LIMIT = 100
#: Returned only when they are asked for: they list every instance (PS3.4 Table CC.2.5-3 requires neither in full).
_ON_REQUEST = (tag("InputInformationSequence"), tag("UnifiedProcedureStepPerformedProcedureSequence"))
_NOT_FUZZY = "The fuzzymatching parameter is not supported. Only literal matching has been performed."


def search_handler(parts: Parts) -> BaseRouteHandler:
    """Return the handler of searches."""

    @get("/workitems", sync_to_thread=True, opt={"needs": "read"})
    def search_for_workitems(request: AnyRequest) -> Response[Any]:
        keys = _keys(request)
        limit = min(_count(request, "limit", _USUAL_LIMIT), parts.limits.results)
        offset = _count(request, "offset", 0)
        wanted = {key.path[0] for key in keys} | _included(request)
        lists = "all" in wanted or not wanted.isdisjoint(_ON_REQUEST)
        with parts.database.read() as session:
            connection = session.connection()
            page = search(
                connection,
                Views(connection, parts.ae_title, base_url(request)),
                keys,
                limit=limit,
                offset=offset,
                lists=lists,
                examined=parts.limits.examined,
            )
        parts.accesses.note(request, "search-workitems", "workitem", count=len(page.found))
        datasets = [_returned(dataset, wanted) for dataset in page.found]
        return respond_with(request, datasets, _warnings(request, page.remaining))

    return search_for_workitems


def _keys(request: AnyRequest) -> list[Key]:
    """Return the matching keys; attributes that nobody knows are ignored (PS3.18 8.3.1)."""
    given = [(name, value) for name, value in request.query_params.multi_items() if name not in _CONTROLS]
    if len(given) > _MOST_KEYS:
        raise BadParameterError(given[_MOST_KEYS][0][:64], f"is one matching key too many: {_MOST_KEYS} are taken")
    return [key for name, value in given if (key := parse_key(name, value)) is not None]


def _included(request: AnyRequest) -> set[str]:
    names = [name for text in request.query_params.getall("includefield", []) for name in text.split(",")]
    if "all" in names:
        return {"all"}
    paths = (attribute_path(name.strip()) for name in names[:1_000])
    return {path[0] for path in paths if path is not None}


def _count(request: AnyRequest, name: str, usual: int) -> int:
    given = request.query_params.get(name)
    if given is None:
        return usual
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise BadParameterError(name, "must be a number, 0 or more")
    return int(given)


def _returned(dataset: Elements, wanted: Sequence[str] | set[str]) -> Elements:
    if "all" in wanted:
        return dataset
    return {key: value for key, value in dataset.items() if key not in _ON_REQUEST or key in wanted}


def _warnings(request: AnyRequest, remaining: int) -> dict[str, str]:
    texts = []
    if remaining:
        texts.append(f"There are {remaining} additional results that can be requested")
    if request.query_params.get("fuzzymatching", "").lower() == "true":
        texts.append(_NOT_FUZZY)
    return {"Warning": ", ".join(f'299 imaging-ai "{text}"' for text in texts)} if texts else {}
