"""The way in of the first person: a link that is shown once, at the start of a server that knows nobody.

Whoever follows it makes the first administrator. It is good for an hour and for one, and only while there is nobody.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from hashlib import sha256

from sqlalchemy import delete, func, insert, select

from imaging_ai.core.permission import Role
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import InvitationRow, PersonRow, TokenRow
from imaging_ai.people.passwords import Passwords, require_good_password
from imaging_ai.people.users import insert_person, known_name

__all__ = ["Invitations"]

_INVITATION = InvitationRow.metadata.tables["invitation"]
_PERSON, _TOKEN = PersonRow.metadata.tables["person"], TokenRow.metadata.tables["token"]
_SECONDS = 3600.0


class Invitations:
    """Links to make the first administrator with."""

    def __init__(self, database: Database, passwords: Passwords, clock: Callable[[], float] = time.time) -> None:
        self._database, self._passwords, self._clock = database, passwords, clock

    def first(self) -> str | None:
        """Return the secret of a new link; None where somebody or some program is known already."""
        secret, now = secrets.token_urlsafe(32), self._clock()
        with self._database.write() as session:
            connection = session.connection()
            live = _TOKEN.c.revoked_at.is_(None) & (_TOKEN.c.expires_at.is_(None) | (_TOKEN.c.expires_at > now))
            known = connection.scalar(select(func.count()).select_from(_PERSON))
            if known or connection.scalar(select(func.count()).where(live)):
                return None
            connection.execute(delete(_INVITATION).where(_INVITATION.c.expires_at <= now))
            connection.execute(insert(_INVITATION).values(digest=_digest(secret), expires_at=now + _SECONDS))
        return secret

    def good(self, secret: str) -> bool:
        """Say whether a link can be used."""
        query = select(func.count()).where(
            _INVITATION.c.digest == _digest(secret), _INVITATION.c.expires_at > self._clock()
        )
        with self._database.read() as session:
            return bool(session.connection().scalar(query))

    def accept(self, secret: str, name: str, password: str, origin: str = "") -> str | None:
        """Make the first administrator and return the name as it is kept; None if the link is not good (any more).

        Every link is used up with it. Raises `InputError` when name or password cannot be taken; the link stays good.
        """
        if not self.good(secret):
            return None
        name = known_name(name)
        require_good_password(password, name)
        kept = self._passwords.keep(password)
        with self._database.write() as session:
            connection = session.connection()
            good = select(_INVITATION.c.digest).where(_INVITATION.c.expires_at > self._clock())
            if _digest(secret) not in connection.scalars(good.order_by(_INVITATION.c.digest).with_for_update()).all():
                return None
            connection.execute(delete(_INVITATION))
            if connection.scalar(select(func.count()).select_from(_PERSON)):
                return None
            insert_person(session, name, Role.ADMINISTRATOR, kept, None, actor=name, origin=origin)
        return name


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
