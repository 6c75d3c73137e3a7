"""What a worker and its runners say to each other, pickled over a socket that only the two have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from imaging_ai.core.job import Failure, Stage

__all__ = ["Ended", "Pipeline", "PipelineSpec", "Progress", "Ready", "Report", "Start", "Task"]

#: Called with percent and stage, as often as the pipeline likes.
Report = Callable[[int, Stage], None]


class Pipeline(Protocol):
    """What runs a job from reading its series to the commit that completes it."""

    def run(self, job_id: int, attempt: int, report: Report) -> float | None:
        """Run one attempt and return the share of the memory for jobs that it took, None where that is not known.

        It raises when it ends without results.
        """


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """How a runner makes its pipeline: ``package.module:function``, called with a value that can be pickled.

    Where the worker has a zygote, it is called with a way to that too.
    """

    factory: str
    argument: object = None


@dataclass(frozen=True, slots=True)
class Start:
    """To the runner, first: who you belong to, and where modules are. The `PipelineSpec` follows."""

    parent: int
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """From the runner: the pipeline is made, or why it is not."""

    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Task:
    """To the runner: run this attempt."""

    job_id: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Progress:
    """From the runner: how far it is."""

    percent: int
    stage: Stage


@dataclass(frozen=True, slots=True)
class Ended:
    """From the runner: the attempt has ended, well or with a failure, and took this share of the memory for jobs."""

    failure: Failure | None
    share: float | None = None
