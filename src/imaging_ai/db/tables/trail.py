"""The audit trail."""

from __future__ import annotations

from sqlalchemy import Column, Text
from sqlmodel import Field, SQLModel

from imaging_ai.db.tables.columns import key_column, time_column

__all__ = ["AuditEventRow"]


class AuditEventRow(SQLModel, table=True):
    """Who did what to which object, from where, and how it went. UIDs and codes only."""

    __tablename__ = "audit_event"
    id: int | None = key_column()
    at: float | None = time_column(index=True)
    action: str = Field(index=True)
    outcome: str = "success"  # success | refused | failure
    actor: str = ""
    origin: str = ""
    object_type: str = ""
    object_uid: str = Field(default="", index=True)
    detail: str = Field(default="", sa_column=Column(Text(), nullable=False))
