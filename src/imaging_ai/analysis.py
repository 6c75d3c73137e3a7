"""From the files of a series to the objects that say what a model made of it; no ledger, no archive.

Two callers share it: a worker's runner (`pipeline.py`) and `imaging-ai run` (a folder in, objects out).
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from pydicom import Dataset

from imaging_ai.catalog import ModelEntry
from imaging_ai.catalog.explaining import Explaining
from imaging_ai.core.finding import Evaluation, Finding, ParametricMap
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.job import Failure, Stage
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, Predecessor, check, encode_refusal, encode_results
from imaging_ai.errors import SeriesRefused
from imaging_ai.explain.pictures import key_slices
from imaging_ai.explanations import Explained, explain
from imaging_ai.infer.classify import classify, reported
from imaging_ai.infer.detect import as_findings, detect
from imaging_ai.infer.frames import Part
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.phases import time_points
from imaging_ai.infer.segment import find, probability_map
from imaging_ai.infer.volume import read_headers, read_volume

__all__ = ["Analysis", "Report", "analyse", "refusal"]

#: Told the percentage that is done, and the stage.
Report = Callable[[int, Stage], None]

#: Packages whose version may change an answer, kept with each job (design promise 10).
_PACKAGES = ("imaging-ai", "torch", "monai", "numpy", "scipy", "captum", "pydicom", "highdicom")


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What a model made of a series: the findings, the objects that say so, and how it came about.

    `refused` says why it did not read the series; the only object is then the report of that.
    """

    findings: tuple[Finding, ...]
    objects: tuple[EncodedObject, ...]
    provenance: dict[str, object]
    evaluations: tuple[Evaluation, ...] = ()
    refused: Failure | None = None


@dataclass(frozen=True, slots=True)
class _Order:
    """What is asked for, beside the series and the model."""

    job_uid: str
    created_at: float
    supersedes: Sequence[Predecessor]
    reject_superseded: bool
    remark: str
    explaining: Explaining


def analyse(
    series: Mapping[str, Iterable[bytes | Dataset]],
    model: LoadedModel,
    report: Report,
    *,
    job_uid: str,
    created_at: float,
    supersedes: Sequence[Predecessor] = (),
    reject_superseded: bool = False,
    remark: str = "",
    explained: object = None,
) -> Analysis:
    """Run `model` on the files of one series, or of one series for each of its inputs.

    `explained` is the rule's word on explanations (`Explaining.asked`), None for the model's own.

    Raises
    ------
    SeriesRefused, ModelFailed, ModelOutOfMemory
        If there is no result to be had.
    ResultInvalid
        If the objects that were made must not leave.
    """
    report(0, Stage.READ)
    explaining = model.entry.explain.asked(explained)
    order = _Order(job_uid, created_at, supersedes, reject_superseded, remark, explaining)
    points: list[Mapping[str, Iterable[bytes | Dataset | Part]]] = [series]
    if model.reads_planes:
        points = list(time_points(series))
    return _at_once(points[0], model, report, order) if len(points) == 1 else _over_time(points, model, report, order)


def _at_once(
    series: Mapping[str, Iterable[bytes | Dataset | Part]], model: LoadedModel, report: Report, order: _Order
) -> Analysis:
    clock = _Clock()
    rank = {name: index for index, name in enumerate(model.entry.inputs)}  # the first is what results are drawn on
    volumes = {name: read_volume(series[name]) for name in sorted(series, key=lambda name: rank.get(name, 0))}
    first = next(iter(volumes.values()))
    clock.lap("read")

    report(10, Stage.INFER)
    findings, heat, evaluations = _infer(model, volumes, order.job_uid, report)
    clock.lap("infer")

    part_of_it = lambda part: report(80 + int(8 * part), Stage.EXPLAIN)  # noqa: E731
    why = explain(model, volumes, findings, evaluations, order.explaining, part_of_it)
    clock.lap("explain")

    report(88, Stage.ENCODE)
    objects = _encode(model.entry, list(volumes.values()), findings, heat, evaluations, why, order)
    clock.lap("encode")

    report(90, Stage.VALIDATE)
    for one in objects:
        check(one, first)
    clock.lap("validate")
    return Analysis(findings, objects, _provenance(model, volumes, clock.seconds, why), evaluations)


def _encode(
    entry: ModelEntry,
    volumes: Sequence[Volume],
    findings: Sequence[Finding],
    heat: ParametricMap | None,
    evaluations: Sequence[Evaluation],
    why: Explained,
    order: _Order,
) -> tuple[EncodedObject, ...]:
    first, *others = volumes
    wanted = entry.outputs
    drawn = [*findings, *as_findings(evaluations, first.grid)]
    heading = f"{entry.algorithm.name} {entry.version}"
    return encode_results(
        first,
        findings,
        entry.algorithm,
        job_uid=order.job_uid,
        created_at=order.created_at,
        kinds={*wanted.kinds, "KO"} if order.reject_superseded else wanted.kinds,
        lines=wanted.lines,
        segmentation=wanted.segmentation,
        probability=heat.values if heat else None,
        maps=[heat] if heat else [],
        pictures=key_slices(first, drawn, heading, heat) if "SC" in wanted.kinds else (),
        supersedes=order.supersedes,
        further_sources=others,
        remark=order.remark,
        evaluations=reported(evaluations, entry.classifier),
        explanations=why.explanations,
        explained_kinds=order.explaining.kinds,
    )


