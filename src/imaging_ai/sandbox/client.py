"""The way to a model, from the side that may read patients' data: an order and a series in, an answer out.

Of what a model's process says nothing is trusted further than its types: what it claims to have made is looked at again
before it is registered (`pipeline.py`).
"""

from __future__ import annotations

import atexit
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import imaging_ai
from imaging_ai.catalog import ModelEntry
from imaging_ai.errors import ModelProcessDied
from imaging_ai.sandbox.confine import Mode, Walls, Within, python_folders
from imaging_ai.sandbox.forked import Zygote
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
from imaging_ai.sandbox.snapshot import Home, snapshot
from imaging_ai.sandbox.watch import has_gpu, memory_share

__all__ = ["Sandbox"]

logger = logging.getLogger(__name__)

#: What the process may write, in memory that is its own.
_SCRATCH_BYTES = 256 << 20
#: Instead of a digest: the process in which no model has run yet.
_ANY = ""


@dataclass(slots=True, eq=False)
class _Process:
    """A process that runs models, with the folder that is its alone."""

    running: Running
    home: Home
    walls: Walls | None = None
    on_gpu: int = 0

    def end(self) -> None:
        self.running.end()
        self.home.leave()


class Sandbox:
    """Processes that run models, one for each, forked when needed and again after they ended; they stay warm.

    `folder` is where their private folders lie, `memory_bytes` what each may hold (0: a share of this machine's).
    Those that were used last stay, as long as all of them hold no more than the `memory_budget` of the `spec`. They end
    with this process; so does the `zygote` that they come from, unless another shares its own.
    """

    def __init__(
        self, spec: Spec, folder: Path, *, mode: Mode = "best", memory_bytes: int = 0, zygote: Zygote | None = None
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._mode = mode
        self._memory_bytes = memory_bytes or memory_share()
        self._zygote = zygote or Zygote(heard=mode == "off")
        self._processes: OrderedDict[str, _Process] = OrderedDict()  # by digest; those used last come last
        self._told: Walls | None = None
        atexit.register(self.close)

    @property
    def pids(self) -> dict[str, int | None]:
        """The process ids by the digest of the model that runs there; "" is one in which none has run yet."""
        return {digest: one.running.pid for digest, one in self._processes.items()}

    def start(self) -> None:
        """Start a process that any model may have; `ready` waits for it."""
        self._end(_ANY)
        home = Home(self._folder)
        within = Within(
            mode=self._mode,
            read=(*python_folders(Path(imaging_ai.__file__).parent), str(home.bundles)),
            scratch=str(home.scratch),
            scratch_bytes=_SCRATCH_BYTES,
            memory_bytes=self._memory_bytes,
            gpu=has_gpu(self._spec.device),
        )
        begin = Begin(self._spec, logging.getLogger().getEffectiveLevel())
        try:
            self._processes[_ANY] = _Process(Running(self._zygote, within, begin, home.path), home)
        except ModelProcessDied:
            home.leave()
            raise

    def ready(self) -> Walls:
        """Wait until a process is up that any model may have, starting it if need be; return which walls stand.

        Raises
        ------
        ConfigError
            If the settings cannot be met here.
        ModelProcessDied
            If it ended.
        """
        if _ANY not in self._processes or not self._processes[_ANY].running.alive:
            self.start()
        process = self._processes[_ANY]
        if process.walls is None:
            ready, _ = process.running.hear(_ignore)
            if not isinstance(ready, Ready):
                raise self._nonsense(_ANY)
            process.walls = ready.walls
            self._say(ready.walls)
        return process.walls

    def close(self) -> None:
        """End the processes and remove what they had."""
        for digest in list(self._processes):
            self._end(digest)
        self._zygote.end()

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
        process, bundle = self._given(entry, digest)
        descriptor, lengths = pack(series)
        try:
            message = Task(entry.name, str(bundle), digest, lengths, order)
            answered, parts = self._asked(process, digest, message, report, descriptor)
        finally:
            os.close(descriptor)
        objects = tuple(Made.of(kind, data) for kind, data in zip(answered.kinds, parts, strict=True))
        share = self._share(process.running.held().most, answered.on_gpu)
        self._make_room()
        return Answer(answered.findings, objects, answered.provenance, answered.evaluations, answered.refused, share)

    def check(self, entry: ModelEntry, *, trial: bool) -> Checked:
        """Load a model, and run it on a phantom where that is wanted; raises as `analyse` does."""
        process, bundle = self._given(entry, entry.digest)
        message = Check(entry.name, str(bundle), entry.digest, trial)
        answered, _ = self._asked(process, entry.digest, message, _ignore)
        if answered.checked is None:
            raise self._nonsense(entry.digest)
        self._make_room()
        return answered.checked

    def features(self, entry: ModelEntry, series: Series, layer: str = "") -> tuple[str, tuple[float, ...]]:
        """Return a layer, the deepest when it is not named, and what it answers to a series; raises as `analyse`."""
        process, bundle = self._given(entry, entry.digest)
        descriptor, lengths = pack(series)
        try:
            message = Learn(entry.name, str(bundle), entry.digest, lengths, layer)
            answered, _ = self._asked(process, entry.digest, message, _ignore, descriptor)
        finally:
            os.close(descriptor)
        if answered.features is None:
            raise self._nonsense(entry.digest)
        self._make_room()
        return answered.features

    def _given(self, entry: ModelEntry, digest: str) -> tuple[_Process, Path]:
        """Return the process in which the bundle that has `digest` runs, and nothing else has run; and its copy."""
        if digest not in self._processes or not self._processes[digest].running.alive:
            self._end(digest)
            self.ready()
            bundle = snapshot(entry, digest, self._processes[_ANY].home.bundles)
            self._processes[digest] = self._processes.pop(_ANY)
        else:
            bundle = snapshot(entry, digest, self._processes[digest].home.bundles)
            self._processes.move_to_end(digest)
        return self._processes[digest], bundle

    def _asked(
        self,
        process: _Process,
        digest: str,
        message: Task | Check | Learn,
        report: Report,
        descriptor: int | None = None,
    ) -> tuple[Answered, list[bytes | memoryview]]:
        try:
            process.running.tell(message, descriptor)
            answered, parts = process.running.hear(report)
        finally:
            if not process.running.alive:
                self._end(digest)
        if not isinstance(answered, Answered):
            raise self._nonsense(digest)
        process.on_gpu = max(0, answered.on_gpu[0])
        return answered, parts

    def _share(self, most: int, on_gpu: tuple[int, int, int]) -> float | None:
        """Return the part of the memory that is for jobs, and not for models that stay, which a run took at most."""
        for_jobs = [(most, self._memory_bytes), (on_gpu[1], on_gpu[2])]
        known = [(took, whole - self._spec.memory_budget) for took, whole in for_jobs if whole > 0]
        if not most or any(whole <= 0 for _, whole in known):
            return None
        return max(took / whole for took, whole in known)

    def _make_room(self) -> None:
        """End processes, those used least recently first, while all hold more than they may; the last one stays."""
        held = {digest: one.running.held().own + one.on_gpu for digest, one in self._processes.items()}
        for digest in list(self._processes)[:-1]:
            if sum(held.values()) <= self._spec.memory_budget:
                return
            logger.info("dropped model %s to make room", digest[:12] or "none")
            held.pop(digest)
            self._end(digest)

    def _end(self, digest: str) -> None:
        if (process := self._processes.pop(digest, None)) is not None:
            process.end()

    def _nonsense(self, digest: str) -> ModelProcessDied:
        self._end(digest)
        return ModelProcessDied("the process that ran the model answered another question, and was ended")

    def _say(self, walls: Walls) -> None:
        """Tell what holds the process back: once, and when that has changed."""
        if walls != self._told and self._mode != "off":
            level = logging.WARNING if walls.missing else logging.INFO
            logger.log(level, "models are confined: %s", walls.sentence())
        self._told = walls


def _ignore(_percent: int, _stage: object) -> None:
    pass
