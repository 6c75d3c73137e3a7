"""A network, a file tree and an IPC of its own for a model's process (namespaces(7)), and no capability.

The network of a new namespace has no way out. In a file tree of its own the scratch folder is a file system in memory,
bounded, seen by nobody else, and gone with the process.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["drop_capabilities", "isolate", "mount_scratch"]

_NEWNS, _NEWIPC, _NEWUSER, _NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
_CAPABILITIES_V3 = 0x20080522


def isolate() -> None:
    """Give this process namespaces of its own: by a user namespace where that is allowed, else by privilege.

    Raises
    ------
    OSError
        If neither is.
    """
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    own = _NEWNS | _NEWIPC | _NEWNET
    if libc.unshare(_NEWUSER | own) == 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    elif libc.unshare(own):
        raise OSError(ctypes.get_errno(), "namespaces")


def mount_scratch(folders: Iterable[Path], size: int) -> None:
    """Put a file system of `size` bytes in memory over each folder, for this process alone.

    Raises
    ------
    OSError
        If that is not allowed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "mount")
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    options = f"size={size},nr_inodes=4096,mode=0700".encode()
    for folder in folders:
        if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options):
            raise OSError(ctypes.get_errno(), "mount")


def drop_capabilities() -> None:
    """Give up every privilege that this process has over others of its user, or as root.

    Raises
    ------
    OSError
        If the kernel refuses.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")
