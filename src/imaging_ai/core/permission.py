"""Who may do what: roles, and what each of them may. This page is the table (docs/security.md repeats it).

What is refused to a role in normal work it may get in an emergency (45 CFR 164.312(a)(2)(ii), "break-glass"): see
`EMERGENCY`, and `core.principal` for accounts and tokens that may less than their role.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, get_args

__all__ = ["EMERGENCY", "NEEDS", "ROLES", "Need", "Role", "may"]

#: What a request needs. `nothing`: anyone may ask, it tells nothing of patients or people. `session`: whoever has
#: proved who they are. `read`: see patient data and jobs. `store`: bring instances in. `work`: change jobs and work
#: items. `delete`: remove instances. `metrics`: look at the numbers of operation. `audit`: read the audit trail.
#: `users`: look after people, sessions and tokens. `emergency`: ask for emergency access, with a reason.
#: `administrate`: everything that has no other name here.
Need = Literal[
    "nothing", "session", "read", "store", "work", "delete", "metrics", "audit", "users", "emergency", "administrate"
]

NEEDS: tuple[Need, ...] = get_args(Need)


class Role(StrEnum):
    """What a person or program is here."""

    ADMINISTRATOR = "administrator"
    CLINICIAN = "clinician"
    TECHNOLOGIST = "technologist"
    AUDITOR = "auditor"
    SERVICE = "service"


ROLES: dict[Role, frozenset[Need]] = {
    Role.ADMINISTRATOR: frozenset({"read", "store", "work", "delete", "metrics", "audit", "users", "administrate"}),
    Role.CLINICIAN: frozenset({"read", "work", "emergency"}),
    Role.TECHNOLOGIST: frozenset({"read", "store", "work", "emergency"}),
    Role.AUDITOR: frozenset({"metrics", "audit"}),
    Role.SERVICE: frozenset({"read", "store", "work", "metrics"}),
}

#: What emergency access gives, whatever an account was narrowed to. Nobody deletes in an emergency.
EMERGENCY: dict[Role, frozenset[Need]] = {
    Role.CLINICIAN: frozenset({"read", "store", "work"}),
    Role.TECHNOLOGIST: frozenset({"read", "store", "work"}),
}


def may(role: Role, need: Need) -> bool:
    """Say whether a role may do what needs `need`."""
    return need in ("nothing", "session") or need in ROLES[role]
