"""The process between a forked one and the one that asked for it: it watches, ends it when told, says how it ended.

A process can only be waited for, and signalled without doubt, by its parent; and who asks is not the parent of what a
zygote forks. A guardian ends with its zygote, and its process with the guardian (prctl(2)). It hears nothing that comes
from a model.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NoReturn

import msgspec

from imaging_ai.process import die_with_parent
from imaging_ai.sandbox.watch import Watch

__all__ = ["END", "HELD", "REQUEST", "Begun", "Held", "Life", "Over", "Told", "guard"]

#: What is asked of a zygote: the bytes that a process may hold. Its socket comes with it, and that of its guardian.
REQUEST = struct.Struct("=Q")

#: What may be asked of a guardian; when nobody is there any more to ask, it ends its process too.
END, HELD = b"end", b"held"

_LOOK_EVERY = 0.2

#: What a process does that was forked: given its socket, and whom it must not outlive.
Life = Callable[[int, int], object]


class Begun(msgspec.Struct, frozen=True, tag=True):
    """First of all: the number of the process."""

    pid: int


class Held(msgspec.Struct, frozen=True, tag=True):
    """How many bytes it holds by itself, and how many it held at most since that was asked last; 0 if not known."""

    own: int
    most: int


class Over(msgspec.Struct, frozen=True, tag=True):
    """Last of all: how it ended, a signal as a negative number; and why, where the guardian ended it by itself."""

    status: int
    reason: str = ""


Told = Begun | Held | Over


def guard(line: Connection[object, object], model: int, limit: int, life: Life) -> None:
    """Fork a process that has the socket `model` and may hold `limit` bytes (0: any), and stay until it has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # so that how it ends is kept for us
    guardian = os.getpid()
    pid = os.fork()
    if pid == 0:
        line.close()
        _live(life, model, guardian)
    os.close(model)  # so that who has the other end hears when the process is gone
    try:
        _Guardian(line, pid, Watch(pid, limit)).stay()
    except OSError:  # who asked is gone
        os.kill(pid, signal.SIGKILL)


def _live(life: Life, model: int, guardian: int) -> NoReturn:
    try:
        die_with_parent(guardian)
        life(model, guardian)
    except BaseException:  # noqa: BLE001 - the edge of the process
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


class _Guardian:
    def __init__(self, line: Connection[object, object], pid: int, watch: Watch) -> None:
        self._line, self._pid, self._watch = line, pid, watch
        self._status: int | None = None
        self._reason = ""

    def stay(self) -> None:
        self._say(Begun(self._pid))
        next_look = time.monotonic()
        while not self._ended(os.WNOHANG):
            if self._line.poll(max(0.0, next_look - time.monotonic())):
                self._hear()
            else:
                next_look = time.monotonic() + _LOOK_EVERY
                self._look()
        assert self._status is not None
        self._say(Over(self._status, self._reason))

    def _ended(self, options: int) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self._pid, options)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is not None

    def _hear(self) -> None:
        try:
            word = self._line.recv_bytes()
        except EOFError:
            word = END
        if word == HELD:
            self._look()
            self._say(Held(self._watch.own, self._watch.most))
            self._watch.most = 0
        else:
            self._end()

    def _look(self) -> None:
        if reason := self._watch.objection():
            self._reason = self._reason or reason
            self._end()

    def _end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self._ended(0)

    def _say(self, told: Told) -> None:
        self._line.send_bytes(msgspec.msgpack.encode(told))
