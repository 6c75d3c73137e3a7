"""The whole flow of one job: read the series, run the model, encode what it found, check it, register it.

Two callers share it: a worker's runner (`Pipeline.run`, with the ledger) and `imaging-ai run` (`analyse`, a folder in,
objects out). A job's outputs appear all at once: files first, then one commit that registers the results, completes the
job and schedules the deliveries (design promise 3). That commit is refused when the job is no longer this attempt's.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import msgspec
from sqlmodel import Session

from imaging_ai.archive import gate
from imaging_ai.archive.archive import Archive
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.finding import Finding
from imaging_ai.core.instance import InstanceHeader, StoredInstance
from imaging_ai.core.job import Job, Stage
from imaging_ai.core.volume import Volume
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import FindingRow
from imaging_ai.encode import EncodedObject, Predecessor, check, encode_results
from imaging_ai.errors import ImagingAiError, NotFound
from imaging_ai.explain.pictures import key_slices
from imaging_ai.infer.bundle import LoadedModel
from imaging_ai.infer.registry import Registry
from imaging_ai.infer.segment import find, probability_map
from imaging_ai.infer.volume import read_volume
from imaging_ai.queue.ledger import Ledger
from imaging_ai.send.deliveries import Deliveries

__all__ = ["Analysis", "Pipeline", "Report", "analyse"]

logger = logging.getLogger(__name__)

#: Told the percentage that is done, and the stage.
Report = Callable[[int, Stage], None]

#: Packages whose version may change an answer, kept with each job (design promise 10).
_PACKAGES = ("imaging-ai", "torch", "monai", "numpy", "scipy", "pydicom", "highdicom")

_Staged = tuple[str, BlobRef, InstanceHeader]


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What a model made of a series: the findings, the objects that say so, and how it came about."""

    findings: tuple[Finding, ...]
    objects: tuple[EncodedObject, ...]
    provenance: dict[str, object]


def analyse(
    series: Mapping[str, Iterable[bytes]],
    model: LoadedModel,
    report: Report,
    *,
    job_uid: str,
    created_at: float,
    supersedes: Sequence[Predecessor] = (),
    reject_superseded: bool = False,
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
    answer = model.answer(
        volumes if model.entry.inputs else first,
        lambda part: report(10 + int(70 * part), Stage.INFER),
        probability="PM" in wanted.kinds,
    )
    findings = find(answer.labels, first, model.entry, job_uid)
    heat = probability_map(answer.probability, model.entry) if answer.probability is not None else None
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
        maps=[heat] if heat else [],
        pictures=pictures,
        supersedes=supersedes,
        further_sources=others,
    )
    clock.lap("encode")

    report(90, Stage.VALIDATE)
    for one in objects:
        check(one, first)
    clock.lap("validate")
    return Analysis(tuple(findings), objects, _provenance(model, volumes, clock.seconds))


class Pipeline:
    """Runs jobs of the ledger from the archive back into the archive. One job at a time."""

    def __init__(
        self, database: Database, archive: Archive, ledger: Ledger, deliveries: Deliveries, models: Registry
    ) -> None:
        self._database = database
        self._archive = archive
        self._ledger = ledger
        self._deliveries = deliveries
        self._models = models

    def run(self, job_id: int, attempt: int, report: Report) -> None:
        """Run one attempt of a job to the commit that completes it; raise when it ends without results."""
        job = self._ledger.get(job_id)
        report(0, Stage.READ)
        series = {name: [self._archive.read(one) for one in found] for name, found in self._inputs(job).items()}
        report(5, Stage.INFER)
        model = self._models.get(job.model, job.model_digest)
        analysis = analyse(
            series,
            model,
            report,
            job_uid=job.job_uid,
            created_at=job.created_at,
            supersedes=self._predecessors(job),
            reject_superseded=bool(job.parameters.get("reject_superseded")),
        )
        report(95, Stage.REGISTER)
        self._register(job, attempt, analysis)

    def _inputs(self, job: Job) -> dict[str, list[StoredInstance]]:
        """Find the instances that the job was made for, by input name ("image" when there is one series)."""
        channels = job.parameters.get("channels")
        named = channels if isinstance(channels, dict) else {"image": job.series_instance_uids[0]}
        wanted = set(job.inputs)
        found = {
            str(name): [
                one
                for one in self._archive.instances(str(uid), job.study_instance_uid)
                if one.sop_instance_uid in wanted
            ]
            for name, uid in named.items()
        }
        if missing := len(wanted) - sum(len(instances) for instances in found.values()):
            raise NotFound(f"{missing} of the {len(wanted)} instances that the job was made for are gone")
        return found

    def _predecessors(self, job: Job) -> list[Predecessor]:
        """Find the objects of the run that this one supersedes (design promise 7)."""
        older = self._ledger.predecessor(job)
        return [
            Predecessor(one.study_instance_uid, one.series_instance_uid, one.sop_class_uid, one.sop_instance_uid)
            for one in (self._archive.results(older.id) if older else ())
        ]

    def _register(self, job: Job, attempt: int, analysis: Analysis) -> None:
        staged: list[_Staged] = []
        in_doubt = False
        try:
            for one in analysis.objects:
                header = gate.scan(one.data, size=len(one.data))
                staged.append((one.kind, self._archive.store.put(one.data), header))
            with self._database.write() as session:
                self._ledger.complete(session, job.id, attempt, analysis.provenance)
                self._archive.register_results(session, job.id, staged)
                self._keep_findings(session, job, analysis.findings)
                uids = [one.sop_instance_uid for one in analysis.objects]
                self._deliveries.schedule(session, job.id, uids, job.destinations)
                in_doubt = True  # from here on the commit may go through although its answer is lost
        except BaseException:
            if not in_doubt:  # else rows may name these files, and recovery decides
                self._withdraw(staged)
            raise

    def _withdraw(self, staged: Sequence[_Staged]) -> None:
        """Remove files that no row will name."""
        for _, blob, _ in staged:
            try:
                self._archive.store.delete(blob)
            except ImagingAiError as error:
                logger.warning("a result that is not registered was left for recovery: %s", error)

    @staticmethod
    def _keep_findings(session: Session, job: Job, findings: Sequence[Finding]) -> None:
        for finding in findings:
            kind = finding.description.property_type
            session.add(
                FindingRow(
                    job_id=job.id,
                    tracking_uid=finding.tracking_uid,
                    segment_number=finding.segment_number,
                    label=finding.description.label,
                    type_code=kind.value,
                    type_scheme=kind.scheme_designator,
                    type_meaning=kind.meaning,
                    found=finding.found,
                    measurements=msgspec.json.encode(finding.measurements).decode(),
                )
            )


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
        "notes": [*model.notes, *(note for volume in volumes.values() for note in volume.notes)],
        "device": str(model.device),
        "host": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "seconds": dict(seconds),
    }
