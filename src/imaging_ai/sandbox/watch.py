"""How much a model's process holds, looked at from outside: one that holds more is ended."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["Watch", "has_gpu", "memory_share"]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_THREADS = 4096
#: Of this machine's memory, or of what its container may have, the part that models' processes may hold.
_SHARE = 0.8
_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Watch:
    """What a process was seen to hold, in bytes: `own` is what no other shares with it, `most` the most of all so far.

    `limit` 0 means that it may hold whatever it likes. Where there is no ``/proc`` nothing is seen.
    """

    def __init__(self, pid: int, limit: int) -> None:
        self.own = self.most = 0
        self._folder = Path(f"/proc/{pid}")
        self._limit = limit

    def objection(self) -> str:
        """Look, and say why the process must end; nothing where it may go on."""
        try:
            pages = [int(field) * _PAGE for field in (self._folder / "statm").read_text().split()]  # proc_pid_statm(5)
            threads = int((self._folder / "stat").read_text().rpartition(")")[2].split()[17])
        except (OSError, IndexError):
            return ""
        held, shared = pages[1], pages[2]
        self.own, self.most = held - shared, max(held, self.most)
        if held > self._limit > 0:
            return f"the process that ran the model grew to {held >> 20} MB"
        return f"the process that ran the model started {threads} threads" if threads > _MOST_THREADS else ""


def memory_share() -> int:
    """Return the bytes that models' processes may hold where nobody says how many; 0 where that cannot be known."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * _PAGE
    except (ValueError, OSError):
        return 0
    for file in map(Path, _CONTAINER_LIMITS):
        if file.is_file() and (limit := file.read_text().strip()).isdigit():
            whole = min(whole, int(limit))
    return int(whole * _SHARE)


def has_gpu(device: str) -> bool:
    """Say whether a process that runs on `device` needs the way to a GPU."""
    return device != "cpu" and Path("/dev/nvidiactl").exists()
