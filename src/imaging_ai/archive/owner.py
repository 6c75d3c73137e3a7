"""The area of one process in a storage folder: what it has stored and not yet settled, and a lock that dies with it.

    owners/<id>/lock          held with flock as long as the process lives
    owners/<id>/<name>.part   an object being received
    owners/<id>/<name>.dcm    second link to a whole object that the index may not have durably yet
    owners/<id>/<name>.put    the same for an object whose caller writes the index row itself (results)
    owners/<id>/<name>.log    second link to a log segment with such objects

So after a crash only the areas of dead owners are looked at, never the whole archive.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["OwnerArea", "dead_areas", "sync_folder"]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class OwnerArea:
    """The locked folder of a living process, or of a dead one that we have taken over."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, owners: Path) -> OwnerArea:
        """Make our own area; it appears under its name only once it is locked."""
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        fresh = owners / f".{name}"
        fresh.mkdir(parents=True)
        lock = os.open(fresh / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = owners / name
        fresh.rename(path)
        sync_folder(owners)
        return cls(path, lock)

    def entries(self, suffix: str) -> list[Path]:
        """Return the entries of one kind."""
        return sorted(entry for entry in self.path.iterdir() if entry.suffix == suffix)

    def remove(self) -> None:
        """Remove the area with all its entries, and let go of the lock."""
        for entry in self.path.iterdir():
            if entry.name != "lock":  # goes last: what has no lock is nobody's to remove
                entry.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Let go of the lock; entries stay for the next recovery."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def dead_areas(owners: Path) -> Iterator[OwnerArea]:
    """Take over the areas whose process is dead, one after the other; living ones keep their lock and are left."""
    for path in sorted(owners.iterdir()) if owners.is_dir() else ():
        try:
            lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # taken over by another process, or not locked yet
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = (path / "lock").exists()
        except BlockingIOError:
            taken = False
        if taken:
            yield OwnerArea(path, lock)
        else:
            os.close(lock)
