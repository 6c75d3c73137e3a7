"""What must be kept whatever else is said."""

from __future__ import annotations

from sqlalchemy import Column, Index, Text, text
from sqlmodel import Field, SQLModel

from imaging_ai.db.tables.columns import key_column, time_column

__all__ = ["HoldRow"]


class HoldRow(SQLModel, table=True):
    """A legal hold on a study: while it is not lifted, nothing of the study is deleted. Rows stay when it is lifted."""

    __tablename__ = "hold"
    __table_args__ = (
        Index(
            "hold_in_force",
            "study_instance_uid",
            unique=True,
            sqlite_where=text("lifted_at IS NULL"),
            postgresql_where=text("lifted_at IS NULL"),
        ),
    )
    id: int | None = key_column()
    study_instance_uid: str = Field(max_length=64)
    reason: str = Field(sa_column=Column(Text(), nullable=False))
    placed_by: str = ""
    placed_at: float | None = time_column()
    lifted_by: str = ""
    lifted_at: float | None = time_column(nullable=True)
