"""Who asks, once that is proved, and the shape of whatever proves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imaging_ai.core.permission import EMERGENCY, Need, Role, may

__all__ = ["Principal", "Verifier"]


@dataclass(frozen=True, slots=True)
class Principal:
    """A person or program that has proved who it is.

    `scopes` are what it was narrowed to, None when it may all that its role may. `session` is the session that a
    person logged in to, "" for tokens of programs. `emergency` is whether emergency access is in force.
    """

    name: str
    role: Role
    scopes: frozenset[Need] | None = None
    session: str = ""
    emergency: bool = False

    def may(self, need: Need) -> bool:
        """Say whether this one may do what needs `need`."""
        if need in ("nothing", "session", "emergency"):
            return may(self.role, need)
        if self.emergency and need in EMERGENCY.get(self.role, ()):
            return True
        return may(self.role, need) and (self.scopes is None or need in self.scopes)


#: Says whose a secret is (a bearer token, a cookie); None when it is not one that it knows, or is no longer good.
#: It raises `UnavailableError` when it cannot tell. Verifiers are asked one after another, and one that knows by its
#: look that a secret is not of its kind says so without asking anything.
Verifier = Callable[[str], Principal | None]
