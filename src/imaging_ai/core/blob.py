"""Where the bytes of an instance lie: an object, and a range of it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SEALED", "BlobRef"]

#: What the name of an encrypted object has in it, and that of no other.
SEALED = ".sealed"


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A range of one stored object.

    Large instances are an object of their own (`offset` 0); small ones share a synced log segment,
    so every reader must honour `offset` and `length`.
    """

    key: str
    offset: int
    length: int

    @property
    def is_sealed(self) -> bool:
        """Whether the object is encrypted (`archive.sealed`); `length` counts its plain bytes all the same."""
        return SEALED in self.key
