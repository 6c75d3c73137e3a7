"""Who may do what: roles, and what each of them may. This page is the table (docs/operations.md repeats it)."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

__all__ = ["ROLES", "Need", "Role", "may"]

#: What a request needs: `read` patient data, `store` instances, `work` on jobs and work items, `delete`, look at the
#: `metrics`, or `administrate` everything else. `nothing` is for descriptions without patient data.
Need = Literal["nothing", "read", "store", "work", "delete", "metrics", "administrate"]


class Role(StrEnum):
    """What a person or program is here."""

    ADMINISTRATOR = "administrator"
    CLINICIAN = "clinician"
    TECHNOLOGIST = "technologist"
    AUDITOR = "auditor"
    SERVICE = "service"


ROLES: dict[Role, frozenset[Need]] = {
    Role.ADMINISTRATOR: frozenset({"read", "store", "work", "delete", "metrics", "administrate"}),
    Role.CLINICIAN: frozenset({"read", "work"}),
    Role.TECHNOLOGIST: frozenset({"read", "store", "work"}),
    Role.AUDITOR: frozenset({"metrics"}),
    Role.SERVICE: frozenset({"read", "store", "work", "metrics"}),
}


def may(role: Role, need: Need) -> bool:
    """Say whether a role may do what needs `need`."""
    return need == "nothing" or need in ROLES[role]
