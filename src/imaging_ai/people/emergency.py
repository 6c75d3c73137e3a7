"""Emergency access, "break-glass" (45 CFR 164.312(a)(2)(ii)): what an account may not do in normal work, for a while.

Whoever asks gives a reason, which is kept in the audit trail; the log warns, without the reason, which may tell of a
patient. It is for the session that asked, and ends by itself. What it gives is `core.permission.EMERGENCY`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import update

from imaging_ai.audit import record
from imaging_ai.core.permission import EMERGENCY
from imaging_ai.core.principal import Principal
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import SessionRow
from imaging_ai.errors import InputError, WrongState

__all__ = ["Emergencies"]

logger = logging.getLogger(__name__)

_SESSION = SessionRow.metadata.tables["login_session"]
_SHORTEST, _LONGEST = 5, 500


class Emergencies:
    """Gives emergency access, and takes it back."""

    def __init__(self, database: Database, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._database, self._seconds, self._clock = database, seconds, clock

    def begin(self, principal: Principal, reason: str, origin: str = "") -> float:
        """Give emergency access and return until when, in seconds since the epoch.

        Raises
        ------
        InputError
            If there is no reason, or no session of a person.
        WrongState
            If it would give nothing that this one may not do anyway.
        """
        reason = " ".join(reason.split())
        if not _SHORTEST <= len(reason) <= _LONGEST:
            raise InputError(f"emergency access needs a reason, of {_SHORTEST} to {_LONGEST} characters")
        if not principal.session:
            raise InputError("emergency access is for people who logged in, not for tokens of programs")
        if not principal.emergency and all(principal.may(need) for need in EMERGENCY.get(principal.role, ())):
            raise WrongState("emergency access would give nothing more: this account may all of it already")
        until = self._clock() + self._seconds
        detail = f"until {datetime.fromtimestamp(until, UTC).isoformat(timespec='seconds')}: {reason}"
        self._set(principal, until, "begin-emergency-access", origin, detail)
        logger.warning("EMERGENCY ACCESS: %s, session %s, from %s", principal.name, principal.session, origin)
        return until

    def end(self, principal: Principal, origin: str = "") -> None:
        """Take it back before its time."""
        if principal.emergency:
            self._set(principal, None, "end-emergency-access", origin, "")
            logger.warning("emergency access ended: %s, session %s", principal.name, principal.session)

    def _set(self, principal: Principal, until: float | None, action: str, origin: str, detail: str) -> None:
        with self._database.write() as session:
            mine = _SESSION.c.id == principal.session
            session.connection().execute(update(_SESSION).where(mine).values(emergency_until=until))
            record(
                session,
                action,
                object_type="session",
                object_uid=principal.session,
                actor=principal.name,
                origin=origin,
                detail=detail,
            )
