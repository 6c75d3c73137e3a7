"""`/dicom-web`, put together from its transactions."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Router
from litestar.types import Guard

from imaging_ai.serve.dicomweb.capabilities import capabilities_handlers
from imaging_ai.serve.dicomweb.deletion import deletion_handlers
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.qido import qido_handlers
from imaging_ai.serve.dicomweb.rendered import rendered_handlers
from imaging_ai.serve.dicomweb.stow import stow_handlers
from imaging_ai.serve.dicomweb.ups import ups_handlers
from imaging_ai.serve.dicomweb.uri import uri_handlers
from imaging_ai.serve.dicomweb.wado import wado_handlers

__all__ = ["dicomweb_router"]


def dicomweb_router(parts: Parts, guards: Sequence[Guard] = ()) -> Router:
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
        guards=list(guards),
        response_headers={"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"},
        include_in_schema=False,
    )
