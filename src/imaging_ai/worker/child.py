"""A runner as its worker sees it: a process to start, give a job, watch, and kill."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from multiprocessing.connection import Connection

from imaging_ai.core.job import Failure, Job, Stage
from imaging_ai.errors import ModelOutOfMemory, ModelProcessDied
from imaging_ai.sandbox.forked import Zygote
from imaging_ai.worker.messages import Ended, PipelineSpec, Progress, Ready, Report, Start, Task

__all__ = ["RUNNER_DIED", "Interrupt", "Runner"]

logger = logging.getLogger(__name__)

#: The code of a failure: the process ended without saying anything.
RUNNER_DIED = "runner-died"

#: After these the process that ran the model is gone, or has too little left.
_SPENT = (ModelProcessDied.code, ModelOutOfMemory.code)
_CHECK_EVERY = 0.5


class Interrupt(StrEnum):
    """Why a run is stopped from outside."""

    CANCELLED = "cancelled"  # somebody asked
    LOST = "lost"  # the job is another's now, or ended
    RELEASED = "released"  # the worker must stop


class Runner:
    """One runner process, started when needed and again after it died.

    The kernel kills it when the thread that started it ends, so start it from one that lives as long as it should.
    """

    def __init__(self, spec: PipelineSpec, zygote: Zygote | None = None, *, start_timeout: float = 600.0) -> None:
        self._spec = spec
        self._zygote = zygote
        self._start_timeout = start_timeout
        self._born_with: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[object, object] | None = None
        self.busy = False
        self.share: float | None = None

    @property
    def alive(self) -> bool:
        """Whether the process is up and ready for a job, and the zygote there that it was given."""
        return self._is_up() and (self._zygote is None or self._zygote.pid == self._born_with)

    def _is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id, None when there is no process."""
        return self._process.pid if self._process is not None else None

    def start(self) -> Failure | None:
        """Start the process and wait until its pipeline is made; return why it could not be."""
        self.kill()
        ours, theirs = socket.socketpair()
        with theirs:
            given = (theirs.fileno(), *([self._zygote.way().fileno()] if self._zygote else []))
            self._born_with = self._zygote.pid if self._zygote else None
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "imaging_ai.worker.runner", *map(str, given)],
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                stdout=2,
            )
        self._connection = Connection(ours.detach())
        try:
            self._connection.send(Start(os.getpid(), tuple(sys.path)))
            self._connection.send(self._spec)  # after the path by which it is understood
            ready = self._connection.recv() if self._connection.poll(self._start_timeout) else None
        except (EOFError, OSError):
            return self._death(Stage.QUEUE)
        if isinstance(ready, Ready) and ready.failure is None:
            logger.info("runner %d is ready", self._process.pid)
            return None
        self.kill()
        if isinstance(ready, Ready):
            return ready.failure
        return Failure(Stage.QUEUE, "time-limit", "the runner did not become ready in time", permanent=False)

    def run(
        self, job: Job, report: Report, check: Callable[[], Failure | Interrupt | None]
    ) -> Failure | Interrupt | None:
        """Run a job and return how it ended: None when well. `check` may stop it, and is asked twice a second.

        `share` then says which part of the memory for jobs it took, where that is known.
        """
        self.busy, self.share, stage = True, None, Stage.QUEUE

        def note(percent: int, at: Stage) -> None:
            nonlocal stage
            stage = at
            report(percent, at)

        try:
            end = self._watch(job, note, check)
        except (EOFError, OSError):
            return self._death(stage)
        except BaseException:
            self.kill()  # what it still has to say of this job would be taken for the end of the next
            raise
        finally:
            self.busy = False
        if isinstance(end, Failure) and end.code in _SPENT:
            self.kill()  # the next job waits for another before it is claimed, and has its whole time
        return end

    def _watch(
        self, job: Job, report: Report, check: Callable[[], Failure | Interrupt | None]
    ) -> Failure | Interrupt | None:
        connection = self._connection
        if connection is None:
            raise EOFError
        connection.send(Task(job.id, job.attempt))
        next_check = time.monotonic() + _CHECK_EVERY
        while True:
            if connection.poll(max(0.0, next_check - time.monotonic())):
                message = connection.recv()
                if isinstance(message, Ended):
                    self.share = message.share
                    return message.failure
                if isinstance(message, Progress):
                    report(message.percent, message.stage)
            if time.monotonic() >= next_check:
                if (stopped := check()) is not None:
                    self.kill()
                    return stopped
                if not self._is_up() and not connection.poll(0):
                    raise EOFError  # something it started still holds the socket
                next_check = time.monotonic() + _CHECK_EVERY

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _death(self, stage: Stage) -> Failure:
        process = self._process
        if process is None:
            return Failure(stage, RUNNER_DIED, "the process that ran the job was ended", permanent=False)
        try:
            code = process.wait(5.0)
        except subprocess.TimeoutExpired:
            code = 0  # it closed the socket and lives on
        self.kill()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return Failure(stage, RUNNER_DIED, f"the process that ran the job ended {how}", permanent=False)
