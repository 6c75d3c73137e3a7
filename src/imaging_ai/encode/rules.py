"""How a check says no."""

from __future__ import annotations

from imaging_ai.errors import ResultInvalid

__all__ = ["invalid", "require"]


def invalid(attribute: str, reason: str) -> ResultInvalid:
    """Return the error that names the attribute and the reason, without its value."""
    return ResultInvalid(f"{attribute}: {reason}")


def require(condition: bool, attribute: str, reason: str) -> None:
    """Raise ResultInvalid unless `condition` holds."""
    if not condition:
        raise invalid(attribute, reason)
