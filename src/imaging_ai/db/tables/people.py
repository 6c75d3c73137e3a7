"""Who may come in: people and their sessions, the tokens of programs, and what keeps guessers out.

No secret is in here: of passwords there is the Argon2id encoding, of tokens, cookies and links the SHA-256.
"""

from __future__ import annotations

from sqlalchemy import Column, Integer
from sqlmodel import Field, SQLModel

from imaging_ai.db.tables.columns import key_column, time_column

__all__ = ["AttemptRow", "InvitationRow", "PersonRow", "SessionRow", "TokenRow"]


class PersonRow(SQLModel, table=True):
    """A person. `password` is "" for one who comes in another way; `scopes` (words) narrow what the role may.

    `subject` is who this is to the OpenID provider: issuer and subject, with a space between.
    """

    __tablename__ = "person"
    id: int | None = key_column()
    name: str = Field(unique=True, max_length=64)
    subject: str | None = Field(default=None, unique=True)
    password: str = ""
    role: str
    scopes: str | None = None
    created_at: float | None = time_column()
    password_at: float | None = time_column(nullable=True)
    disabled_at: float | None = time_column(nullable=True)


class SessionRow(SQLModel, table=True):
    """From a login to its end. `refresh_number` counts refresh tokens: only the newest is good, and only once."""

    __tablename__ = "login_session"
    id: str = Field(primary_key=True, max_length=32)
    person_id: int = Field(foreign_key="person.id", index=True)
    cookie_digest: str | None = Field(default=None, unique=True, max_length=64)
    refresh_number: int = 0
    origin: str = Field(default="", max_length=64)
    created_at: float | None = time_column()
    seen_at: float | None = time_column()
    expires_at: float | None = time_column(index=True)
    ended_at: float | None = time_column(nullable=True)
    emergency_until: float | None = time_column(nullable=True)


class AttemptRow(SQLModel, table=True):
    """Logins that failed, by name and by address. Both are hashed into so many buckets, so the table cannot grow."""

    __tablename__ = "login_attempt"
    bucket: int = Field(sa_column=Column(Integer(), primary_key=True, autoincrement=False))
    failures: int = 0
    last_at: float | None = time_column()
    locked_until: float | None = time_column()


class InvitationRow(SQLModel, table=True):
    """A link to make the first administrator with, good once and for a while."""

    __tablename__ = "invitation"
    digest: str = Field(primary_key=True, max_length=64)
    expires_at: float | None = time_column()


class TokenRow(SQLModel, table=True):
    """A bearer token: whose it is and what it may. The secret itself is nowhere, only its digest."""

    __tablename__ = "token"
    id: int | None = key_column()
    name: str = Field(unique=True, max_length=100)
    digest: str = Field(unique=True, max_length=64)
    role: str
    scopes: str | None = None
    created_at: float | None = time_column()
    expires_at: float | None = time_column(nullable=True)
    revoked_at: float | None = time_column(nullable=True)
