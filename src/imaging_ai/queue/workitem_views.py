"""Jobs and work items as the data sets that PS3.4 Table CC.2.5-3 returns (N-GET, C-FIND).

A job is a work item under its Job UID. One that a client asked for keeps what the client said, and gets from the job
its state, progress and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, Table, select
from sqlmodel import SQLModel

from imaging_ai.core.job import FINAL_STATES, Job, JobState
from imaging_ai.errors import Gone, NotFound
from imaging_ai.queue.rows import job_from, jobs
from imaging_ai.queue.workitem_elements import Elements, code, elements, moment, said
from imaging_ai.queue.workitem_news import SCHEME, progress_of, reason_codes, station_of, ups_state
from imaging_ai.queue.workitem_rules import UPS_PUSH
from imaging_ai.queue.workitem_runs import ALGORITHM_NAME

__all__ = ["Views", "WorkItem", "find", "work_items"]

work_items: Table = SQLModel.metadata.tables["work_item"]
_STUDY: Table = SQLModel.metadata.tables["study"]
_SERIES: Table = SQLModel.metadata.tables["series"]
_INSTANCE: Table = SQLModel.metadata.tables["instance"]
_RESULT: Table = SQLModel.metadata.tables["result"]

#: Worklist Label (0074,1202) of what rules have scheduled.
_WORKLIST = "AI"


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A work item: a job, a row that a client made, or both."""

    uid: str
    created_at: float
    job: Job | None = None
    row: RowMapping | None = None

    @property
    def state(self) -> JobState:
        """Procedure Step State (0074,1000)."""
        if self.job is not None:
            return ups_state(self.job)
        assert self.row is not None
        return JobState(self.row["state"])

    @property
    def readiness(self) -> str:
        """Input Readiness State (0040,4041): a job has its inputs."""
        if self.job is not None:
            return "READY"
        assert self.row is not None
        return said(msgspec.json.decode(self.row["dataset"]), "InputReadinessState") or "READY"

    @property
    def ours(self) -> bool:
        """Whether this server performs it."""
        return self.job is not None or (self.row is not None and bool(self.row["model"]))


def find(connection: Connection, uid: str, *, lock: bool = False) -> WorkItem:
    """Return a work item; with `lock`, no other transaction changes it until this one ends.

    Raises
    ------
    NotFound
        If there is none; `Gone` if it was removed after its retention.
    """
    job = select(jobs).where(jobs.c.job_uid == uid, jobs.c.model != "")
    item = select(work_items).where(work_items.c.uid == uid)
    if lock:
        job, item = job.with_for_update(), item.with_for_update()
    row = connection.execute(item).mappings().first()
    held = connection.execute(job).mappings().first()
    if held is not None:
        return WorkItem(uid, held["created_at"] if row is None else row["created_at"], job_from(held), row)
    if row is None:
        raise NotFound("there is no such work item")
    if row["removed_at"] is not None:
        raise Gone("the work item has ended, and is no longer kept")
    return WorkItem(uid, row["created_at"], None, row)


