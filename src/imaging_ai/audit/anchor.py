"""Anchors: what the end of the trail was at a moment, kept where who can write to the database cannot.

Each is a line of JSON in a file that only grows. The seals show every change of the trail but one, its end cut off; an
anchor shows that too, for whatever was there when it was written. An anchor is written of what is durable, so that a
power cut that takes the newest commits is not taken for somebody's work.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from imaging_ai.audit.trail import head
from imaging_ai.db.engine import Database
from imaging_ai.errors import ConfigError, StorageUnavailable

__all__ = ["Anchor", "anchor", "anchors_in"]

_LONGEST = 4_096


class Anchor(msgspec.Struct, frozen=True):
    """Number and seal of the newest event, and when that was so (seconds since the epoch)."""

    sequence: int
    hash: str
    at: float


def anchor(database: Database, path: Path) -> Anchor | None:
    """Write the end of the trail to a file, unless it stands there already; return it, None for an empty trail."""
    found = head(database)
    if found is None:
        return None
    database.flush()
    now = Anchor(*found, time.time())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if (last := _last_sequence(file.fileno())) is None or last < now.sequence:
                file.write(msgspec.json.encode(now) + b"\n")
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be written: {error.strerror}") from error
    return now


def anchors_in(path: Path) -> Iterator[Anchor | None]:
    """Give the anchors that a file holds at this moment, None for a line that is none.

    Raises
    ------
    ConfigError
        If there is no such file.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(
            f"audit.anchor: {path} cannot be read ({error.strerror}): without anchors nobody can say whether the end "
            "of the trail was cut off; name another file by --anchor, or do without by --no-anchor"
        ) from None
    with file:
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (line := file.readline()):
            left -= len(line)
            yield _read(line)


def _read(line: bytes) -> Anchor | None:
    try:
        return msgspec.json.decode(line, type=Anchor)
    except msgspec.DecodeError:
        return None


def _last_sequence(descriptor: int) -> int | None:
    end = os.fstat(descriptor).st_size
    lines = os.pread(descriptor, _LONGEST, max(0, end - _LONGEST)).splitlines()
    last = _read(lines[-1]) if lines else None
    return None if last is None else last.sequence
