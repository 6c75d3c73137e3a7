"""Who may come in."""

from __future__ import annotations

from sqlmodel import Field, SQLModel

from imaging_ai.db.tables.columns import key_column, time_column

__all__ = ["TokenRow"]


class TokenRow(SQLModel, table=True):
    """A bearer token: whose it is and what it may. The secret itself is nowhere, only its digest."""

    __tablename__ = "token"
    id: int | None = key_column()
    name: str = Field(unique=True, max_length=100)
    digest: str = Field(unique=True, max_length=64)
    role: str
    created_at: float | None = time_column()
    expires_at: float | None = time_column(nullable=True)
    revoked_at: float | None = time_column(nullable=True)
