"""The way to a model, from the side that may read patients' data: an order and a series in, an answer out.

Of what a model's process says nothing is trusted further than its types: what it claims to have made is looked at again
before it is registered (`pipeline.py`).
"""

from __future__ import annotations

import atexit
import logging
import os
from pathlib import Path

import imaging_ai
from imaging_ai.catalog import ModelEntry
from imaging_ai.errors import ModelProcessDied
from imaging_ai.sandbox.confine import Mode, Walls, Within, python_folders
from imaging_ai.sandbox.messages import (
    Answer,
    Answered,
    Begin,
    Check,
    Checked,
    Learn,
    Made,
    Order,
    Ready,
    Report,
    Series,
    Spec,
    Task,
)
from imaging_ai.sandbox.running import Running
from imaging_ai.sandbox.series import pack
from imaging_ai.sandbox.snapshot import Home, has_code, snapshot
from imaging_ai.sandbox.watch import has_gpu, memory_share

__all__ = ["Sandbox"]

logger = logging.getLogger(__name__)

#: What the process may write, in memory that is its own.
_SCRATCH_BYTES = 256 << 20


class Sandbox:
    """One process that runs models, started when needed and again after it ended; it stays warm between jobs.

    `folder` is where its private folder lies, `memory_bytes` what it may hold (0: a share of this machine's). The
    kernel kills the process when the thread that started it ends, so use it from one that lives as long as it should.
    """

    def __init__(self, spec: Spec, folder: Path, *, mode: Mode = "best", memory_bytes: int = 0) -> None:
        self._spec = spec
        self._folder = folder
        self._mode = mode
        self._memory_bytes = memory_bytes or memory_share()
        self._running: Running | None = None
        self._home: Home | None = None
        self._walls: Walls | None = None
        self._told: Walls | None = None
        self._code: str | None = None
        atexit.register(self.close)

    @property
    def pid(self) -> int | None:
        """The process id, None when there is no process."""
        return self._running.pid if self._running else None

    def start(self) -> None:
        """Start the process; `ready` waits for it."""
        self.close()
        home = self._home = Home(self._folder)
        within = Within(
            mode=self._mode,
            parent=os.getpid(),
            read=(*python_folders(Path(imaging_ai.__file__).parent), str(home.bundles)),
            scratch=str(home.scratch),
            scratch_bytes=_SCRATCH_BYTES,
            memory_bytes=self._memory_bytes,
            gpu=has_gpu(self._spec.device),
        )
        self._running = Running(within, Begin(self._spec, logging.getLogger().getEffectiveLevel()), home)

    def ready(self) -> Walls:
        """Wait until the process is up, starting it if need be, and return which walls stand.

        Raises
        ------
        ConfigError
            If the settings cannot be met here.
        ModelProcessDied
            If it ended.
        """
        if self._running is None or not self._running.alive:
            self.start()
        assert self._running is not None
        if self._walls is None:
            ready, _ = self._running.hear(_ignore)
            if not isinstance(ready, Ready):
                raise self._nonsense()
            self._walls = ready.walls
            self._say(ready.walls)
        return self._walls

    def close(self) -> None:
        """End the process and remove what it had."""
        if self._running is not None:
            self._running.end()
        if self._home is not None:
            self._home.leave()
        self._running = self._home = self._walls = self._code = None

    def analyse(self, entry: ModelEntry, digest: str, series: Series, order: Order, report: Report) -> Answer:
        """Run the bundle that has `digest` on the files of one series, or of one for each of its inputs.

        Raises
        ------
        BundleInvalid
            If the bundle on disk has another digest, or cannot be loaded.
        ModelProcessDied, ModelOutOfMemory
            If the process ended, or grew too large; the next call has another.
        SeriesRefused, ModelFailed, ResultInvalid
            If there is no result to be had.
        """
        bundle = self._given(entry, digest)
        descriptor, lengths = pack(series)
        try:
            answered, parts = self._asked(Task(entry.name, str(bundle), digest, lengths, order), report, descriptor)
        finally:
            os.close(descriptor)
        objects = tuple(Made.of(kind, data) for kind, data in zip(answered.kinds, parts, strict=True))
        return Answer(answered.findings, objects, answered.provenance, answered.evaluations, answered.refused)

    def check(self, entry: ModelEntry, *, trial: bool) -> Checked:
        """Load a model, and run it on a phantom where that is wanted; raises as `analyse` does."""
        bundle = self._given(entry, entry.digest)
        answered, _ = self._asked(Check(entry.name, str(bundle), entry.digest, trial), _ignore)
        if answered.checked is None:
            raise self._nonsense()
        return answered.checked

    def features(self, entry: ModelEntry, series: Series, layer: str = "") -> tuple[str, tuple[float, ...]]:
        """Return a layer, the deepest when it is not named, and what it answers to a series; raises as `analyse`."""
        bundle = self._given(entry, entry.digest)
        descriptor, lengths = pack(series)
        try:
            message = Learn(entry.name, str(bundle), entry.digest, lengths, layer)
            answered, _ = self._asked(message, _ignore, descriptor)
        finally:
            os.close(descriptor)
        if answered.features is None:
            raise self._nonsense()
        return answered.features

    def _given(self, entry: ModelEntry, digest: str) -> Path:
        """Return the copy of a bundle that the process is to run, in a process where no other's own code has run."""
        self.ready()
        assert self._home is not None
        bundle = snapshot(entry, digest, self._home.bundles)
        code = digest if self._spec.allow_scripts and has_code(bundle) else ""
        if self._code not in (None, code):
            self.start()
            self.ready()
            bundle = snapshot(entry, digest, self._home.bundles)
        self._code = code
        return bundle

    def _asked(
        self, message: Task | Check | Learn, report: Report, descriptor: int | None = None
    ) -> tuple[Answered, list[bytes]]:
        assert self._running is not None
        self._running.tell(message, descriptor)
        answered, parts = self._running.hear(report)
        if not isinstance(answered, Answered):
            raise self._nonsense()
        return answered, parts

    def _nonsense(self) -> ModelProcessDied:
        self.close()
        return ModelProcessDied("the process that ran the model answered another question, and was ended")

    def _say(self, walls: Walls) -> None:
        """Tell what holds the process back: once, and when that has changed."""
        if walls != self._told and self._mode != "off":
            level = logging.WARNING if walls.missing else logging.INFO
            logger.log(level, "models are confined: %s", walls.sentence())
        self._told = walls


def _ignore(_percent: int, _stage: object) -> None:
    pass
