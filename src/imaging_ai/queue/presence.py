"""Which workers live: a lock that the kernel frees on their own host, a lease everywhere else.

A worker holds an exclusive `flock` on a file of its own for as long as its process lives, however it ends. Anyone
on the same host learns at once whether it does, by trying a shared
lock, which two who ask may hold together.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from pathlib import Path

__all__ = ["Presence", "is_dead", "this_host"]


class Presence:
    """The name under which a worker process claims work, and the lock that shows it lives.

    `owner` is known from the start, so that it can be handed to whoever claims in this worker's name.
    """

    def __init__(self, run_dir: Path, *, host: str | None = None) -> None:
        token = secrets.token_hex(4)
        self.host = host or this_host()
        self.owner = f"{self.host}:{os.getpid()}:{token}"
        self.lock_path = run_dir.resolve() / "workers" / f"{os.getpid()}-{token}.lock"
        self._descriptor: int | None = None

    def hold(self) -> None:
        """Take the lock; it lasts until `leave` or the end of the process. The files of the dead are removed."""
        folder = self.lock_path.parent
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.lock"):
            _remove_if_dead(path)
        while self._descriptor is None:
            descriptor = os.open(self.lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if self.lock_path.exists():
                self._descriptor = descriptor
            else:
                os.close(descriptor)  # another worker came before the lock, and took the file for one of the dead

    def leave(self) -> None:
        """Give the lock up: from now on this worker counts as dead."""
        if self._descriptor is not None:
            self.lock_path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def _remove_if_dead(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # it is gone, or another user's
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return  # its worker lives
    finally:
        os.close(descriptor)


def this_host() -> str:
    """Name this host so that no other is taken for it: its host name, and the boot it is in."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    suffix = boot.read_text()[:8] if boot.exists() else "0"
    return f"{socket.gethostname()[:60]}/{suffix}"


def is_dead(host: str, lock_path: str) -> bool | None:
    """Say whether the worker with this lock is dead; None when that cannot be seen from here."""
    path = Path(lock_path)
    if host != this_host() or not path.parent.is_dir():
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except PermissionError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
