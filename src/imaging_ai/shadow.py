"""A new version of a model beside the old one: what the two answer to the same series is compared, and kept.

The run in the shadow keeps its results and sends none. Whichever of the two runs ends second compares them; the
outcome is in the provenance of the one in the shadow, under "agreement".
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import msgspec

from imaging_ai.agreement import compare
from imaging_ai.archive.archive import Archive
from imaging_ai.core.job import Job, JobState
from imaging_ai.logs import where
from imaging_ai.queue.annotations import annotate
from imaging_ai.queue.ledger import Ledger

__all__ = ["Report", "Shadows"]

logger = logging.getLogger(__name__)

_KEY = "agreement"
_MANY = 10_000


@dataclass(frozen=True, slots=True)
class Report:
    """How a version in the shadow did: compared runs, how many were identical, Dice by segment, largest differences.

    `dice` has (median, lowest, job of the lowest) by segment, `differences` (largest, its job) by what was measured.
    `only_in_one` counts the runs in which only one of the two had something to say.
    """

    model: str
    compared: int
    identical: int
    dice: dict[str, tuple[float, float, int]]
    differences: dict[str, tuple[float, int]]
    only_in_one: int


class Shadows:
    """Compares runs in the shadow with those that they stand behind."""

    def __init__(self, archive: Archive, ledger: Ledger) -> None:
        self._archive = archive
        self._ledger = ledger

    def note(self, job: Job, objects: Iterable[bytes | memoryview]) -> None:
        """Compare a job that has just completed with its twins that have; what goes wrong here costs no job."""
        ours = list(objects)
        try:
            for twin in self._twins(job):
                self._compare(job, ours, twin)
        except Exception as error:  # noqa: BLE001 - an edge: the job has completed, and its results must go on
            logger.warning("job %d could not be compared: %s", job.id, where(error))

    def _compare(self, job: Job, ours: Sequence[bytes | memoryview], twin: Job) -> None:
        theirs = [bytes(self._archive.read(one)) for one in self._archive.results(twin.id)]
        agreement = compare(ours, theirs)
        shadow, shown = (job, twin) if job.shadow_of else (twin, job)
        told: dict[str, Any] = {"with": shown.id, **msgspec.to_builtins(agreement)}
        annotate(self._ledger.database, shadow.id, _KEY, told)
        logger.info("job %d in the shadow of %d: %s", shadow.id, shown.id, agreement.sentence())

    def _twins(self, job: Job) -> Iterator[Job]:
        found = self._ledger.find(state=JobState.COMPLETED, study=job.study_instance_uid, limit=_MANY)
        same = (job.series_instance_uids, job.revision, job.rule)
        for other in found:
            beside = (other.series_instance_uids, other.revision, other.rule) == same and other.id != job.id
            if beside and (job.shadow_of == other.model or other.shadow_of == job.model):
                yield other

    def report(self, model: str) -> Report:
        """Say how far a version that ran in the shadow agrees with what it stood behind."""
        jobs = self._ledger.find(state=JobState.COMPLETED, model=model, limit=_MANY)
        told = [(job.id, kept) for job in jobs if isinstance(kept := job.provenance.get(_KEY), dict)]
        dice: dict[str, list[tuple[float, int]]] = defaultdict(list)
        differences: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for number, kept in told:
            for into, key in ((dice, "dice"), (differences, "differences")):
                for name, value in kept[key].items():
                    into[name].append((value, number))
        return Report(
            model,
            compared=len(told),
            identical=sum(bool(kept["identical"]) for _, kept in told),
            dice={name: (median(v for v, _ in each), *min(each)) for name, each in sorted(dice.items())},
            differences={name: max(each) for name, each in sorted(differences.items())},
            only_in_one=sum(bool(kept["only_in_one"]) for _, kept in told),
        )
