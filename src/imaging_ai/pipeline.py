"""The whole flow of one job: read the series, run the model, encode what it found, check it, register it.

This process may read the archive and write the ledger, and so runs no model: that is another's (`sandbox/`). What it
says is looked at before it is registered. A job's outputs appear all at once: files first, then one commit that
registers the results, completes the job and schedules the deliveries (design promise 3). That commit is refused when
the job is no longer this attempt's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from sqlmodel import Session

from imaging_ai.agreement import Agreement, compare
from imaging_ai.archive import gate
from imaging_ai.archive.archive import Archive
from imaging_ai.catalog import Catalog
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import InstanceHeader, StoredInstance
from imaging_ai.core.job import Job, JobState, Stage
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import FindingRow
from imaging_ai.errors import ImagingAiError, NotFound, ResultInvalid, WrongState
from imaging_ai.queue.evaluations import keep_evaluations
from imaging_ai.queue.ledger import Ledger
from imaging_ai.sandbox.messages import Analyst, Answer, Found, Made, Order, Report
from imaging_ai.send.deliveries import Deliveries
from imaging_ai.shadow import Shadows

__all__ = ["Pipeline"]

logger = logging.getLogger(__name__)

_Staged = tuple[str, BlobRef, InstanceHeader]


class Pipeline:
    """Runs jobs of the ledger from the archive back into the archive. One job at a time."""

    def __init__(
        self,
        database: Database,
        archive: Archive,
        ledger: Ledger,
        deliveries: Deliveries,
        catalog: Catalog,
        analyst: Analyst,
    ) -> None:
        self._database = database
        self._archive = archive
        self._ledger = ledger
        self._deliveries = deliveries
        self._catalog = catalog
        self._analyst = analyst
        self._shadows = Shadows(archive, ledger)

    def run(self, job_id: int, attempt: int, report: Report) -> float | None:
        """Run one attempt of a job to the commit that ends it; raise when there is nothing to keep.

        What is returned is the share of the memory for jobs that it took, where that was measured.
        """
        job = self._ledger.get(job_id)
        answer = self._analyse(job, report)
        report(95, Stage.REGISTER)
        self._register(job, attempt, answer)
        if answer.refused is None:
            self._shadows.note(job, [one.data for one in answer.objects])
        return answer.share

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

    def _analyse(self, job: Job, report: Report) -> Answer:
        report(0, Stage.READ)
        entry, explained = self._catalog.pinned(job.model, job.model_digest), job.parameters.get("explain")
        entry.explain.asked(explained)  # refuses what is no such wish
        inputs = self._inputs(job)
        order = Order(
            job_uid=job.job_uid,
            created_at=job.created_at,
            supersedes=self._predecessors(job),
            reject_superseded=bool(job.parameters.get("reject_superseded")),
            remark="shadow" if job.shadow_of else "",
            explained=explained,  # type: ignore[arg-type]
        )
        series = {name: (self._archive.read(one) for one in found) for name, found in inputs.items()}
        answer = self._analyst.analyse(entry, job.model_digest, series, order, report)
        for one in answer.objects:
            self._require_ours(one, job, inputs)
        return answer

    def _require_ours(self, made: Made, job: Job, inputs: Mapping[str, Sequence[StoredInstance]]) -> None:
        """Refuse an object that is not of the study and the patient of its job: a model could have been made to lie."""
        of_another = made.header.study_instance_uid != job.study_instance_uid
        patient = made.header.patient_id.strip()
        if of_another or all(patient != one for found in inputs.values() for one in self._patients(found)):
            raise ResultInvalid(f"the model's process made an object of another {'study' if of_another else 'patient'}")

    def _patients(self, instances: Sequence[StoredInstance]) -> Iterator[str]:
        for one in instances:
            yield gate.scan(self._archive.read(one)).patient_id.strip()

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

    def _predecessors(self, job: Job) -> tuple[tuple[str, str, str, str], ...]:
        """Find the objects of the run that this one supersedes (design promise 7)."""
        older = self._ledger.predecessor(job)
        return tuple(
            (one.study_instance_uid, one.series_instance_uid, one.sop_class_uid, one.sop_instance_uid)
            for one in (self._archive.results(older.id) if older else ())
        )

    def _register(self, job: Job, attempt: int, answer: Answer) -> None:
        staged: list[_Staged] = []
        in_doubt = False
        try:
            for one in answer.objects:
                staged.append((one.kind, self._archive.store.put(one.data), one.header))
            with self._database.write() as session:
                self._ledger.complete(session, job.id, attempt, answer.provenance, answer.refused)
                self._archive.register_results(session, job.id, staged)
                self._keep_findings(session, job, answer.findings)
                keep_evaluations(session.connection(), job.id, answer.evaluations)
                uids = [one.sop_instance_uid for one in answer.objects]
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
    def _keep_findings(session: Session, job: Job, findings: Sequence[Found]) -> None:
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
