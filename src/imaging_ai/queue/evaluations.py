"""What classifiers said of the inputs of a job: kept in the commit that completes it, read for people and programs."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Table, insert, select
from sqlmodel import SQLModel

from imaging_ai.core.finding import ClassDescription, Code, Evaluation
from imaging_ai.db.tables import EvaluationRow

__all__ = ["evaluations_of", "keep_evaluations"]

_EVALUATION: Table = SQLModel.metadata.tables[str(EvaluationRow.__tablename__)]


def keep_evaluations(connection: Connection, job_id: int, evaluations: Sequence[Evaluation]) -> None:
    """Add a row for each evaluation, in the caller's transaction; one about several instances has one for each."""
    rows = [
        {
            "job_id": job_id,
            "tracking_identifier": one.tracking_identifier,
            "tracking_uid": one.tracking_uid,
            "label": one.description.label,
            "finding_code": one.description.finding.value,
            "finding_scheme": one.description.finding.scheme_designator,
            "finding_meaning": one.description.finding.meaning,
            "sop_instance_uid": sop_instance_uid,
            "probability": one.probability,
            "threshold": one.description.threshold,
            "present": one.present,
            "calibrated": one.calibrated,
        }
        for one in evaluations
        for sop_instance_uid in one.instances or ("",)
    ]
    if rows:
        connection.execute(insert(_EVALUATION), rows)


def evaluations_of(connection: Connection, job_id: int) -> tuple[Evaluation, ...]:
    """Return what was said for a job, in its order."""
    rows = connection.execute(select(_EVALUATION).where(_EVALUATION.c.job_id == job_id).order_by(_EVALUATION.c.id))
    return tuple(
        Evaluation(
            description=ClassDescription(
                row.label, Code(row.finding_code, row.finding_scheme, row.finding_meaning), row.threshold
            ),
            probability=row.probability,
            tracking_identifier=row.tracking_identifier,
            tracking_uid=row.tracking_uid,
            instances=(row.sop_instance_uid,) if row.sop_instance_uid else (),
            calibrated=row.calibrated,
        )
        for row in rows
    )
