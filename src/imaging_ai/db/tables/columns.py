"""Columns that many tables have."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Double, Integer
from sqlmodel import Field

__all__ = ["key_column", "time_column"]


def key_column() -> Any:
    """Return a key that the database counts up."""
    return Field(
        default=None,
        sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    )


def time_column(*, nullable: bool = False, index: bool = False) -> Any:
    """Return a moment: seconds since the epoch, UTC, as double precision."""
    return Field(default=None, sa_column=Column(Double(), nullable=nullable, index=index))
