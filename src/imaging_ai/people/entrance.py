"""The entrance: people and programs of one database, and everything by which they are let in."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imaging_ai.audit import record
from imaging_ai.core.principal import Verifier
from imaging_ai.db.engine import Database
from imaging_ai.errors import OverLimit
from imaging_ai.people.attempts import Attempts
from imaging_ai.people.emergency import Emergencies
from imaging_ai.people.guests import Guests
from imaging_ai.people.invitations import Invitations
from imaging_ai.people.key import ServerKey
from imaging_ai.people.oidc import OpenId
from imaging_ai.people.oidc_provider import Provider
from imaging_ai.people.passwords import LONGEST, Passwords
from imaging_ai.people.sessions import Lifetimes, Sessions
from imaging_ai.people.signing import Signing
from imaging_ai.people.tokens import Tokens
from imaging_ai.people.users import Users

__all__ = ["Entrance"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entrance:
    """Who is known here, and who is in. `also` are verifiers of bearer tokens that are made elsewhere.

    `openid` is the provider of the hospital, where there is one.
    """

    database: Database
    users: Users
    sessions: Sessions
    tokens: Tokens
    attempts: Attempts
    emergencies: Emergencies
    invitations: Invitations
    lifetimes: Lifetimes
    also: tuple[Verifier, ...] = ()
    openid: OpenId | None = None

    @classmethod
    def open(
        cls,
        database: Database,
        key: ServerKey,
        lifetimes: Lifetimes | None = None,
        *,
        passwords: Passwords | None = None,
        also: Sequence[Verifier] = (),
        provider: Provider | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Entrance:
        """Put it together over a database."""
        lifetimes, passwords = lifetimes or Lifetimes(), passwords or Passwords()
        return cls(
            database,
            Users(database, passwords),
            Sessions(database, Signing(key, lifetimes.access), lifetimes, clock),
            Tokens(database),
            Attempts(database, key.derive("login attempts"), clock),
            Emergencies(database, lifetimes.emergency, clock),
            Invitations(database, passwords, clock),
            lifetimes,
            tuple(also),
            OpenId(provider, Guests(database), key.derive("openid login"), clock) if provider else None,
        )

    @property
    def verifiers(self) -> tuple[Verifier, ...]:
        """What bearer tokens are shown to, one after another."""
        provider = (self.openid.principal,) if self.openid else ()
        return (self.tokens.principal, self.sessions.of_access_token, *self.also, *provider)

    def know(self, name: str, password: str, origin: str) -> str | None:
        """Return who this is, as the name is kept; None if name and password do not belong together.

        Raises
        ------
        OverLimit
            If too many attempts failed lately, of this name or from this address; nothing was tried then.
        """
        name = name.casefold()
        attempt = self.attempts.begin(name, origin)
        if attempt.wait:
            raise OverLimit("too many logins failed; wait before the next", attempt.wait)
        if len(password) <= LONGEST and self.users.fits(name, password):
            self.attempts.succeeded(attempt)
            return name
        self._failed(name, origin, attempt.locks)
        return None

    def _failed(self, name: str, origin: str, locks: float) -> None:
        """Record a failure. A name that nobody has is not written: people type passwords where names belong."""
        actor = name if self.users.knows(name) else ""
        with self.database.write() as session:
            record(
                session,
                "login",
                object_type="user",
                object_uid=actor,
                actor=actor,
                origin=origin,
                outcome="refused",
                detail=f"locked for {locks:.0f} s" if locks else "",
            )
        if locks:
            logger.warning("logins failed again (%s, from %s): locked for %.0f s", actor or "unknown", origin, locks)
