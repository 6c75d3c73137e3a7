"""Running jobs: claim one, have a runner run it, watch it, and write down how it ended."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imaging_ai import metrics
from imaging_ai.core.job import FINAL_STATES, Failure, Job, JobState, Stage
from imaging_ai.errors import ModelOutOfMemory, NotFound, UnavailableError
from imaging_ai.logs import bound
from imaging_ai.queue.ledger import Ledger
from imaging_ai.sandbox.forked import Zygote
from imaging_ai.worker.admission import Admission
from imaging_ai.worker.child import RUNNER_DIED, Interrupt, Runner
from imaging_ai.worker.failures import Outage
from imaging_ai.worker.messages import PipelineSpec, Report

__all__ = ["Inference", "Limits"]

logger = logging.getLogger(__name__)

_WRITE_PROGRESS_EVERY = 0.5
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a job may go: seconds, by job. What a model may hold is bounded where it runs (`sandbox/`)."""

    seconds: Callable[[Job], float] = lambda _job: 3600.0


class Inference:
    """The step of an inference lane, and the runners that it uses, one for each thread of the lane.

    A runner is started before a job is claimed: while one worker is still importing, another that is warm takes it.
    """

    def __init__(
        self,
        ledger: Ledger,
        owner: str,
        queues: Sequence[str],
        spec: PipelineSpec,
        *,
        zygote: Zygote | None = None,
        warm_up: bool,
        lease_seconds: float,
        limits: Limits,
        ring: Callable[[str], None],
        on_complete: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._owner = owner
        self._queues = tuple(queues)
        self._lease_seconds = lease_seconds
        self._limits = limits
        self._ring = ring
        self._on_complete = on_complete
        self._spec = spec
        self._zygote = zygote
        self._admission = Admission()
        self._warm_up = warm_up
        self._mine = threading.local()
        self._runners: list[Runner] = []
        self._running: dict[int, Job] = {}
        self._outage = Outage(logger, "the watch over running jobs")
        self._release_at = float("inf")
        self._start_after, self._pause = 0.0, _FIRST_PAUSE

    @property
    def running(self) -> tuple[int, ...]:
        """The jobs that run here now."""
        return tuple(self._running)

    def step(self) -> bool:
        """Claim and run one job; say whether there was one."""
        runner = self._runner()
        if not runner.alive and not (self._work_waits() and self._start(runner)):
            return False
        job = self._ledger.claim(self._queues, self._owner, self._lease_seconds)
        if job is None:
            return False
        self._running[job.id] = job
        with bound(job=job.id):
            self._run(runner, job)
        return True

    def prepare(self) -> None:
        """Start a runner that is down, if runners shall be warm, so that the next job need not wait for it."""
        if self._warm_up and not self._runner().alive:
            self._start(self._runner())

    def stop(self, grace_seconds: float) -> None:
        """Let running jobs end for so long, then give them back."""
        self._release_at = time.monotonic() + grace_seconds
        for runner in self._runners:
            if not runner.busy:
                runner.kill()

    def close(self) -> None:
        """End the runners."""
        for runner in self._runners:
            runner.kill()
        if self._zygote is not None:
            self._zygote.end()

    def _stopping(self) -> bool:
        return self._release_at < float("inf")

    def _runner(self) -> Runner:
        # One for each thread: the kernel kills a runner when the thread that started it ends.
        if not hasattr(self._mine, "runner"):
            self._mine.runner = Runner(self._spec, self._zygote)
            self._runners.append(self._mine.runner)
        runner: Runner = self._mine.runner
        return runner

    def _work_waits(self) -> bool:
        return bool(set(self._ledger.due_queues()) & set(self._queues))

    def _start(self, runner: Runner) -> bool:
        if self._stopping() or time.monotonic() < self._start_after:
            return False
        failure = runner.start()
        if failure is None:
            self._pause = _FIRST_PAUSE
            return True
        if self._stopping():
            return False
        logger.error("no runner, trying again in %.0f s: %s (%s)", self._pause, failure.reason, failure.code)
        self._start_after = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return False

    def _run(self, runner: Runner, job: Job) -> None:
        self._ring(job.queue)  # there may be more, for others
        written, written_at = (-1, Stage.QUEUE), 0.0

        def report(percent: int, stage: Stage) -> None:
            nonlocal written, written_at
            if stage == written[1] and time.monotonic() < written_at + _WRITE_PROGRESS_EVERY:
                return
            written, written_at = (percent, stage), time.monotonic()
            with self._outage.tolerated():
                self._ledger.progress(job.id, job.attempt, percent, stage)

        try:
            end = self._admit(runner, job, report)
            if self._stopping() and isinstance(end, Failure) and end.code == RUNNER_DIED:
                end = Interrupt.RELEASED  # it was ended with the worker
            outcome = self._insist(lambda: self._settle(job, end))
        finally:
            del self._running[job.id]
        metrics.JOBS.labels(job.model, outcome).inc()

    def _admit(self, runner: Runner, job: Job, report: Report) -> Failure | Interrupt | None:
        """Run a job as soon as it fits in beside those that run; only from then on its time counts."""
        limit = self._limits.seconds(job)
        with self._admission.admitted(job, lambda: self._check(job, math.inf, limit)) as stopped:
            if stopped is not None:
                return stopped
            logger.info("attempt %d begins", job.attempt)
            started = time.monotonic()
            end = runner.run(job, report, lambda: self._check(job, started, limit))
            too_much = isinstance(end, Failure) and end.code == ModelOutOfMemory.code
            self._admission.took(job, runner.share, too_much=too_much)
        metrics.JOB_SECONDS.labels(job.model).observe(time.monotonic() - started)
        return end

    def _check(self, job: Job, started: float, limit: float) -> Failure | Interrupt | None:
        now = time.monotonic()
        if now >= self._release_at:
            return Interrupt.RELEASED
        if now - started > limit:
            return Failure(Stage.INFER, "time-limit", f"the job took longer than its {limit:g} seconds", permanent=True)
        try:
            return self._asked_to_stop(self._ledger.get(job.id), job)
        except UnavailableError:
            return None  # nobody can ask; the sweep tells of the outage

    def _asked_to_stop(self, now: Job, job: Job) -> Interrupt | None:
        if now.attempt != job.attempt or now.state in (JobState.SCHEDULED, JobState.CANCELED):
            return Interrupt.LOST
        if now.cancel_requested and now.state is JobState.IN_PROGRESS:
            return Interrupt.CANCELLED
        return None

    def _settle(self, job: Job, end: Failure | Interrupt | None) -> str:
        """Write down how a job ended, and say it in a word: `refused` has a report of why, and nothing else."""
        if isinstance(end, Failure):
            state = self._ledger.fail(job.id, job.attempt, end)
            logger.warning("attempt %d failed (%s: %s), the job is %s", job.attempt, end.code, end.reason, state)
        elif end is Interrupt.CANCELLED:
            self._ledger.stopped(job.id, job.attempt)
            logger.info("stopped as asked")
        elif end is Interrupt.RELEASED:
            self._ledger.release(job.id, job.attempt)
            logger.info("given back: this worker stops")
        elif end is Interrupt.LOST:
            logger.warning("attempt %d was not ours any more", job.attempt)
        elif (state := self._ledger.get(job.id).state) in FINAL_STATES:
            logger.info("ended with results: %s", state)
            self._on_complete()
            return "completed" if state is JobState.COMPLETED else "refused"
        else:
            end = Failure(Stage.REGISTER, "incomplete", "the pipeline ended without completing", permanent=True)
            self._ledger.fail(job.id, job.attempt, end)
        return end.code if isinstance(end, Failure) else end.value

    def _insist(self, write: Callable[[], str]) -> str:
        pause = 0.2
        while True:
            try:
                return write()
            except NotFound:
                return "deleted"
            except UnavailableError as error:
                if time.monotonic() >= self._release_at:
                    raise
                logger.warning("cannot write how the job ended, trying again: %s", error)
            time.sleep(pause)
            pause = min(pause * 2, 5.0)