def _over_time(
    points: Sequence[Mapping[str, Iterable[bytes | Dataset | Part]]], model: LoadedModel, report: Report, order: _Order
) -> Analysis:
    """Run a model that reads slice by slice on each time point: objects of its own for each, on its own instances."""
    parts: list[Analysis] = []
    for index, series in enumerate(points):

        def told(percent: int, stage: Stage, done: int = index) -> None:
            report((100 * done + percent) // len(points), stage)

        at = replace(
            order,
            job_uid=derive_uid(order.job_uid, "time point", str(index + 1)),
            supersedes=order.supersedes if index == 0 else (),  # they are rejected once
            reject_superseded=order.reject_superseded and index == 0,
            remark=" ".join(filter(None, (f"time {index + 1} of {len(points)}", order.remark))),
        )
        parts.append(_at_once(series, model, told, at))
    return Analysis(
        findings=tuple(finding for part in parts for finding in part.findings),
        objects=tuple(one for part in parts for one in part.objects),
        provenance={**parts[0].provenance, **_of_all(parts), "time_points": len(points)},
        evaluations=tuple(one for part in parts for one in part.evaluations),
    )


def _of_all(parts: Sequence[Analysis]) -> dict[str, object]:
    """Put together what the time points say of themselves, each sentence once."""
    told: list[Any] = [part.provenance for part in parts]
    notes = dict.fromkeys(note for one in told for note in one["notes"])
    unlike = [one["out_of_distribution"] for one in told if one["out_of_distribution"] is not None]
    return {
        "notes": list(notes),
        "explanations": [each for one in told for each in one["explanations"]],
        "out_of_distribution": max(unlike, default=None),
    }


def refusal(
    series: Mapping[str, Iterable[bytes]],
    entry: ModelEntry,
    why: SeriesRefused,
    *,
    job_uid: str,
    created_at: float,
    remark: str = "",
) -> Analysis | None:
    """Report that a model does not read these files, where its author wants that said; None where not, or impossible.

    Raises
    ------
    ResultInvalid
        If the report that was made must not leave.
    """
    targets = [(one.label, one.property_type) for one in entry.segments]
    speaker = entry.classifier or entry.detector
    targets += [(one.label, one.finding) for one in speaker.classes] if speaker else []
    headers = read_headers(next(iter(series.values())))
    if not entry.outputs.report_refusals or not targets or headers is None:
        return None
    report = encode_refusal(
        headers, targets, why.message, entry.algorithm, job_uid=job_uid, created_at=created_at, remark=remark
    )
    check(report, headers)
    failure = Failure(Stage.READ, why.reason, why.message, permanent=True)
    return Analysis((), (report,), {"model": _identity(entry)}, refused=failure)


def _infer(
    model: LoadedModel, volumes: Mapping[str, Volume], job_uid: str, report: Report
) -> tuple[tuple[Finding, ...], ParametricMap | None, tuple[Evaluation, ...]]:
    """Return what a model finds, its probability where that is wanted, and what it says of classes or of boxes."""
    entry, first = model.entry, next(iter(volumes.values()))
    given = volumes if entry.inputs else first
    progress = lambda part: report(10 + int(70 * part), Stage.INFER)  # noqa: E731
    evaluations = (detect if entry.detector else classify)(model, given, job_uid, progress)
    if (entry.classifier or entry.detector) and not entry.segments:
        return (), None, evaluations
    answer = model.answer(given, progress, probability=entry.outputs.probability)
    heat = probability_map(answer.probability, entry) if answer.probability is not None else None
    notes: list[str] = []
    findings = find(answer.labels, first, entry, job_uid, notes.append)
    model.how = (*model.how, *notes)
    return findings, heat, evaluations


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now


def _provenance(
    model: LoadedModel, volumes: Mapping[str, Volume], seconds: Mapping[str, float], why: Explained
) -> dict[str, object]:
    """What a later reader needs to explain the result and to repeat it."""
    return {
        "model": _identity(model.entry),
        "out_of_distribution": None if model.unlike is None else round(model.unlike, 3),
        "notes": [
            *model.notes,
            *model.together,
            *model.how,
            *model.doubts,
            *(note for volume in volumes.values() for note in volume.notes),
            *why.notes,
        ],
        "explanations": list(why.record),
        "device": str(model.device),
        "host": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "seconds": dict(seconds),
    }


def _identity(entry: ModelEntry) -> dict[str, object]:
    return {
        "name": entry.name,
        "version": entry.version,
        "digest": entry.digest,
        "device_uid": entry.algorithm.device_uid,
        "parameters": dict(entry.algorithm.parameters),
    }
