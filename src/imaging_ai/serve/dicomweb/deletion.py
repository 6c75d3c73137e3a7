"""DELETE of studies, series and instances. PS3.18 leaves it to archives; others have it at these addresses too.

What was deleted is answered with 410 from then on, until it is stored again.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from litestar import Request, delete
from litestar.handlers import BaseRouteHandler
from sqlmodel import Session

from imaging_ai import audit
from imaging_ai.archive.deletion import delete_instances, lock_series
from imaging_ai.archive.shelf import shelved_in
from imaging_ai.errors import DatabaseUnavailable
from imaging_ai.serve.access import actor, origin
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.wire import uid

__all__ = ["deletion_handlers"]

_log = logging.getLogger(__name__)
_LEVELS = ("study", "series", "instance")
#: PostgreSQL may end one of two transactions that wait for each other.
_ATTEMPTS = 3

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
    uids = [uid(text, level) for level, text in zip(_LEVELS, place, strict=False)]
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with parts.database.write() as session:
                count = _delete_in(parts, session, uids, actor(request), origin(request))
            break
        except DatabaseUnavailable:
            if attempt == _ATTEMPTS:
                raise
            time.sleep(0.1 * attempt)
    _log.info("%s %s deleted: %d instances", _LEVELS[len(uids) - 1], uids[-1], count)
    parts.archive.remove_deleted()


def _delete_in(parts: Parts, session: Session, place: list[str], who: str, where: str) -> int:
    """Delete what is at a place, in one transaction with what depended on it.

    Jobs are stopped first: one that is just completing has registered its results when they are looked for. They are
    looked at again at the end, for those that were made meanwhile.
    """
    study = place[0]
    parts.ledger.withdraw(session, study, [one.sop_instance_uid for one in shelved_in(session, *place)], actor=who)
    lock_series(session, *place[:2])
    gone = [one.sop_instance_uid for one in shelved_in(session, *place)]
    parts.ledger.withdraw(session, study, gone, actor=who)
    count = delete_instances(session, gone)
    audit.record(
        session,
        "delete-instances",
        object_type=_LEVELS[len(place) - 1],
        object_uid=place[-1],
        actor=who,
        origin=where,
        detail=f"{count} instances",
    )
    return count
