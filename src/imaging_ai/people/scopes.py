"""To what an account or a token is narrowed: checked when it is given, kept as words."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from imaging_ai.core.permission import ROLES, Need, Role
from imaging_ai.errors import InputError

__all__ = ["read_scopes", "write_scopes"]


def write_scopes(role: Role, scopes: Collection[str]) -> str | None:
    """Return scopes as they are kept: words in order, or None where there are none and the role decides alone.

    Raises
    ------
    InputError
        If one is nothing that the role may.
    """
    if unknown := sorted(set(scopes) - ROLES[role]):
        raise InputError(f"the role {role} has no {', '.join(unknown)}; it has {', '.join(sorted(ROLES[role]))}")
    return " ".join(sorted(scopes)) if scopes else None


def read_scopes(written: str | None) -> frozenset[Need] | None:
    """Return scopes from what is kept."""
    return None if written is None else frozenset(cast(Need, word) for word in written.split())
