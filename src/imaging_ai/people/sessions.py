"""Sessions: what a login gives, and how it ends.

A program gets an access token of some minutes and a refresh token that is good once and gives the next pair. A refresh
token that comes a second time was stolen, or its successor was: the session ends for both (RFC 9700 4.14.2). A browser
gets a cookie instead. Whichever it is, it says only which session it belongs to: the session is looked up, so that one
that ended, or whose person was disabled, is over at once. A session ends on logout, after a time without use
(automatic logoff, 45 CFR 164.312(a)(2)(iii)), and after a day's work whatever happens.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select, update
from sqlmodel import Session

from imaging_ai.audit import record
from imaging_ai.core.permission import Role
from imaging_ai.core.principal import Principal
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import PersonRow, SessionRow
from imaging_ai.errors import NotFound
from imaging_ai.people.scopes import read_scopes
from imaging_ai.people.signing import Signing

__all__ = ["Lifetimes", "Pair", "SessionEntry", "Sessions", "end_sessions_of"]

logger = logging.getLogger(__name__)

_PERSON, _SESSION = PersonRow.metadata.tables["person"], SessionRow.metadata.tables["login_session"]
_COOKIE = "ias_"
_MOST = 20  # of one person: the oldest make way
_TOUCHED_EVERY = 30.0


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long things are good, in seconds."""

    access: float = 300.0
    idle: float = 900.0
    session: float = 12 * 3600.0
    emergency: float = 3600.0


@dataclass(frozen=True, slots=True)
class Pair:
    """What a program gets: an access token, for how many seconds, and the refresh token for the next pair."""

    access: str
    seconds: int
    refresh: str


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """What may be shown of a session."""

    id: str
    name: str
    browser: bool
    origin: str
    created_at: float
    seen_at: float
    expires_at: float


