"""`/dicom-web`, put together from its transactions."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Router

from imaging_ai.serve.dicomweb.capabilities import capabilities_handlers
from imaging_ai.serve.dicomweb.deletion import deletion_handlers
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.qido import qido_handlers
from imaging_ai.serve.dicomweb.rendered import rendered_handlers
from imaging_ai.serve.dicomweb.stow import stow_handlers
from imaging_ai.serve.dicomweb.ups import ups_handlers
from imaging_ai.serve.dicomweb.uri import uri_handlers
from imaging_ai.serve.dicomweb.wado import wado_handlers
from imaging_ai.serve.dicomweb.wire import ALWAYS
from imaging_ai.serve.guards import Door

__all__ = ["dicomweb_router"]


def dicomweb_router(parts: Parts, doors: Sequence[Door] = ()) -> Router:
    """Make the router of everything under `/dicom-web`. Unknown query parameters are ignored here (PS3.18 8.3.1)."""
    handlers = [
        *stow_handlers(parts),
        *qido_handlers(parts),
        *wado_handlers(parts),
        *rendered_handlers(parts),
        *uri_handlers(parts),
        *ups_handlers(parts),
        *deletion_handlers(parts),
    ]
    return Router(
        "/dicom-web",
        route_handlers=[*capabilities_handlers(handlers), *handlers],
        middleware=list(doors),
        response_headers=ALWAYS,
        include_in_schema=False,
    )
