"""Where the bytes of an instance lie: an object, and a range of it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BlobRef"]


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A range of one stored object.

    Large instances are an object of their own (`offset` 0); small ones share a synced log segment,
    so every reader must honour `offset` and `length`.
    """

    key: str
    offset: int
    length: int
