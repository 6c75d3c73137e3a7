"""UPS-RS, the worklist service (PS3.18 11): work items, their states, searches and subscriptions.

Jobs of this server are work items among those that clients make. Every request is answered from the database, so any
web process answers any of them; notifications go out by `events`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from anyio import to_thread
from litestar import Request, Response, delete, get, post, put
from litestar.handlers import BaseRouteHandler
from litestar.types import ExceptionHandlersMap

from imaging_ai.core.identity import new_uid, parse_ae_title
from imaging_ai.core.job import JobState
from imaging_ai.errors import BadParameterError, InputError, NotFound
from imaging_ai.queue import workitem_rules as rules
from imaging_ai.queue.broker import ROUTE, WORKLIST
from imaging_ai.queue.events import GLOBAL
from imaging_ai.queue.subscriptions import FILTERED
from imaging_ai.queue.workitem_elements import Elements, elements, said, tag
from imaging_ai.queue.workitem_feed import Feed
from imaging_ai.queue.workitem_inputs import readiness
from imaging_ai.queue.workitem_match import parse_key
from imaging_ai.queue.workitem_runs import RunRequest, run_request
from imaging_ai.queue.workitem_views import Views, find
from imaging_ai.queue.workitem_watch import Watch
from imaging_ai.queue.workitems import UID_MISSING, Conflict, Who, WorkItems
from imaging_ai.serve.access import actor, origin
from imaging_ai.serve.dicomweb.events import connection_handler
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.ups_notifier import Notifier
from imaging_ai.serve.dicomweb.ups_search import search_handler
from imaging_ai.serve.dicomweb.ups_wire import LARGEST_BODY, bare_parameter, read_body, respond_with
from imaging_ai.serve.dicomweb.wire import base_url, uid, warning
from imaging_ai.serve.problem import Problem, problem

__all__ = ["ups_handlers"]

AnyRequest = Request[Any, Any, Any]
Nothing = Response[bytes]

_STATES = (JobState.IN_PROGRESS, JobState.COMPLETED, JobState.CANCELED)
_WELL_KNOWN = (GLOBAL, FILTERED)
_NOT_FILTERS = frozenset({"deletionlock", "accept", "charset", "filter"})


def ups_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""
    service = _Service(parts)
    notifier = parts.notifier or Notifier(Feed(parts.database, parts.ae_title), greets=False)
    return [
        *_workitem_handlers(service),
        *_state_handlers(service),
        *_subscription_handlers(service),
        search_handler(parts),
        connection_handler(Feed(parts.database, parts.ae_title), notifier),
    ]


class _Service:
    """The parts of a web process that work items need."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.changed: Callable[[], None] = lambda: parts.doorbell.ring(WORKLIST)
        self.items = WorkItems(parts.database, parts.ledger, parts.ae_title, on_change=self.changed)
        self.watch = Watch(parts.database, parts.ae_title, on_change=self.changed)

    def run_of(self, dataset: Elements) -> RunRequest | None:
        """Return the run of one of our models that a work item asks for."""
        return run_request(dataset, self.parts.ae_title, self.parts.catalog.names())

    def with_readiness(self, dataset: Elements, run: RunRequest) -> Elements:
        """Return a work item of ours with Input Readiness State as it is here, whatever its maker thinks."""
        with self.parts.database.read() as session:
            return dataset | elements(InputReadinessState=readiness(session.connection(), run))


def _conflict(_request: AnyRequest, error: Exception) -> Response[Problem]:
    assert isinstance(error, Conflict)
    return problem(error.http_status, error.code, error.message, headers=warning(error.warning))


_CONFLICTS: ExceptionHandlersMap = {Conflict: _conflict}


class _NoTransaction(Conflict):
    """Raised for a change of state that is none in any state (PS3.18 Table 11.7.3-1)."""

    code = "bad-input"
    http_status = 400


def _who(request: AnyRequest) -> Who:
    return Who(actor(request), origin(request))


def _done(text: str = "", *, status: int = 200, headers: dict[str, str] | None = None) -> Nothing:
    return Response(b"", status_code=status, headers={**(headers or {}), **(warning(text) if text else {})})


def _workitem_handlers(service: _Service) -> list[BaseRouteHandler]:
    @post("/workitems", opt={"needs": "work"}, request_max_body_size=LARGEST_BODY)
    async def create_workitem(request: AnyRequest) -> Nothing:
        given = await read_body(request)
        named = bare_parameter(request, "workitem", "AffectedSOPInstanceUID")
        return await to_thread.run_sync(_create, service, request, given, named)

    @get("/workitems/{workitem:str}", sync_to_thread=True, opt={"needs": "read"})
    def retrieve_workitem(request: AnyRequest, workitem: str) -> Response[Any]:
        name = uid(workitem, "workitem")
        with service.parts.database.read() as session:
            connection = session.connection()
            views = Views(connection, service.parts.ae_title, base_url(request))
            dataset = views.dataset(find(connection, name))
        service.parts.accesses.note(request, "read-workitem", "workitem", name)
        return respond_with(request, [dataset])

    @post(
        "/workitems/{workitem:str}",
        opt={"needs": "work"},
        exception_handlers=_CONFLICTS,
        request_max_body_size=LARGEST_BODY,
    )
    async def update_workitem(request: AnyRequest, workitem: str) -> Nothing:
        name = uid(workitem, "workitem")
        given = await read_body(request)
        transaction = bare_parameter(request, "transaction-uid", "transaction", "TransactionUID", "00081195")
        transaction = transaction or said(given, "TransactionUID")
        changes = rules.check_update(given, time.time())
        await to_thread.run_sync(service.items.update, name, changes, transaction, service.run_of, _who(request))
        service.parts.doorbell.ring(ROUTE)
        return _done(headers={"Content-Location": f"{base_url(request)}/workitems/{name}"})

    return [create_workitem, retrieve_workitem, update_workitem]


