"""An audit event, and the seal that chains it to the one before.

The seal is HMAC-SHA-256 (RFC 2104) over the seal of the event before and every column of this one, written as one JSON
array, which no two different rows share. Who has no key can neither change an event nor add one; whoever removes or
moves one breaks the seal of the next.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

__all__ = ["COLUMNS", "GENESIS", "Entry", "Event", "Outcome", "seal"]

Outcome = Literal["success", "refused", "failure"]

#: The seal before the first event.
GENESIS = "0" * 64

#: The columns of the trail, in the order in which they are sealed; the seal itself follows them.
COLUMNS = (
    *("id", "at", "action", "outcome", "actor", "origin", "object_type", "object_uid", "detail"),
    "key_id",
)


@dataclass(frozen=True, slots=True)
class Event:
    """Who did what to which object, from where, when (seconds since the epoch), and how it went."""

    at: float
    action: str
    outcome: Outcome
    actor: str
    origin: str
    object_type: str
    object_uid: str
    detail: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in the trail: its number, and the key and seal that hold it there."""

    sequence: int
    event: Event
    key_id: str
    hash: str

    @classmethod
    def of(cls, row: Sequence[Any]) -> Entry:
        """Make an entry of the values of `COLUMNS` and the seal."""
        sequence, *event, key_id, sealed = row
        return cls(sequence, Event(*event), key_id, sealed)


def seal(key: bytes, previous: str, values: Sequence[object]) -> str:
    """Return the seal, in hexadecimal digits, of the values of `COLUMNS` after the event whose seal is `previous`."""
    return hmac.digest(key, msgspec.json.encode([previous, *values]), "sha256").hex()
