"""Identifiers: UIDs (PS3.5 section 9) and Application Entity titles (PS3.5 VR AE)."""

from __future__ import annotations

import hashlib
import re
import uuid

from imaging_ai.errors import InputError

__all__ = [
    "IMPLEMENTATION_CLASS_UID",
    "IMPLEMENTATION_VERSION_NAME",
    "derive_uid",
    "is_uid",
    "new_uid",
    "parse_ae_title",
]

#: Our Implementation Class UID (PS3.7 D.3.3.2), a fixed UUID-derived UID (PS3.5 B.2).
IMPLEMENTATION_CLASS_UID = "2.25.94668183320735829377411370905834113867"
IMPLEMENTATION_VERSION_NAME = "IMAGING_AI_0_1"

_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
_LENIENT_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")


def is_uid(value: str, *, lenient: bool = True) -> bool:
    """Say whether `value` is a UID; leading zeros in a component pass when `lenient` (they occur)."""
    pattern = _LENIENT_UID if lenient else _UID
    return 0 < len(value) <= 64 and pattern.fullmatch(value) is not None


def new_uid() -> str:
    """Make a UID nobody else has (PS3.5 B.2: 2.25 and a random UUID)."""
    return f"2.25.{uuid.uuid4().int}"


def derive_uid(*parts: str) -> str:
    """Make the UID that always belongs to `parts`, in their order (PS3.5 B.2: 2.25 and a hashed UUID)."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def parse_ae_title(value: str) -> str:
    """Return the AE title with its insignificant spaces removed.

    Raises
    ------
    InputError
        If it is empty, longer than 16 bytes, or has control characters or backslashes.
    """
    title = value.strip(" ")
    if not title or len(title) > 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise InputError(f"{value!r} is not an AE title: 1 to 16 printable ASCII characters without backslash")
    return title
