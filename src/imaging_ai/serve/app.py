"""The HTTP application, put together from its parts."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from anyio import CapacityLimiter
from litestar import Litestar, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from imaging_ai import __version__
from imaging_ai.audit.context import Source
from imaging_ai.core.addresses import IPNetwork
from imaging_ai.db.engine import Database
from imaging_ai.keeping.holds import Holds
from imaging_ai.people.entrance import Entrance
from imaging_ai.queue.ledger import Ledger
from imaging_ai.serve.ahead import answer_ahead
from imaging_ai.serve.audit import audit_router, fhir_router
from imaging_ai.serve.auth import Doorkeeper
from imaging_ai.serve.bodies import CarefulRequest
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.router import dicomweb_router
from imaging_ai.serve.guards import LOOPBACK, door, host_check, refuse_unknown_parameters
from imaging_ai.serve.health import Check, health_router
from imaging_ai.serve.holds import holds_router
from imaging_ai.serve.jobs import jobs_router
from imaging_ai.serve.login import login_router
from imaging_ai.serve.login_desk import LoginDesk, way_to_login
from imaging_ai.serve.login_pages import login_pages
from imaging_ai.serve.monitoring import metrics_handler
from imaging_ai.serve.people import people_router
from imaging_ai.serve.problem import respond
from imaging_ai.serve.proxies import behind
from imaging_ai.serve.rates import Rates, limited
from imaging_ai.serve.sockets import refused_as_http
from imaging_ai.serve.studies import studies_router
from imaging_ai.serve.unbroken import unbroken
from imaging_ai.serve.viewer import PATH, viewer_router

__all__ = ["make_app"]

_PASSWORDS_AT_ONCE = 1 if (os.cpu_count() or 1) < 4 else 2  # by one process: each takes a core, and 64 MiB


def make_app(
    database: Database,
    ledger: Ledger,
    *,
    checks: Mapping[str, Check] | None = None,
    hosts: Collection[str] = LOOPBACK,
    entrance: Entrance | None = None,
    origins: Sequence[str] = (),
    dicomweb: Parts | None = None,
    viewer: Path | None = None,
    public_url: str = "",
    rates: Rates | None = None,
    proxies: Collection[IPNetwork] = (),
) -> Litestar:
    """Make the application.

    `checks` are tried for readiness, after the database itself. Who wants anything else comes in by the `entrance`;
    without one everybody is answered whose requests are for one of `hosts`. `viewer` is the folder of its installation,
    and `public_url` the address of this server as clients see it, where a proxy changes it. `proxies` are believed
    when they say who asks them.
    """
    doorkeeper = entrance and Doorkeeper(entrance.verifiers, entrance.sessions.of_cookie, public_url)
    check = doorkeeper.check if doorkeeper else host_check(frozenset(hosts), origins)
    doors, few = [door(check)], CapacityLimiter(_PASSWORDS_AT_ONCE)
    api = Router(
        "/api",
        route_handlers=[
            jobs_router(database, ledger),
            studies_router(database),
            holds_router(Holds(database)),
            audit_router(database),
            *([login_router(entrance, few), people_router(entrance, few)] if entrance else []),
        ],
        middleware=doors,
        guards=[refuse_unknown_parameters],
        response_headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )
    routers: list[Router] = [] if dicomweb is None else [dicomweb_router(dicomweb, doors)]
    if dicomweb is not None:
        routers.append(fhir_router(database, Source(dicomweb.ae_title, socket.gethostname()), doors))
    if viewer is not None:
        login = "/login/oidc" if entrance and entrance.openid else "/login"
        routers.append(viewer_router(viewer, [way_to_login(doorkeeper, login)] if doorkeeper else doors))
    if entrance and doorkeeper:
        routers.append(login_pages(LoginDesk(entrance, doorkeeper, few, PATH if viewer else "")))
    app = Litestar(
        route_handlers=[
            health_router({"database": database.ping, **(checks or {})}),
            metrics_handler(database, doors if entrance else ()),
            api,
            *routers,
        ],
        on_startup=[dicomweb.notifier.start] if dicomweb and dicomweb.notifier else [],
        on_shutdown=[*([dicomweb.notifier.stop] if dicomweb and dicomweb.notifier else []), *_closed(dicomweb)],
        middleware=[unbroken, refused_as_http],
        request_class=CarefulRequest,
        cors_config=_cors(origins) if origins else None,
        state=State({"public_url": public_url}),
        exception_handlers={Exception: respond},
        openapi_config=OpenAPIConfig(
            title="imaging-ai",
            version=__version__,
            render_plugins=[JsonRenderPlugin(path="/")],
            openapi_router=Router("/schema", route_handlers=[], middleware=doors, opt={"needs": "session"}),
        ),
        logging_config=None,
    )
    answer_ahead(app, check)
    if rates is not None:
        app.asgi_handler = limited(app.asgi_handler, rates)
    if proxies:
        app.asgi_handler = behind(app.asgi_handler, proxies)
    return app


def _closed(dicomweb: Parts | None) -> list[Callable[[], None]]:
    """What ends with the process: reads are in the audit then, and recovery has nothing to do for what was stored."""
    if dicomweb is None:
        return []
    refusals = [dicomweb.refusals.close] if dicomweb.refusals else []
    return [dicomweb.accesses.flush, *refusals, dicomweb.archive.close]


def _cors(origins: Sequence[str]) -> CORSConfig:
    """Let pages of other origins ask (a viewer elsewhere), and read the headers that PS3.18 answers with."""
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"],
        allow_headers=["Accept", "Authorization", "Content-Type", "If-None-Match", "Range"],
        expose_headers=["Content-Location", "Content-Range", "ETag", "Location", "Warning", "X-Total-Count"],
        max_age=3_600,
    )
