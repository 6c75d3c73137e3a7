"""DELETE of studies, series and instances. PS3.18 leaves it to archives; others have it at these addresses too.

What was deleted is answered with 410 from then on, until it is stored again; what a legal hold keeps, with 409.
"""

from __future__ import annotations

from typing import Any

from litestar import Request, delete
from litestar.handlers import BaseRouteHandler

from imaging_ai.keeping.removal import LEVELS, Removal
from imaging_ai.serve.access import actor, origin
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.wire import uid

__all__ = ["deletion_handlers"]

AnyRequest = Request[Any, Any, Any]


def deletion_handlers(parts: Parts) -> list[BaseRouteHandler]:
    """Return the handlers of these transactions."""
    opt = {"needs": "delete"}

    @delete("/studies/{study:str}", opt=opt, sync_to_thread=True)
    def delete_study(request: AnyRequest, study: str) -> None:
        """Delete a study."""
        _delete(parts, request, study)

    @delete("/studies/{study:str}/series/{series:str}", opt=opt, sync_to_thread=True)
    def delete_series(request: AnyRequest, study: str, series: str) -> None:
        """Delete a series."""
        _delete(parts, request, study, series)

    @delete("/studies/{study:str}/series/{series:str}/instances/{instance:str}", opt=opt, sync_to_thread=True)
    def delete_instance(request: AnyRequest, study: str, series: str, instance: str) -> None:
        """Delete an instance."""
        _delete(parts, request, study, series, instance)

    return [delete_study, delete_series, delete_instance]


def _delete(parts: Parts, request: AnyRequest, *place: str) -> None:
    uids = [uid(text, level) for level, text in zip(LEVELS, place, strict=False)]
    Removal(parts.archive, parts.ledger).remove(uids, actor=actor(request), origin=origin(request))
