"""The audit trail, what was taken out of it, and how far it was sent."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Text
from sqlmodel import Field, SQLModel

from imaging_ai.db.tables.columns import time_column

__all__ = ["AuditCheckpointRow", "AuditEventRow", "AuditFeedRow"]


def _number_column() -> Column[int]:
    """Return a key that we count ourselves."""
    return Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False)


class AuditEventRow(SQLModel, table=True):
    """Who did what to which object, from where, and how it went. UIDs and codes only.

    `id` counts without gaps; `hash` seals the row to the one before with the key `key_id` (`audit.event`). Triggers
    refuse to change or remove a row (migration 0008).
    """

    __tablename__ = "audit_event"
    id: int | None = Field(default=None, sa_column=_number_column())
    at: float | None = time_column(index=True)
    action: str = Field(index=True)
    outcome: str = "success"  # success | refused | failure
    actor: str = Field(default="", index=True)
    origin: str = ""
    object_type: str = ""
    object_uid: str = Field(default="", index=True)
    detail: str = Field(default="", sa_column=Column(Text(), nullable=False))
    key_id: str = Field(max_length=16)
    hash: str = Field(max_length=64)


class AuditCheckpointRow(SQLModel, table=True):
    """The last event of a segment that was taken out of the trail: what is left is verified from here on."""

    __tablename__ = "audit_checkpoint"
    id: int | None = Field(default=None, sa_column=_number_column())
    hash: str = Field(max_length=64)
    key_id: str = Field(max_length=16)
    seal: str = Field(max_length=64)


class AuditFeedRow(SQLModel, table=True):
    """How far the trail was sent to a receiver (`audit.verify.feed_seal`), and which process sends it until when."""

    __tablename__ = "audit_feed"
    name: str = Field(primary_key=True)
    sent: int = Field(sa_column=Column(BigInteger(), nullable=False))
    owner: str = ""
    lease_until: float | None = time_column()
    seal: str = Field(default="", max_length=64, sa_column_kwargs={"server_default": ""})
