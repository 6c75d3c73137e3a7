"""How much a model's process holds, looked at from outside: one that holds more is ended."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

__all__ = ["Watch", "has_gpu", "memory_share"]

_LOOK_EVERY = 0.2
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_THREADS = 4096
#: Of this machine's memory, or of what its container may have, the part that one model's process may hold.
_SHARE = 0.8
_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Watch:
    """Ends a process that grows past `memory_bytes`, or to thousands of threads; `reason` then says so."""

    def __init__(self, process: subprocess.Popen[bytes], memory_bytes: int) -> None:
        self.reason = ""
        self._process = process
        self._memory_bytes = memory_bytes
        self._over = threading.Event()
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()

    def _look(self) -> None:
        stat = Path(f"/proc/{self._process.pid}/stat")
        while not self._over.wait(_LOOK_EVERY):
            try:
                fields = stat.read_text().rpartition(")")[2].split()  # proc_pid_stat(5), from the third on
            except OSError:
                return
            threads, held = int(fields[17]), int(fields[21]) * _PAGE
            if held > self._memory_bytes > 0:
                self.reason = f"the process that ran the model grew to {held >> 20} MB"
            elif threads > _MOST_THREADS:
                self.reason = f"the process that ran the model started {threads} threads"
            if self.reason:
                self._process.kill()
                return


def memory_share() -> int:
    """Return the bytes that a model's process may hold where nobody says how many; 0 where that cannot be known."""
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
