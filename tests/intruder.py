"""What an exploited model would try: each attempt by itself, told as "done" or as the error that stopped it.

The text of this module is the `scripts/intruder.py` of a hostile bundle, and is run alone behind the walls: it imports
nothing but the standard library.
"""

# ruff: noqa: PTH101, PTH104, PTH107, PTH208
from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> None:
    if _LIBC.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _connect(family: int, kind: int, address: object) -> None:
    with socket.socket(family, kind) as one:
        one.connect(address)  # type: ignore[arg-type]


def _through_a_pair() -> None:
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(b"hello", "/dev/log")


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _signal_by_descriptor(parent: int) -> None:
    with Path("/dev/null").open() as file:
        fcntl.fcntl(file, fcntl.F_SETOWN, parent)


def _new_namespace() -> None:
    if _LIBC.unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")


def attempts(targets: dict[str, str]) -> dict[str, Callable[[], object]]:
    """Return the attempts by name. `targets` has a `secret` file, a `folder`, a `socket` of a server, its `port`."""
    secret, folder, parent = targets["secret"], Path(targets["folder"]), int(targets["parent"])
    port = int(targets["port"])
    return {
        "TCP": lambda: _connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port)),
        "TCP over IPv6": lambda: _connect(socket.AF_INET6, socket.SOCK_STREAM, ("::1", port)),
        "UDP": lambda: _connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 53)),
        "a name": lambda: socket.create_connection(("localhost", port), 1.0),
        "a socket of this machine": lambda: _connect(socket.AF_UNIX, socket.SOCK_STREAM, targets["socket"]),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "vsock": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
        "a pair of sockets": _through_a_pair,
        "the database": lambda: Path(secret).read_bytes(),
        "the database, to write": lambda: Path(secret).open("ab"),
        "a folder": lambda: os.listdir(folder),
        "a new file": lambda: (folder / "new").write_text("hello"),
        "a file in /tmp": lambda: Path("/tmp/intruder").write_text("hello"),
        "a link": lambda: os.link(secret, "linked"),
        "a symbolic link": lambda: (Path("symbolic").symlink_to(secret), Path("symbolic").read_bytes()),
        "removing": lambda: os.remove(secret),
        "renaming": lambda: os.rename(secret, folder / "renamed"),
        "cutting off": lambda: os.truncate(secret, 0),
        "changing the mode": lambda: os.chmod(secret, 0o777),
        "changing the time": lambda: os.utime(secret, (0, 0)),
        "changing the owner": lambda: os.chown(secret, 12345, 12345),
        "/etc/passwd": lambda: Path("/etc/passwd").read_text(),
        "memory of the parent": lambda: Path(f"/proc/{parent}/mem").open("rb"),
        "environment of the parent": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "files of the parent": lambda: Path(f"/proc/{parent}/fd/0").open("rb"),
        "root of the parent": lambda: os.listdir(f"/proc/{parent}/root/"),
        "a shell": lambda: subprocess.run(["/bin/sh", "-c", "true"], check=True),
        "replacing oneself": lambda: os.execv("/bin/true", ["true"]),
        "a fork": _fork,
        "tracing the parent": lambda: _call(101, 16, parent, 0, 0),
        "ending the parent": lambda: os.kill(parent, signal.SIGKILL),
        "ending everybody": lambda: os.kill(-1, signal.SIGKILL),
        "a thread of the parent": lambda: _call(234, parent, parent, 9),
        "queueing a signal": lambda: _call(129, parent, 9, bytes(128)),
        "a descriptor of the parent": lambda: os.pidfd_open(parent),
        "limits of the parent": lambda: resource.prlimit(parent, resource.RLIMIT_CPU, (0, 0)),
        "processor of the parent": lambda: os.sched_setaffinity(parent, {0}),
        "a signal by a descriptor": lambda: _signal_by_descriptor(parent),
        "reading another's memory": lambda: _call(310, parent, None, 0, None, 0, 0),
        "a namespace": _new_namespace,
        "a mount": lambda: _call(165, b"none", b"/", b"tmpfs", 0, None),
        "BPF": lambda: _call(321, 0, bytes(128), 128),
        "io_uring": lambda: _call(425, 8, bytes(120)),
        "userfaultfd": lambda: _call(323, 1),
        "keys": lambda: _call(250, 0, -3, 0),
        "perf": lambda: _call(298, bytes(128), 0, -1, -1, 0),
        "memory without a name": lambda: os.memfd_create("intruder"),
        "shared memory": lambda: _call(29, 0, 4096, 0o1777),
        "a dump": lambda: _call(157, 4, 1, 0, 0, 0),
        "outliving the parent": lambda: _call(157, 1, 0, 0, 0, 0),
        "a 32-bit call by its number": lambda: _call(0x40000000 + 41, 2, 1, 0),
        "a call that is not known": lambda: _call(470),
    }


def outcomes(targets: dict[str, str]) -> dict[str, str]:
    """Try everything; say of each what came of it."""
    told: dict[str, str] = {}
    for name, attempt in attempts(targets).items():
        try:
            attempt()
            told[name] = "done"
        except Exception as error:
            told[name] = type(error).__name__
    return told


def eat() -> None:
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20) * 16))


def eat_unseen() -> None:
    """Share memory with oneself: it counts as nobody's data."""
    import mmap

    held = []
    while True:
        one = mmap.mmap(-1, 64 << 20)
        one.write(b"x" * (64 << 20))
        held.append(one)


def swarm() -> None:
    for _ in range(10_000):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


def fill(folder: str = ".") -> int:
    """Write until nothing more can be written, and return how much it was."""
    written = 0
    try:
        for number in range(10_000):
            with (Path(folder) / f"filled{number}").open("wb") as file:
                for _ in range(64):
                    written += file.write(bytes(1 << 20))
    except OSError:
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return written


def crash() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


def hang() -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    while True:
        time.sleep(1)
