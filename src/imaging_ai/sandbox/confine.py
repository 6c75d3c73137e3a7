"""The walls around a model's process, put up by itself before it reads anything of a model, and never taken down.

Each wall stands by itself: where the kernel offers one of them not, the others stand. docs/sandbox.md has the table.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from imaging_ai.process import die_with_parent
from imaging_ai.sandbox import landlock, namespaces, seccomp

__all__ = ["ENVIRONMENT", "Mode", "Walls", "Within", "confine", "environment", "homes", "python_folders"]

Mode = Literal["strict", "best", "off"]

#: Environment variables that a model's process gets, by their beginning: nothing with an address or a secret.
_PASSED = (
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_", "TZ"),
    *("OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "TORCH_", "PYTORCH_", "ATEN_"),
    *("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_"),
)
#: Threads that wait for each other do not spin: on a busy machine they would hold the core that the other needs.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}
#: What the libraries of a model read, beside Python itself.
_SYSTEM = (
    *("/usr", "/lib", "/lib64"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems"),
    *("/proc/sys/vm/overcommit_memory", "/sys/devices/system", "/sys/kernel/mm/transparent_hugepage"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_GPU_SYSTEM = ("/proc/driver", "/proc/devices", "/proc/modules", "/proc/version", "/sys")

#: What a GPU's driver may use beside its devices: memory that is shared, here with nobody.
_SHARED_MEMORY, _OF_A_GPU = Path("/dev/shm"), ("memfd_create",)  # noqa: S108 - of this process alone

_PR_SET_DUMPABLE = 4
_MAX_FILES = 4096
#: Memory that is asked for and not touched counts here and not in what is watched.
_DATA_FACTOR = 1.5


class Within(msgspec.Struct, frozen=True):
    """What a process is confined to: folders that it may read, one to write in, bytes that it may hold and write.

    `parent` is the process that it must not outlive. `memory_bytes` 0 means no limit.
    """

    mode: Mode
    read: tuple[str, ...]
    scratch: str
    scratch_bytes: int
    memory_bytes: int
    gpu: bool
    parent: int = 0


class Walls(msgspec.Struct, frozen=True):
    """Which walls stand, and which could not be put up and why."""

    standing: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Say it in a line."""
        stands = ", ".join(self.standing) or "nothing is held back"
        return f"{stands}; missing: {', '.join(self.missing)}" if self.missing else stands


def confine(within: Within) -> Walls:
    """Confine this process, which must still have a single thread, and say how far that went."""
    die_with_parent(within.parent)
    if within.mode == "off":
        return Walls()
    if not sys.platform.startswith("linux"):
        return Walls(missing=(f"everything: {sys.platform} has none of what Linux offers",))
    scratch = [Path(within.scratch), *([_SHARED_MEMORY] if within.gpu else [])]
    standing: list[str] = []
    missing: list[str] = []

    def put_up(name: str, wall: Callable[[], object]) -> None:
        try:
            wall()
        except OSError as error:
            missing.append(f"{name} ({error.strerror or error})")
        else:
            standing.append(name)

    put_up("no network", namespaces.isolate)
    put_up("scratch in memory", lambda: namespaces.mount_scratch(scratch, within.scratch_bytes))
    keep = scratch if "scratch in memory" in standing else []
    os.chdir(within.scratch)  # anew: what was mounted lies over the folder that we were in
    put_up("no privilege", namespaces.drop_capabilities)
    put_up("limits", lambda: _limit(within))
    die_with_parent(within.parent)  # a change of privilege has made the kernel forget it
    put_up("few files", lambda: _close_files(within, keep))
    put_up("few system calls", lambda: seccomp.install(_OF_A_GPU if within.gpu else ()))
    return Walls(tuple(standing), tuple(missing))


def _limit(within: Within) -> None:
    """Bound files, memory and dumps; and let the kernel take this process first when the machine is out of memory."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, within.scratch_bytes)
    _lower(resource.RLIMIT_NOFILE, _MAX_FILES)
    if within.memory_bytes and not within.gpu:  # a GPU's driver reserves more addresses than any machine has memory
        _lower(resource.RLIMIT_DATA, int(within.memory_bytes * _DATA_FACTOR))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # a dump would hold images, and so could who traces it


def _lower(which: int, wanted: int) -> None:
    hard = resource.getrlimit(which)[1]
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(which, (wanted, wanted))


def _close_files(within: Within, keep: Iterable[Path]) -> None:
    os.open("/proc/self", os.O_PATH)  # held open, the kernel knows it as the one that the rule below means
    read = [*_SYSTEM, *within.read, *(_GPU_SYSTEM if within.gpu else ())]
    use = [*_DEVICES, *(map(str, Path("/dev").glob("nvidia*")) if within.gpu else ())]
    landlock.restrict(read=map(Path, read), use=map(Path, use), keep=keep)


def environment(scratch: Path) -> dict[str, str]:
    """Return the environment of a model's process: what steers libraries, and homes that lead nowhere else."""
    passed = {name: value for name, value in os.environ.items() if name.startswith(tuple(_PASSED))}
    return {**ENVIRONMENT, **passed, **homes(scratch), "USER": "model", "LOGNAME": "model", "CUDA_CACHE_DISABLE": "1"}


def homes(scratch: Path) -> dict[str, str]:
    """Return the part of the environment that says where to write."""
    return dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR"), str(scratch))


def python_folders(package: Path) -> tuple[str, ...]:
    """Return the folders that hold Python, its libraries, and this program: of `sys.path` no other, such as "."."""
    roots = {Path(one).resolve() for one in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    return tuple(str(one) for one in sorted({*roots, package.resolve()}))