class Views:
    """Makes data sets of work items; `base_url` is where their inputs and outputs can be retrieved."""

    def __init__(self, connection: Connection, ae_title: str, base_url: str = "") -> None:
        self._connection = connection
        self._ae_title = ae_title
        self._base_url = base_url
        self._studies: dict[str, RowMapping | None] = {}

    def prepare(self, found: Sequence[WorkItem]) -> None:
        """Read the studies of several jobs at once."""
        wanted = {one.job.study_instance_uid for one in found if one.job is not None} - self._studies.keys()
        if not wanted:
            return
        self._studies |= dict.fromkeys(wanted)
        query = select(_STUDY).where(_STUDY.c.study_instance_uid.in_(wanted))
        self._studies |= {row["study_instance_uid"]: row for row in self._connection.execute(query).mappings()}

    def dataset(self, item: WorkItem, *, whole: bool = True) -> Elements:
        """Return the data set of a work item; without `whole`, what it lists of a job's instances is left out."""
        if item.row is not None:
            made: Elements = msgspec.json.decode(item.row["dataset"])
            made |= elements(SOPInstanceUID=item.uid, ProcedureStepState=str(item.state))
        else:
            assert item.job is not None
            made = self._of_job(item.job)
        if item.job is not None:
            made |= self._performance(item.job, whole=whole)
            if whole and item.row is None:
                made |= elements(InputInformationSequence=self._inputs(item.job))
        return made

    def _of_job(self, job: Job) -> Elements:
        self.prepare([WorkItem(job.job_uid, job.created_at, job)])
        study: Any = self._studies[job.study_instance_uid] or {}
        station = station_of(self._ae_title)
        request = elements(
            StudyInstanceUID=job.study_instance_uid,
            AccessionNumber=study.get("accession_number"),
            IssuerOfAccessionNumberSequence=None,
            RequestedProcedureID=None,
            RequestedProcedureDescription=study.get("study_description"),
            RequestedProcedureCodeSequence=None,
            ReferringPhysicianName=study.get("referring_physician_name"),
        )
        return elements(
            SpecificCharacterSet="ISO_IR 192",
            SOPClassUID=UPS_PUSH,
            SOPInstanceUID=job.job_uid,
            ScheduledProcedureStepPriority=job.priority.name,
            ScheduledProcedureStepModificationDateTime=moment(job.finished_at or job.started_at or job.created_at),
            ProcedureStepLabel=f"AI: {job.model}"[:64],
            WorklistLabel=_WORKLIST,
            ScheduledProcessingParametersSequence=_parameters(job),
            ScheduledStationNameCodeSequence=[station],
            ScheduledStationClassCodeSequence=None,
            ScheduledStationGeographicLocationCodeSequence=None,
            ScheduledProcedureStepStartDateTime=moment(job.created_at),
            ScheduledWorkitemCodeSequence=[_model(job)],
            CommentsOnTheScheduledProcedureStep=f"rule: {job.rule}"[:10_240] if job.rule else None,
            InputReadinessState="READY",
            InputInformationSequence=None,
            StudyInstanceUID=job.study_instance_uid,
            PatientName=study.get("patient_name"),
            PatientID=study.get("patient_id"),
            IssuerOfPatientID=study.get("issuer_of_patient_id"),
            PatientBirthDate=study.get("patient_birth_date"),
            PatientSex=study.get("patient_sex"),
            AdmissionID=None,
            IssuerOfAdmissionIDSequence=None,
            AdmittingDiagnosesDescription=None,
            AdmittingDiagnosesCodeSequence=None,
            ReferencedRequestSequence=[request],
            ProcedureStepState=str(ups_state(job)),
        )

    def _performance(self, job: Job, *, whole: bool) -> Elements:
        """Return how a job is getting on, and what came of it."""
        state = ups_state(job)
        progress: list[Elements] = []
        if state is not JobState.SCHEDULED:
            waits = job.state is JobState.SCHEDULED
            reason = job.failure.reason if job.failure else ""
            progress = [progress_of(job.progress, job.stage, waits=waits, reason=reason)]
        if state is JobState.CANCELED:
            failure = job.failure
            progress[0] |= elements(
                ProcedureStepCancellationDateTime=moment(job.finished_at),
                ReasonForCancellation=failure.reason if failure else "",
                ProcedureStepDiscontinuationReasonCodeSequence=reason_codes(
                    failure.code if failure else "cancelled", failure.stage if failure else ""
                ),
            )
        performed = [self._performed(job, whole=whole)] if job.started_at is not None else None
        return elements(
            ProcedureStepState=str(state),
            InputReadinessState="READY",
            ProcedureStepProgressInformationSequence=progress,
            UnifiedProcedureStepPerformedProcedureSequence=performed,
        )

    def _performed(self, job: Job, *, whole: bool) -> Elements:
        ended = moment(job.finished_at) if job.state in FINAL_STATES else None
        return elements(
            PerformedStationNameCodeSequence=[station_of(self._ae_title)],
            PerformedStationClassCodeSequence=None,
            PerformedStationGeographicLocationCodeSequence=None,
            PerformedProcedureStepStartDateTime=moment(job.started_at),
            PerformedWorkitemCodeSequence=[_model(job)],
            PerformedProcessingParametersSequence=_parameters(job),
            PerformedProcedureStepEndDateTime=ended,
            OutputInformationSequence=self._outputs(job) if whole else None,
        )

    def _inputs(self, job: Job) -> list[Elements]:
        wanted = set(job.inputs)
        rows = self._connection.execute(
            select(_SERIES.c.series_instance_uid, _INSTANCE.c.sop_class_uid, _INSTANCE.c.sop_instance_uid)
            .select_from(_INSTANCE.join(_SERIES, _SERIES.c.id == _INSTANCE.c.series_id))
            .where(_SERIES.c.series_instance_uid.in_(job.series_instance_uids))
            .order_by(_INSTANCE.c.instance_number, _INSTANCE.c.sop_instance_uid)
        )
        return self._by_series(job.study_instance_uid, [row for row in rows if row.sop_instance_uid in wanted])

    def _outputs(self, job: Job) -> list[Elements]:
        rows = self._connection.execute(
            select(_SERIES.c.series_instance_uid, _INSTANCE.c.sop_class_uid, _INSTANCE.c.sop_instance_uid)
            .select_from(_INSTANCE.join(_SERIES, _SERIES.c.id == _INSTANCE.c.series_id))
            .join(_RESULT, _RESULT.c.sop_instance_uid == _INSTANCE.c.sop_instance_uid)
            .where(_RESULT.c.job_id == job.id)
            .order_by(_RESULT.c.id)
        )
        return self._by_series(job.study_instance_uid, list(rows))

    def _by_series(self, study: str, rows: Sequence[Any]) -> list[Elements]:
        """Return Referenced Instances and Access (PS3.3 Table 10-3b): an item for each series."""
        series: dict[str, list[Elements]] = {}
        for row in rows:
            one = elements(ReferencedSOPClassUID=row.sop_class_uid, ReferencedSOPInstanceUID=row.sop_instance_uid)
            series.setdefault(row.series_instance_uid, []).append(one)
        return [
            elements(
                TypeOfInstances="DICOM",
                StudyInstanceUID=study,
                SeriesInstanceUID=uid,
                ReferencedSOPSequence=instances,
                WADORSRetrievalSequence=[elements(RetrieveURL=f"{self._base_url}/studies/{study}/series/{uid}")],
            )
            for uid, instances in series.items()
        ]


def _model(job: Job) -> Elements:
    return code(job.model, SCHEME, job.model)


def _parameters(job: Job) -> list[Elements]:
    """Return which model ran, as processing parameters: its name, and the digest that pins its bytes."""
    texts = [(code(*ALGORITHM_NAME), job.model)]
    if job.model_digest:
        texts.append((code("MODEL-DIGEST", SCHEME, "Digest of the model"), job.model_digest))
    return [elements(ValueType="TEXT", ConceptNameCodeSequence=[concept], TextValue=text) for concept, text in texts]
