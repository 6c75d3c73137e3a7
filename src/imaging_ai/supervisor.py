"""Runs the roles of one machine as child processes, and starts a role again when it dies.

A role that dies is started again after a pause that doubles up to half a minute and is forgotten after a minute of
health. On SIGTERM or SIGINT the roles are asked to stop, all at once, and killed when the grace time is over.
The children die with this process, whatever kills it (Linux parent-death signal).
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imaging_ai.errors import ConfigError
from imaging_ai.process import PARENT_VARIABLE

__all__ = ["Role", "Supervisor", "be_alone"]

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE, _HEALTHY_AFTER = 0.5, 30.0, 60.0


def be_alone(file: Path) -> None:
    """Lock `file` until this process ends, however it does: no other server runs its roles beside it.

    Raises
    ------
    ConfigError
        If another process holds it; it is named.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        place = file.parent.parent
        raise ConfigError(
            f"data_dir: process {holder} serves {place} already; stop that one, or give this one a data_dir of its own"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())


@dataclass(frozen=True, slots=True)
class Role:
    """A name for the log, and the arguments of `imaging-ai` that run it."""

    name: str
    arguments: tuple[str, ...]


@dataclass(slots=True)
class _Child:
    role: Role
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause: float = _FIRST_PAUSE
    start_at: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Keeps `roles` running until `stop` is called."""

    roles: Sequence[Role]
    environment: Mapping[str, str] = field(default_factory=dict)
    grace_seconds: float = 30.0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _children: list[_Child] = field(default_factory=list)

    def run(self) -> None:
        """Run until `stop`; then end every child and return."""
        self._children = [_Child(role) for role in self.roles]
        try:
            while not self._stopping.is_set():
                for child in self._children:
                    self._tend(child)
                self._stopping.wait(0.1)
        finally:
            self._end()

    def stop(self, *_signal: object) -> None:
        """Ask `run` to return; safe as a signal handler."""
        self._stopping.set()

    def handle_signals(self) -> None:
        """Stop on SIGTERM and SIGINT."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)

    def pids(self) -> dict[str, int]:
        """The process id of each role that runs now."""
        return {child.role.name: child.process.pid for child in self._children if child.process is not None}

    def _tend(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.start_at:
                self._start(child, now)
            return
        code = child.process.poll()
        if code is None:
            return
        if now - child.started_at > _HEALTHY_AFTER:
            child.pause = _FIRST_PAUSE
        logger.error("role %s ended with code %d; starting it again in %.1f s", child.role.name, code, child.pause)
        child.process, child.start_at = None, now + child.pause
        child.pause = min(child.pause * 2, _LONGEST_PAUSE)

    def _start(self, child: _Child, now: float) -> None:
        command = [sys.executable, "-m", "imaging_ai", *child.role.arguments]
        environment = {**os.environ, **self.environment, PARENT_VARIABLE: str(os.getpid())}
        child.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)  # noqa: S603 - our own program
        child.started_at = now
        logger.info("role %s runs as process %d", child.role.name, child.process.pid)

    def _end(self) -> None:
        living = [child.process for child in self._children if child.process is not None]
        for process in living:
            process.terminate()
        deadline = time.monotonic() + self.grace_seconds
        for process in living:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.warning("process %d did not stop in time and is killed", process.pid)
                process.kill()
                process.wait()
