"""Service tokens: a random secret for a program, shown once, and of which only the digest is kept.

A token is 256 random bits (RFC 6750 bearer), so one SHA-256 of it is enough: there is nothing to guess.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from imaging_ai.audit import record
from imaging_ai.core.permission import Need, Role
from imaging_ai.core.principal import Principal
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import PersonRow, TokenRow
from imaging_ai.errors import InputError, NotFound
from imaging_ai.people.scopes import read_scopes, write_scopes

__all__ = ["TokenEntry", "Tokens"]

_PERSON, _TOKEN = PersonRow.metadata.tables["person"], TokenRow.metadata.tables["token"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_PREFIX = "iai_"  # so that secret scanners know one that was left somewhere
_LONGEST = 64


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """What may be shown of a token."""

    name: str
    role: Role
    scopes: frozenset[Need] | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None


class Tokens:
    """The tokens that are known to one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, name: str, role: Role, *, scopes: Collection[str] = (), days: float | None = None, actor: str = ""
    ) -> str:
        """Make a token for `name` and return its secret, which cannot be had again.

        With `scopes` it may no more than these.

        Raises
        ------
        InputError
            If there is a token of this name, or a scope is none that the role may.
        """
        if not _NAME.fullmatch(name):
            raise InputError("a token's name is made of up to 64 letters, digits, and . _ @ -")
        secret, now = _PREFIX + secrets.token_urlsafe(32), time.time()
        written = write_scopes(role, scopes)
        values = {
            "name": name,
            "digest": _digest(secret),
            "role": role.value,
            "scopes": written,
            "created_at": now,
            "expires_at": None if days is None else now + days * 86_400,
            "revoked_at": None,
        }
        detail = role.value if written is None else f"{role.value}: {written}"
        try:
            with self._database.write() as session:
                if session.connection().scalar(select(func.count()).where(_PERSON.c.name == name.casefold())):
                    raise InputError(f"there is a user {name!r}, and the audit trail could not tell them apart")
                session.connection().execute(insert(_TOKEN).values(values))
                record(session, "create-token", object_type="token", object_uid=name, actor=actor, detail=detail)
        except IntegrityError:
            raise InputError(f"there is a token {name!r} already; choose another name") from None
        return secret

    def revoke(self, name: str, *, actor: str = "") -> None:
        """End a token. Raises `NotFound`."""
        with self._database.write() as session:
            done = session.connection().execute(
                update(_TOKEN)
                .where(_TOKEN.c.name == name, _TOKEN.c.revoked_at.is_(None))
                .values(revoked_at=time.time())
            )
            if not done.rowcount:
                raise NotFound(f"there is no token {name!r} that could be revoked")
            record(session, "revoke-token", object_type="token", object_uid=name, actor=actor)

    def entries(self) -> Sequence[TokenEntry]:
        """Return all tokens, without secrets."""
        with self._database.read() as session:
            rows = session.connection().execute(select(_TOKEN).order_by(_TOKEN.c.name)).all()
        return [
            TokenEntry(
                row.name, Role(row.role), read_scopes(row.scopes), row.created_at, row.expires_at, row.revoked_at
            )
            for row in rows
        ]

    def principal(self, secret: str) -> Principal | None:
        """Return whose token this is; None for one that is unknown, expired or revoked (a `Verifier`)."""
        if not secret.startswith(_PREFIX) or len(secret) > _LONGEST:
            return None
        query = select(_TOKEN).where(_TOKEN.c.digest == _digest(secret), _TOKEN.c.revoked_at.is_(None))
        with self._database.read() as session:
            row = session.connection().execute(query).one_or_none()
        if row is None or (row.expires_at is not None and row.expires_at <= time.time()):
            return None
        return Principal(row.name, Role(row.role), read_scopes(row.scopes))


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
