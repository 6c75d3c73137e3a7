"""Guests: people whom the OpenID provider of the hospital vouches for.

Who somebody is there is the issuer and the subject, and nothing else: names may be changed and given anew (OpenID
Connect Core 5.7). Here they go under a name that is nobody else's, since the audit trail knows people by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, func, select, update

from imaging_ai.audit import record
from imaging_ai.core.permission import Role
from imaging_ai.core.principal import Principal
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import PersonRow, TokenRow
from imaging_ai.errors import InputError, NotAllowed
from imaging_ai.people.scopes import read_scopes
from imaging_ai.people.users import insert_person, known_name

__all__ = ["Guest", "Guests"]

_PERSON, _TOKEN = PersonRow.metadata.tables["person"], TokenRow.metadata.tables["token"]


@dataclass(frozen=True, slots=True)
class Guest:
    """Who somebody is to the provider, under which name they would go here, and as what."""

    subject: str
    name: str
    role: Role

    @classmethod
    def of(cls, claims: Mapping[str, Any], role: Role) -> Guest:
        """Read the claims of a token that is believed."""
        subject = f"{claims['iss']} {claims['sub']}"
        return cls(subject, _name(claims, subject), role)


class Guests:
    """The guests that are known to one database. A guest gets a row with the first login, and keeps its name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def principal(self, guest: Guest) -> Principal | None:
        """Return who shows a token of the provider; None for one who was disabled, or whose name is somebody else's."""
        with self._database.read() as session:
            connection = session.connection()
            row = connection.execute(select(_PERSON).where(_PERSON.c.subject == guest.subject)).one_or_none()
            if row is None:
                return None if _is_taken(connection, guest.name) else Principal(guest.name, guest.role)
        return None if row.disabled_at is not None else Principal(row.name, guest.role, read_scopes(row.scopes))

    def come_in(self, guest: Guest, origin: str) -> str:
        """Return the name of a guest who logs in, and let the role be what the provider says now.

        Raises
        ------
        NotAllowed
            If this one was disabled, or the name is somebody else's.
        InputError
            If the same one was just let in for the first time by another request.
        """
        with self._database.write() as session:
            connection = session.connection()
            row = connection.execute(select(_PERSON).where(_PERSON.c.subject == guest.subject)).one_or_none()
            if row is None:
                if _is_taken(connection, guest.name):
                    raise NotAllowed("somebody else has this name here; an administrator can tell")
                insert_person(session, guest.name, guest.role, "", None, actor=guest.name, origin=origin)
                mine = update(_PERSON).where(_PERSON.c.name == guest.name)
                connection.execute(mine.values(subject=guest.subject))
                return guest.name
            if row.disabled_at is not None:
                raise NotAllowed("this account is disabled here")
            if row.role != guest.role.value:
                mine = update(_PERSON).where(_PERSON.c.id == row.id)
                connection.execute(mine.values(role=guest.role.value))
                told = {"object_type": "user", "object_uid": row.name, "actor": row.name, "origin": origin}
                record(session, "change-role", **told, detail=f"{guest.role.value}, says the OpenID provider")
        return str(row.name)

    def refused(self, origin: str) -> None:
        """Record that somebody whom the provider knows has no role here."""
        with self._database.write() as session:
            told = "the OpenID provider gives no role"
            record(session, "login", object_type="user", object_uid="", origin=origin, outcome="refused", detail=told)


def _is_taken(connection: Connection, name: str) -> bool:
    tables = (_PERSON, _TOKEN)
    return any(connection.scalar(select(func.count()).where(func.lower(one.c.name) == name)) for one in tables)


def _name(claims: Mapping[str, Any], subject: str) -> str:
    """Return the name that the provider has for somebody, where it is one that people may have here."""
    for said in (claims.get("preferred_username"), claims["sub"]):
        try:
            return known_name(str(said or ""))
        except InputError:
            continue
    return f"oidc-{sha256(subject.encode()).hexdigest()[:16]}"
