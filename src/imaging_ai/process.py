"""What a process does first: not outlive the one that started it, and share its metrics with the others of its host."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

__all__ = ["PARENT_VARIABLE", "die_with_parent", "share_metrics"]

#: Environment variable that carries the parent's process id to a child that should die with it.
PARENT_VARIABLE = "IMAGING_AI_PARENT_PID"

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent dies (prctl(2)); end at once if it died already.

    `parent` is the expected parent; without it ``$IMAGING_AI_PARENT_PID`` is, and without that nothing is done.
    """
    expected = parent if parent is not None else int(os.environ.get(PARENT_VARIABLE, "0"))
    if not expected or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != expected:
        os._exit(1)


def share_metrics(folder: Path) -> None:
    """Keep this process's counters in files of `folder`, so that any web process of the host can tell them for all.

    To be called before `prometheus_client` is imported, which reads the variable then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(folder))
