"""The port of those who want to hear every ring of a queue, whoever else hears it: web processes do."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Ear"]


class Ear(Protocol):
    """Hears the rings of one queue from when it was made."""

    def heard(self, timeout: float) -> bool:
        """Wait for a ring, so many seconds at most, and say whether there was one. Rings that wait are one."""

    def close(self) -> None:
        """Hear no more."""