def _create(service: _Service, request: AnyRequest, given: Elements, named: str) -> Nothing:
    inside = said(given, "AffectedSOPInstanceUID") or said(given, "SOPInstanceUID")
    if named and inside and named != inside:
        raise BadParameterError("workitem", "is another UID than that in the data set")
    name = named or (uid(inside, "SOPInstanceUID") if inside else new_uid())
    if name in _WELL_KNOWN:
        raise BadParameterError("workitem", "is the UID of the worklist itself")
    dataset = rules.check_new(given, time.time())
    run = service.run_of(dataset)
    if run is not None:
        dataset = service.with_readiness(dataset, run)
    service.items.create(name, dataset, run, _who(request))
    if run is not None:
        service.parts.doorbell.ring(ROUTE)
    modified = any(dataset.get(tag(key)) != given.get(tag(key)) for key in ("WorklistLabel", "InputReadinessState"))
    place = f"{base_url(request)}/workitems/{name}"
    text = "The Workitem was created with modifications." if modified else ""
    return _done(text, status=201, headers={"Location": place, "Content-Location": place})


def _state_handlers(service: _Service) -> list[BaseRouteHandler]:
    @put(
        "/workitems/{workitem:str}/state",
        opt={"needs": "work"},
        exception_handlers=_CONFLICTS,
        request_max_body_size=LARGEST_BODY,
    )
    async def change_workitem_state(request: AnyRequest, workitem: str) -> Nothing:
        name = uid(workitem, "workitem")
        given = await read_body(request)
        state = said(given, "ProcedureStepState")
        if state not in _STATES:
            raise InputError(f"ProcedureStepState: must be one of {', '.join(_STATES)}")
        transaction = said(given, "TransactionUID")
        if transaction:
            uid(transaction, "TransactionUID")
        else:
            await to_thread.run_sync(_must_exist, service, name)
            raise _NoTransaction("the change of state needs a Transaction UID (0008,1195)", UID_MISSING)
        text = await to_thread.run_sync(service.items.change_state, name, JobState(state), transaction, _who(request))
        return _done(text)

    @post(
        "/workitems/{workitem:str}/cancelrequest",
        opt={"needs": "work"},
        exception_handlers=_CONFLICTS,
        request_max_body_size=LARGEST_BODY,
    )
    async def request_cancellation(request: AnyRequest, workitem: str) -> Nothing:
        name = uid(workitem, "workitem")
        given = await read_body(request, needed=False)
        text = await to_thread.run_sync(service.items.request_cancel, name, given, _who(request))
        return _done(text, status=202)

    return [change_workitem_state, request_cancellation]


def _must_exist(service: _Service, name: str) -> None:
    with service.parts.database.read() as session:
        find(session.connection(), name)


def _subscription_handlers(service: _Service) -> list[BaseRouteHandler]:
    path = "/workitems/{workitem:str}/subscribers/{ae_title:str}"

    @post(path, sync_to_thread=True, opt={"needs": "work"})
    def subscribe(request: AnyRequest, workitem: str, ae_title: str) -> Nothing:
        name, title = uid(workitem, "workitem"), parse_ae_title(ae_title)
        pairs = _filter_of(request) if name == FILTERED else []
        service.watch.subscribe(name, title, lock=_deletion_lock(request), pairs=pairs)
        place = f"{base_url(request)}/ws/subscribers/{ae_title}".replace("http", "ws", 1)
        return _done(status=201, headers={"Content-Location": place})

    @delete(path, sync_to_thread=True, status_code=200, opt={"needs": "work"})
    def unsubscribe(workitem: str, ae_title: str) -> Nothing:
        service.watch.unsubscribe(uid(workitem, "workitem"), parse_ae_title(ae_title))
        return _done()

    @post(f"{path}/suspend", sync_to_thread=True, opt={"needs": "work"})
    def suspend_subscription(workitem: str, ae_title: str) -> Nothing:
        name, title = uid(workitem, "workitem"), parse_ae_title(ae_title)
        if name not in _WELL_KNOWN:
            raise NotFound("only a subscription to the worklist can be suspended")
        service.watch.suspend(name, title)
        return _done()

    return [subscribe, unsubscribe, suspend_subscription]


def _deletion_lock(request: AnyRequest) -> bool:
    value = request.query_params.get("deletionlock", "false").lower()
    if value not in ("true", "false"):
        raise BadParameterError("deletionlock", "must be true or false")
    return value == "true"


def _filter_of(request: AnyRequest) -> list[tuple[str, str]]:
    """Return the matching keys of a filtered subscription: as parameters, or in one named `filter`."""
    pairs = [(name, value) for name, value in request.query_params.multi_items() if name not in _NOT_FILTERS]
    for text in request.query_params.getall("filter", []):
        for piece in text.split(","):
            name, _, value = piece.partition("=")
            pairs.append((name.strip(), value.strip()))
    if not pairs:
        raise BadParameterError("filter", "is missing: a filtered subscription needs matching keys")
    for name, value in pairs:
        if parse_key(name, value) is None:
            raise BadParameterError(name[:64], "is no attribute of PS3.6")
    return pairs
