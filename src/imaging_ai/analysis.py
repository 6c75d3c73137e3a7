"""From the files of a series to the objects that say what a model made of it; no ledger, no archive.

Two callers share it: a worker's runner (`pipeline.py`) and `imaging-ai run` (a folder in, objects out).
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from imaging_ai.core.finding import Evaluation, Finding, ParametricMap
from imaging_ai.core.job import Stage
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, Predecessor, check, encode_results
from imaging_ai.explain.pictures import key_slices
from imaging_ai.infer.classify import classify, reported
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.segment import find, probability_map
from imaging_ai.infer.volume import read_volume

__all__ = ["Analysis", "Report", "analyse"]

#: Told the percentage that is done, and the stage.
Report = Callable[[int, Stage], None]

#: Packages whose version may change an answer, kept with each job (design promise 10).
_PACKAGES = ("imaging-ai", "torch", "monai", "numpy", "scipy", "pydicom", "highdicom")


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What a model made of a series: the findings, the objects that say so, and how it came about."""

    findings: tuple[Finding, ...]
    objects: tuple[EncodedObject, ...]
    provenance: dict[str, object]
    evaluations: tuple[Evaluation, ...] = ()


def analyse(
    series: Mapping[str, Iterable[bytes]],
    model: LoadedModel,
    report: Report,
    *,
    job_uid: str,
    created_at: float,
    supersedes: Sequence[Predecessor] = (),
    reject_superseded: bool = False,
    remark: str = "",
) -> Analysis:
    """Run `model` on the files of one series, or of one series for each of its inputs.

    Raises
    ------
    SeriesRefused, ModelFailed, ModelOutOfMemory
        If there is no result to be had.
    ResultInvalid
        If the objects that were made must not leave.
    """
    clock = _Clock()
    report(0, Stage.READ)
    volumes = {name: read_volume(files) for name, files in series.items()}
    first, *others = volumes.values()
    clock.lap("read")

    report(10, Stage.INFER)
    wanted = model.entry.outputs
    findings, heat, evaluations = _infer(model, volumes, job_uid, report)
    clock.lap("infer")

    heading = f"{model.entry.algorithm.name} {model.entry.version}"
    pictures = key_slices(first, findings, heading, heat) if "SC" in wanted.kinds else ()
    clock.lap("explain")

    report(80, Stage.ENCODE)
    objects = encode_results(
        first,
        findings,
        model.entry.algorithm,
        job_uid=job_uid,
        created_at=created_at,
        kinds={*wanted.kinds, "KO"} if reject_superseded else wanted.kinds,
        lines=wanted.lines,
        segmentation=wanted.segmentation,
        probability=heat.values if heat else None,
        maps=[heat] if heat else [],
        pictures=pictures,
        supersedes=supersedes,
        further_sources=others,
        remark=remark,
        evaluations=reported(evaluations, model.entry.classifier),
    )
    clock.lap("encode")

    report(90, Stage.VALIDATE)
    for one in objects:
        check(one, first)
    clock.lap("validate")
    return Analysis(tuple(findings), objects, _provenance(model, volumes, clock.seconds), evaluations)


def _infer(
    model: LoadedModel, volumes: Mapping[str, Volume], job_uid: str, report: Report
) -> tuple[tuple[Finding, ...], ParametricMap | None, tuple[Evaluation, ...]]:
    """Return what a model finds, its probability where that is wanted, and what it says of classes."""
    entry, first = model.entry, next(iter(volumes.values()))
    given = volumes if entry.inputs else first
    progress = lambda part: report(10 + int(70 * part), Stage.INFER)  # noqa: E731
    evaluations = classify(model, given, job_uid, progress)
    if entry.classifier and not entry.segments:
        return (), None, evaluations
    answer = model.answer(given, progress, probability=entry.outputs.probability)
    heat = probability_map(answer.probability, entry) if answer.probability is not None else None
    return find(answer.labels, first, entry, job_uid), heat, evaluations


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now


def _provenance(model: LoadedModel, volumes: Mapping[str, Volume], seconds: Mapping[str, float]) -> dict[str, object]:
    """What a later reader needs to explain the result and to repeat it."""
    entry = model.entry
    return {
        "model": {
            "name": entry.name,
            "version": entry.version,
            "digest": entry.digest,
            "device_uid": entry.algorithm.device_uid,
            "parameters": dict(entry.algorithm.parameters),
        },
        "out_of_distribution": None if model.unlike is None else round(model.unlike, 3),
        "notes": [*model.notes, *model.doubts, *(note for volume in volumes.values() for note in volume.notes)],
        "device": str(model.device),
        "host": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "seconds": dict(seconds),
    }
