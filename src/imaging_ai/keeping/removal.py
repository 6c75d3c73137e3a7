"""Removing a study, a series or an instance: the one way that deletes, whoever asks.

Jobs are stopped first: one that is just completing has registered its results when they are looked for. They are
looked at again at the end, for those that were made meanwhile. It is one transaction, with the audit event in it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from sqlmodel import Session

from imaging_ai.archive.archive import Archive
from imaging_ai.archive.deletion import delete_instances, lock_series
from imaging_ai.archive.shelf import shelved_in
from imaging_ai.audit import record
from imaging_ai.errors import DatabaseUnavailable
from imaging_ai.keeping.holds import require_no_hold
from imaging_ai.queue.ledger import Ledger

__all__ = ["LEVELS", "Removal"]

_log = logging.getLogger(__name__)

LEVELS = ("study", "series", "instance")
#: PostgreSQL may end one of two transactions that wait for each other.
_ATTEMPTS = 3


class Removal:
    """Removes what an archive holds, with the jobs and deliveries that depend on it."""

    def __init__(self, archive: Archive, ledger: Ledger) -> None:
        self._archive, self._ledger = archive, ledger

    def remove(
        self,
        place: Sequence[str],
        *,
        action: str = "delete-instances",
        actor: str = "",
        origin: str = "",
        detail: str = "",
        require: Callable[[Session], None] = lambda _session: None,
    ) -> int:
        """Remove what is at a place (study, or study and series, or those and an instance); return how many instances.

        `require` is asked when nobody can add to it any more: what it raises leaves everything as it was.

        Raises
        ------
        NotFound
            If there is nothing; `Gone` if it was removed before; `OnHold` if the study is under a legal hold.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._archive.database.write() as session:
                    count = self._remove_in(session, place, actor, require)
                    record(
                        session,
                        action,
                        object_type=LEVELS[len(place) - 1],
                        object_uid=place[-1],
                        actor=actor,
                        origin=origin,
                        detail=f"{count} instances{detail and f', {detail}'}",
                    )
                break
            except DatabaseUnavailable:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(0.1 * attempt)
        _log.info("%s %s removed: %d instances", LEVELS[len(place) - 1], place[-1], count)
        self._archive.remove_deleted()
        return count

    def _remove_in(self, session: Session, place: Sequence[str], actor: str, require: Callable[[Session], None]) -> int:
        study = place[0]
        before = [one.sop_instance_uid for one in shelved_in(session, *place)]
        self._ledger.withdraw(session, study, before, actor=actor)
        lock_series(session, *place[:2])
        require_no_hold(session, study)
        require(session)
        gone = [one.sop_instance_uid for one in shelved_in(session, *place)]
        self._ledger.withdraw(session, study, gone, actor=actor)
        return delete_instances(session, gone)
