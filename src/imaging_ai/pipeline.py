"""The whole flow of one job: read the series, run the model, encode what it found, check it, register it.

What needs no ledger is in `analysis.py`. A job's outputs appear all at once: files first, then one commit that
registers the results, completes the job and schedules the deliveries (design promise 3). That commit is refused when
the job is no longer this attempt's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
from sqlmodel import Session

from imaging_ai.agreement import Agreement, compare
from imaging_ai.analysis import Analysis, Report, analyse, refusal
from imaging_ai.archive import gate
from imaging_ai.archive.archive import Archive
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.finding import Finding
from imaging_ai.core.instance import InstanceHeader, StoredInstance
from imaging_ai.core.job import Job, JobState, Stage
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import FindingRow
from imaging_ai.encode import Predecessor
from imaging_ai.errors import ImagingAiError, NotFound, SeriesRefused, WrongState
from imaging_ai.infer.registry import Registry
from imaging_ai.queue.evaluations import keep_evaluations
from imaging_ai.queue.ledger import Ledger
from imaging_ai.send.deliveries import Deliveries
from imaging_ai.shadow import Shadows

__all__ = ["Pipeline"]

logger = logging.getLogger(__name__)

_Staged = tuple[str, BlobRef, InstanceHeader]


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
        self._shadows = Shadows(archive, ledger)

    def run(self, job_id: int, attempt: int, report: Report) -> None:
        """Run one attempt of a job to the commit that ends it; raise when there is nothing to keep."""
        job = self._ledger.get(job_id)
        analysis = self._analyse(job, report)
        report(95, Stage.REGISTER)
        self._register(job, attempt, analysis)
        if analysis.refused is None:
            self._shadows.note(job, [one.data for one in analysis.objects])

    def repeat(self, job_id: int, report: Report) -> Agreement:
        """Run a completed job again with the bundle that it is pinned to, and say whether it answers the same.

        Raises
        ------
        WrongState
            If the job has not completed.
        NotFound, BundleInvalid
            If its instances are gone, or no version of the model has the digest.
        """
        job = self._ledger.get(job_id)
        if job.state is not JobState.COMPLETED:
            raise WrongState(f"job {job_id} is {job.state}: only a completed one can be compared with itself")
        kept = [bytes(self._archive.read(one)) for one in self._archive.results(job_id)]
        return compare(kept, [one.data for one in self._analyse(job, report).objects])

    def _analyse(self, job: Job, report: Report) -> Analysis:
        report(0, Stage.READ)
        series = {name: [self._archive.read(one) for one in found] for name, found in self._inputs(job).items()}
        model = self._models.get(job.model, job.model_digest)
        remark = "shadow" if job.shadow_of else ""
        try:
            return analyse(
                series,
                model,
                report,
                job_uid=job.job_uid,
                created_at=job.created_at,
                supersedes=self._predecessors(job),
                reject_superseded=bool(job.parameters.get("reject_superseded")),
                remark=remark,
                explained=job.parameters.get("explain"),
            )
        except SeriesRefused as why:
            said = refusal(series, model.entry, why, job_uid=job.job_uid, created_at=job.created_at, remark=remark)
            if said is None:
                raise
            return said

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
                self._ledger.complete(session, job.id, attempt, analysis.provenance, analysis.refused)
                self._archive.register_results(session, job.id, staged)
                self._keep_findings(session, job, analysis.findings)
                keep_evaluations(session.connection(), job.id, analysis.evaluations)
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
