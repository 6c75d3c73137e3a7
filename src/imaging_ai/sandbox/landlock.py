"""Which files a model's process can open: Landlock (landlock(7)), by its three system calls.

A rule names a file or a folder with all below it; what no rule names cannot be opened, made, removed or renamed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["restrict", "version"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every machine
_VERSION, _PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_FIFO, _MAKE_SYM = (1 << bit for bit in (4, 5, 7, 8, 10, 12))
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
#: By version of the interface: what it can hold back of files (all below this bit), of the network, and of scopes.
_FILES = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_BIND_AND_CONNECT_TCP, _ABSTRACT_SOCKETS_AND_SIGNALS = 0b11, 0b11

_READ = _READ_FILE | _READ_DIR
_USE = _READ | _WRITE_FILE | _IOCTL_DEV
_KEEP = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_FIFO | _MAKE_SYM
_KEEP |= _REFER | _TRUNCATE
_OF_A_FILE = _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """Return the version of the kernel's interface, 0 where there is none."""
    found = ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, _VERSION)
    return max(0, int(found))


def restrict(*, read: Iterable[Path], use: Iterable[Path], keep: Iterable[Path]) -> None:
    """Let this process read, use (devices) and keep (write and remove) what is named, and nothing else, for good.

    What is named and not there is passed over.

    Raises
    ------
    OSError
        If the kernel cannot do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    known = version()
    if not known:
        raise OSError("Landlock is not offered")
    handled = (1 << _FILES[min(known, max(_FILES))]) - 1
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if known >= 6 else 0
    ruleset = _Ruleset(handled, _BIND_AND_CONNECT_TCP if known >= 4 else 0, scopes)
    size = 8 if known < 4 else 16 if known < 6 else 24
    descriptor = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), size, 0))
    try:
        for paths, rights in ((read, _READ), (use, _USE), (keep, _KEEP)):
            for path in paths:
                _allow(libc, descriptor, path, rights & handled)
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT_SELF, descriptor, 0))
    finally:
        os.close(descriptor)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        of_this = rights if path.is_dir() else rights & _OF_A_FILE
        _checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_Rule(of_this, parent)), 0))
    finally:
        os.close(parent)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "Landlock")
    return result
