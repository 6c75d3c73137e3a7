"""What a process does first: not outlive the one that started it, and share its metrics with the others of its host."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "PARENT_VARIABLE",
    "die_with_parent",
    "few_heaps",
    "give_back",
    "keep_memory",
    "keep_metrics",
    "settle",
    "share_metrics",
]

#: Environment variable that carries the parent's process id to a child that should die with it.
PARENT_VARIABLE = "IMAGING_AI_PARENT_PID"

_PR_SET_PDEATHSIG = 1

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8

#: The files of `prometheus_client` for the kinds of metrics that there are, and room for about a hundred labels each.
_METRICS = ("counter", "histogram", "gauge_livesum")
_METRICS_VARIABLE, _METRICS_BYTES = "PROMETHEUS_MULTIPROC_DIR", 16384


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


def keep_memory(block: int | None = 8 << 20, total: int = 32 << 20) -> None:
    """Have the C library keep blocks that are freed for the next time, up to so many bytes each and all (mallopt(3)).

    By default a block of more than 128 kB, such as a frame, comes from the kernel and goes back to it: mapping it, and
    filling its pages with zeros, takes longer than reading the frame, and a sixth of the time of a network. A `block`
    is at most 32 MB; None keeps those of any size, such as volumes.
    """
    few_heaps()  # each thread would keep as much again
    _mallopt(*((_M_MMAP_MAX, 0) if block is None else (_M_MMAP_THRESHOLD, block)))
    _mallopt(_M_TRIM_THRESHOLD, total)


def few_heaps(most: int = 2) -> None:
    """Have the C library make only so many heaps (mallopt(3)).

    By default a thread that would have to wait for a heap is given one, up to eight for each core, and each keeps what
    was freed in it: of a thread for each connection there remain megabytes that nobody uses.
    """
    _mallopt(_M_ARENA_MAX, most)


def give_back(every: float = 30.0) -> None:
    """Begin to give the system now and then what was freed and is kept for the next time (malloc_trim(3)).

    What errors left behind goes before it: frames that know each other, and the input that they were about. Python
    looks for such only when much that is new has lasted.
    """
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        threading.Thread(target=_trim, args=(trim, every), name="give-back", daemon=True).start()


def _trim(trim: Callable[[int], int], every: float) -> None:
    while True:
        time.sleep(every)
        gc.collect()
        trim(0)


def _mallopt(parameter: int, value: int) -> None:
    if sys.platform.startswith("linux") and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(parameter, value)


def settle() -> None:
    """Take what there is by now for what stays, and look for garbage only in what comes after.

    To go through everything that was imported takes a tenth of a second, in which nobody is answered.
    """
    gc.collect()
    gc.freeze()


def share_metrics(folder: Path) -> None:
    """Keep this process's counters in files of `folder`, so that any web process of the host can tell them for all.

    To be called before `prometheus_client` is imported, which reads the variable then. It maps its files into memory,
    and a page that a full disk has no room for ends a process (SIGBUS): so they get their room now, or are not shared.
    """
    files = [folder / f"{kind}_{os.getpid()}.db" for kind in _METRICS]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            _give_room(file, _METRICS_BYTES)
    except OSError:
        for file in files:
            file.unlink(missing_ok=True)
        keep_metrics()
        return
    os.environ.setdefault(_METRICS_VARIABLE, str(folder))


def _give_room(file: Path, size: int) -> None:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def keep_metrics() -> None:
    """Keep this process's counters to itself."""
    os.environ.pop(_METRICS_VARIABLE, None)