class Sessions:
    """The sessions that are known to one database."""

    def __init__(
        self, database: Database, signing: Signing, lifetimes: Lifetimes, clock: Callable[[], float] = time.time
    ) -> None:
        self._database, self._signing, self._lifetimes, self._clock = database, signing, lifetimes, clock

    def begin(self, name: str, origin: str = "", *, how: str = "password") -> Pair:
        """Begin the session of a program that speaks for a person. Raises `NotFound` for one who may not come in."""
        return self._pair(self._insert(name, origin, None, how), name, 0)

    def begin_in_browser(self, name: str, origin: str = "", *, how: str = "password") -> str:
        """Begin the session of a person in a browser, and return its cookie. Raises `NotFound`."""
        cookie = _COOKIE + secrets.token_urlsafe(32)
        self._insert(name, origin, _digest(cookie), how)
        return cookie

    def refresh(self, token: str, origin: str = "") -> Pair | None:
        """Return the next pair for a refresh token; None if it is not good (any more)."""
        told = self._signing.read_refresh(token)
        if told is None:
            return None
        sid, number = told
        with self._database.write() as session:
            connection, now = session.connection(), self._clock()
            row = connection.execute(self._live(now).where(_SESSION.c.id == sid).with_for_update()).one_or_none()
            if row is None:
                return None
            if row.refresh_number == number:
                following = {"refresh_number": number + 1, "seen_at": now}
                connection.execute(update(_SESSION).where(_SESSION.c.id == sid).values(following))
                return self._pair(sid, row.name, number + 1)
            self._reused(session, row, origin)
        return None

    def end(self, principal: Principal, origin: str = "") -> None:
        """End the session that someone is in (logout)."""
        with self._database.write() as session:
            if _end(session.connection(), _SESSION.c.id == principal.session):
                _record(session, "logout", principal.name, principal.session, origin)

    def end_one(self, sid: str, *, actor: str = "") -> None:
        """End somebody's session. Raises `NotFound`."""
        with self._database.write() as session:
            if not _end(session.connection(), _SESSION.c.id == sid):
                raise NotFound("there is no such session that could be ended")
            _record(session, "end-session", actor, sid, "")

    def entries(self, name: str = "") -> Sequence[SessionEntry]:
        """Return the sessions that go on, of one person or of all; the last used first."""
        query = self._live(self._clock()).order_by(_SESSION.c.seen_at.desc())
        if name:
            query = query.where(_PERSON.c.name == name.casefold())
        with self._database.read() as session:
            rows = session.connection().execute(query).all()
        return [
            SessionEntry(
                row.id, row.name, row.cookie_digest is not None, row.origin, row.created_at, row.seen_at, row.expires_at
            )
            for row in rows
        ]

    def of_access_token(self, secret: str) -> Principal | None:
        """Return who has this access token; None if it is not good (a `Verifier`)."""
        sid = self._signing.session_of_access(secret)
        return None if sid is None else self._principal(_SESSION.c.id == sid)

    def of_cookie(self, secret: str) -> Principal | None:
        """Return who has this cookie; None if it is not good (a `Verifier`)."""
        if not secret.startswith(_COOKIE) or len(secret) > 64:
            return None
        return self._principal(_SESSION.c.cookie_digest == _digest(secret))

    def _principal(self, which: Any) -> Principal | None:
        now = self._clock()
        with self._database.read() as session:
            row = session.connection().execute(self._live(now).where(which)).one_or_none()
        if row is None:
            return None
        if now - row.seen_at > min(_TOUCHED_EVERY, self._lifetimes.idle / 10):
            with self._database.write() as session:
                session.connection().execute(update(_SESSION).where(_SESSION.c.id == row.id).values(seen_at=now))
        in_emergency = row.emergency_until is not None and row.emergency_until > now
        return Principal(row.name, Role(row.role), read_scopes(row.scopes), row.id, in_emergency)

    def _live(self, now: float) -> Select[Any]:
        """Select sessions that go on, of people who may come in."""
        return (
            select(_SESSION, _PERSON.c.name, _PERSON.c.role, _PERSON.c.scopes)
            .join(_PERSON, _PERSON.c.id == _SESSION.c.person_id)
            .where(
                _SESSION.c.ended_at.is_(None),
                _SESSION.c.expires_at > now,
                _SESSION.c.seen_at > now - self._lifetimes.idle,
                _PERSON.c.disabled_at.is_(None),
            )
        )

    def _insert(self, name: str, origin: str, cookie_digest: str | None, how: str) -> str:
        sid, now = secrets.token_hex(16), self._clock()
        with self._database.write() as session:
            connection = session.connection()
            known = select(_PERSON.c.id).where(_PERSON.c.name == name, _PERSON.c.disabled_at.is_(None))
            person = connection.scalar(known.with_for_update())
            if person is None:
                raise NotFound(f"there is no user {name!r} who may come in")
            _make_room(connection, person)
            values = {
                "id": sid,
                "person_id": person,
                "cookie_digest": cookie_digest,
                "refresh_number": 0,
                "origin": origin[:64],
                "created_at": now,
                "seen_at": now,
                "expires_at": now + self._lifetimes.session,
            }
            connection.execute(insert(_SESSION).values(values))
            _record(session, "login", name, sid, origin, detail=how)
        return sid

    def _pair(self, sid: str, name: str, number: int) -> Pair:
        signing = self._signing
        return Pair(signing.access(sid, name), int(signing.access_seconds), signing.refresh(sid, number))

    def _reused(self, session: Session, row: Row[Any], origin: str) -> None:
        _end(session.connection(), _SESSION.c.id == row.id)
        record(
            session,
            "reuse-refresh-token",
            object_type="session",
            object_uid=row.id,
            actor=row.name,
            origin=origin,
            outcome="refused",
            detail="a refresh token came a second time: the session was ended",
        )
        logger.warning("a refresh token of session %s came a second time, from %s: session ended", row.id, origin)


def end_sessions_of(connection: Connection, person: int) -> None:
    """End every session of a person, within the caller's transaction."""
    _end(connection, _SESSION.c.person_id == person)


def _end(connection: Connection, which: Any) -> bool:
    ended = update(_SESSION).where(which, _SESSION.c.ended_at.is_(None)).values(ended_at=time.time())
    return bool(connection.execute(ended).rowcount)


def _make_room(connection: Connection, person: int) -> None:
    """Remove all but the newest sessions of a person, so that logging in for ever fills nothing."""
    mine = select(_SESSION.c.id).where(_SESSION.c.person_id == person)
    kept = list(connection.scalars(mine.order_by(_SESSION.c.created_at.desc()).limit(_MOST - 1)))
    connection.execute(delete(_SESSION).where(_SESSION.c.person_id == person, _SESSION.c.id.not_in(kept)))


def _record(session: Session, action: str, actor: str, sid: str, origin: str, detail: str = "") -> None:
    record(session, action, object_type="session", object_uid=sid, actor=actor, origin=origin, detail=detail)


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
