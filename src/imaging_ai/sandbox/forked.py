"""The way to a zygote, and to the processes that it forks, from the side that asks for them.

This side loads no library of models: it starts the zygote as a program of its own (`zygote.py`).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIGKILL

import msgspec

from imaging_ai.errors import ModelProcessDied
from imaging_ai.sandbox.confine import environment
from imaging_ai.sandbox.guardian import END, HELD, REQUEST, Begun, Held, Over, Told

__all__ = ["Forked", "Zygote"]

_BOOT = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from imaging_ai.sandbox.zygote import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
_LONGEST_WORD = 10_000


class Zygote:
    """Forks processes that run models; started when first needed, and again after it ended; ends with this process.

    One that is `heard` writes to standard error what its processes write there.
    """

    def __init__(self, *, heard: bool = False) -> None:
        self._heard = heard
        self._process: subprocess.Popen[bytes] | None = None
        self._way: socket.socket | None = None
        self._lock = threading.Lock()

    @classmethod
    def of_another(cls, way: int) -> Zygote:
        """Return the zygote that another process has started, and shares by this descriptor."""
        made = cls()
        made._way = socket.socket(fileno=way)
        return made

    @property
    def pid(self) -> int | None:
        """The process id, None when it is not there, or was not started here."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def way(self) -> socket.socket:
        """Return the socket by which it is asked, for this process and for those that it trusts."""
        with self._lock:
            if self._way is None or (self._process is not None and self._process.poll() is not None):
                self._start()
            assert self._way is not None
            return self._way

    def end(self) -> None:
        """End it, and all that it has forked."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            if self._way is not None:
                self._way.close()
            self._process = self._way = None

    def _start(self) -> None:
        if self._way is not None:
            self._way.close()
        self._way, theirs = socket.socketpair()
        started: Future[subprocess.Popen[bytes]] = Future()
        threading.Thread(target=self._keep, args=(theirs, started), name="zygote", daemon=True).start()
        self._process = started.result()

    def _keep(self, theirs: socket.socket, started: Future[subprocess.Popen[bytes]]) -> None:
        """Start it from a thread that stays until it has ended: the kernel kills it when that thread ends."""
        try:
            with theirs:
                process = self._born(theirs.fileno())
        except OSError as error:
            started.set_exception(error)
            return
        started.set_result(process)
        process.wait()

    def _born(self, way: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-IB", "-c", _BOOT, str(way), str(os.getpid()), *sys.path],
            pass_fds=(way,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if self._heard else subprocess.DEVNULL,
            env=environment(Path("/")),
            cwd="/",
            start_new_session=True,
        )


class Forked:
    """A process that a zygote forked, as its guardian tells of it. It ends when this object's process does."""

    def __init__(self, zygote: Zygote, model: socket.socket, limit: int) -> None:
        ours, theirs = socket.socketpair()
        self._line: Connection[object, object] = Connection(ours.detach())
        self._decoder: msgspec.msgpack.Decoder[Told] = msgspec.msgpack.Decoder(Told)
        self._pid: int | None = None
        self._held = Held(0, 0)
        self._over: Over | None = None
        with theirs:
            try:
                socket.send_fds(zygote.way(), [REQUEST.pack(limit)], [model.fileno(), theirs.fileno()])
            except OSError as error:
                self._line.close()
                raise ModelProcessDied("the process that starts those of models is gone") from error

    @property
    def pid(self) -> int | None:
        """The process id, None when there was none; waits until it has begun."""
        while self._pid is None and self._over is None:
            self._hear()
        return self._pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended, so far as that is known."""
        return self.wait(0.0) is None

    def held(self) -> Held:
        """Return what it holds, and the most that it held since this was asked last; zeros when it has ended."""
        self._held, asked = Held(0, 0), True
        try:
            self._line.send_bytes(HELD)
        except OSError:
            asked = False
        while asked and self._over is None and not self._held.most:
            asked = self._hear() is not Held
        return self._held

    def wait(self, seconds: float) -> Over | None:
        """Return how it ended; None when it has not within so many seconds."""
        until = time.monotonic() + seconds
        while self._over is None and self._line.poll(max(0.0, until - time.monotonic())):
            self._hear()
        return self._over

    def end(self) -> None:
        """End it."""
        if self._line.closed:
            return
        with suppress(OSError):  # it has ended
            self._line.send_bytes(END)
        self._over = self.wait(5.0) or Over(-SIGKILL)
        self._line.close()

    def _hear(self) -> type[Told]:
        try:
            told = self._decoder.decode(self._line.recv_bytes(_LONGEST_WORD))
        except (EOFError, OSError):
            told = Over(-SIGKILL)  # its guardian was killed, and it with that
        if isinstance(told, Begun):
            self._pid = told.pid
        elif isinstance(told, Held):
            self._held = told
        else:
            self._over = told
        return type(told)
