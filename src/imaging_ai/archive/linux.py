"""Two calls of the Linux kernel that Python does not have: give blocks back, and start writing before the sync."""

from __future__ import annotations

import ctypes
import errno
import os

__all__ = ["punch_hole", "start_writeback"]

_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2
_SYNC_FILE_RANGE_WRITE = 2
_ZERO_BYTES = 1 << 20


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Make a range of a file read as zeros, and free its blocks where the file system can."""
    libc = ctypes.CDLL(None, use_errno=True)
    mode = ctypes.c_int(_FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE)
    if libc.fallocate(ctypes.c_int(descriptor), mode, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0:
        return
    if ctypes.get_errno() not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(ctypes.get_errno(), "fallocate")
    for position in range(offset, offset + length, _ZERO_BYTES):
        os.pwrite(descriptor, bytes(min(_ZERO_BYTES, offset + length - position)), position)


def start_writeback(descriptor: int, offset: int, length: int) -> None:
    """Start the disk on a range, so that the sync at the end finds little to do. Only a hint: it cannot fail."""
    libc = ctypes.CDLL(None)
    libc.sync_file_range(
        ctypes.c_int(descriptor), ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
    )
