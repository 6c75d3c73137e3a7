"""People: their names, roles and passwords. They are disabled rather than deleted: the audit names them for ever."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from imaging_ai.audit import record
from imaging_ai.core.permission import Need, Role
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import PersonRow, TokenRow
from imaging_ai.errors import InputError, NotFound
from imaging_ai.people.passwords import Passwords, require_good_password
from imaging_ai.people.scopes import read_scopes, write_scopes
from imaging_ai.people.sessions import end_sessions_of

__all__ = ["Person", "Users", "known_name"]

_PERSON, _TOKEN = PersonRow.metadata.tables["person"], TokenRow.metadata.tables["token"]
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Person:
    """What may be shown of a person. `has_password` is false for one who comes in another way."""

    name: str
    role: Role
    scopes: frozenset[Need] | None
    has_password: bool
    created_at: float
    disabled_at: float | None


class Users:
    """The people that are known to one database."""

    def __init__(self, database: Database, passwords: Passwords | None = None) -> None:
        self._database, self._passwords = database, passwords or Passwords()

    def add(
        self, name: str, role: Role, password: str | None, *, scopes: Collection[str] = (), actor: str = ""
    ) -> Person:
        """Add a person; without a password it is one who comes in another way (OpenID Connect).

        With `scopes` this one may no more than these, unless in an emergency.

        Raises
        ------
        InputError
            If the name or the password cannot be taken, or there is a person of this name.
        """
        kept = ""
        name = known_name(name)
        if password is not None:
            require_good_password(password, name)
            kept = self._passwords.keep(password)
        with self._database.write() as session:
            insert_person(session, name, role, kept, write_scopes(role, scopes), actor=actor)
        return self.get(name)

    def get(self, name: str) -> Person:
        """Return a person. Raises `NotFound`."""
        found = [one for one in self.entries() if one.name == name.casefold()]
        if not found:
            raise NotFound(f"there is no user {name!r}; `imaging-ai users list` shows them")
        return found[0]

    def entries(self) -> Sequence[Person]:
        """Return all people, by name."""
        with self._database.read() as session:
            rows = session.connection().execute(select(_PERSON).order_by(_PERSON.c.name)).all()
        return [
            Person(
                row.name, Role(row.role), read_scopes(row.scopes), bool(row.password), row.created_at, row.disabled_at
            )
            for row in rows
        ]

    def knows(self, name: str) -> bool:
        """Say whether there is a person of this name."""
        with self._database.read() as session:
            return bool(session.connection().scalar(select(func.count()).where(_PERSON.c.name == name.casefold())))

    def disable(self, name: str, *, actor: str = "") -> None:
        """Let a person in no more, and end the sessions. Raises `NotFound`."""
        self._change(name, "disable-user", actor, ends=True, disabled_at=time.time())

    def enable(self, name: str, *, actor: str = "") -> None:
        """Let a person in again. Raises `NotFound`."""
        self._change(name, "enable-user", actor, disabled_at=None)

    def set_password(self, name: str, password: str, *, actor: str = "") -> None:
        """Give a person another password, and end the sessions. Raises `InputError`, `NotFound`."""
        require_good_password(password, name)
        kept = self._passwords.keep(password)
        self._change(name, "change-password", actor, ends=True, password=kept, password_at=time.time())

    def set_role(self, name: str, role: Role, *, scopes: Collection[str] = (), actor: str = "") -> None:
        """Let a person do from now on what another role may, or other scopes of it. Raises `InputError`, `NotFound`."""
        written = write_scopes(role, scopes)
        self._change(name, "change-role", actor, detail=_told(role, written), role=role.value, scopes=written)

    def fits(self, name: str, password: str) -> bool:
        """Say whether this is the password of a person who may come in; it takes as long for one who does not exist."""
        with self._database.read() as session:
            row = session.connection().execute(select(_PERSON).where(_PERSON.c.name == name.casefold())).one_or_none()
        kept = row.password if row is not None and row.disabled_at is None else ""
        if not self._passwords.fits(password, kept):
            return False
        if self._passwords.aged(kept):
            with self._database.write() as session:
                again = update(_PERSON).where(_PERSON.c.name == name.casefold(), _PERSON.c.password == kept)
                session.connection().execute(again.values(password=self._passwords.keep(password)))
        return True

    def _change(
        self, name: str, action: str, actor: str, *, ends: bool = False, detail: str = "", **values: object
    ) -> None:
        with self._database.write() as session:
            connection = session.connection()
            known = select(_PERSON.c.id).where(_PERSON.c.name == name.casefold())
            person = connection.scalar(known)
            if person is None:
                raise NotFound(f"there is no user {name!r}; `imaging-ai users list` shows them")
            connection.execute(update(_PERSON).where(_PERSON.c.id == person).values(**values))
            if ends:
                end_sessions_of(connection, person)
            record(session, action, object_type="user", object_uid=name.casefold(), actor=actor, detail=detail)


def insert_person(
    session: Session, name: str, role: Role, kept: str, scopes: str | None, *, actor: str = "", origin: str = ""
) -> None:
    """Add a person within the caller's transaction. Raises `InputError` when there is one of this name."""
    if session.connection().scalar(select(func.count()).where(func.lower(_TOKEN.c.name) == name)):
        raise InputError(f"there is a token {name!r} already, and the audit trail could not tell them apart")
    now = time.time()
    values = {"name": name, "password": kept, "role": role.value, "scopes": scopes, "created_at": now}
    try:
        session.connection().execute(insert(_PERSON).values(**values, password_at=now if kept else None))
    except IntegrityError:
        raise InputError(f"there is a user {name!r} already; choose another name") from None
    told = _told(role, scopes)
    record(session, "add-user", object_type="user", object_uid=name, actor=actor, origin=origin, detail=told)


def _told(role: Role, scopes: str | None) -> str:
    return role.value if scopes is None else f"{role.value}: {scopes}"


def known_name(name: str) -> str:
    """Return the name as it is kept, in lower case. Raises `InputError`."""
    if not _NAME.fullmatch(name.casefold()):
        raise InputError("a user's name is made of up to 64 letters, digits, and . _ @ -")
    return name.casefold()
