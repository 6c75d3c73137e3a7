"""`/api/studies`: what is held of each study. The answers carry patient data; each one leaves an audit event."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec
from litestar import Request, Router, get
from litestar.openapi import ResponseSpec
from sqlalchemy import Connection, RowMapping, func, select
from sqlmodel import SQLModel

from imaging_ai import audit
from imaging_ai.db.engine import Database
from imaging_ai.errors import NotFound
from imaging_ai.serve.access import actor, origin
from imaging_ai.serve.jobs import READS, Limit, Offset, Page, Uid, moment
from imaging_ai.serve.problem import Problem

__all__ = ["studies_router"]

_tables = SQLModel.metadata.tables
_STUDY, _SERIES, _JOB, _RESULT = _tables["study"], _tables["series"], _tables["job"], _tables["result"]

_NOT_FOUND = {404: ResponseSpec(data_container=Problem, description="A problem (RFC 9457)")}


class StudyView(msgspec.Struct, frozen=True, kw_only=True):
    """A study and its patient, as its newest instance tells them."""

    study_instance_uid: str
    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    study_date: str
    study_time: str
    accession_number: str
    study_description: str
    modalities_in_study: tuple[str, ...]
    series: int
    instances: int
    updated_at: datetime | None


class SeriesView(msgspec.Struct, frozen=True, kw_only=True):
    """A series; `origin` is "result" when we made it, `state` RECEIVING while instances may still come."""

    series_instance_uid: str
    modality: str
    series_number: int | None
    series_description: str
    body_part_examined: str
    instances: int
    expected_instances: int | None
    state: str
    revision: int
    origin: str
    last_received_at: datetime | None


class StudyResult(msgspec.Struct, frozen=True):
    """An object that a job produced of a study."""

    job_id: int
    model: str
    kind: str
    sop_instance_uid: str
    sop_class_uid: str


class StudyList(msgspec.Struct, frozen=True):
    """Studies, the newest first."""

    studies: tuple[StudyView, ...]
    page: Page


class StudyDetail(msgspec.Struct, frozen=True):
    """A study with its series and results."""

    study: StudyView
    series: tuple[SeriesView, ...]
    results: tuple[StudyResult, ...]


def studies_router(database: Database) -> Router:
    """Answer `/studies` and `/studies/{uid}`."""

    @get("/", opt=READS, sync_to_thread=True, summary="Search for studies")
    def search_for_studies(request: Request[Any, Any, Any], limit: Limit = 100, offset: Offset = 0) -> StudyList:
        with database.read() as session:
            connection = session.connection()
            query = select(_STUDY).order_by(_STUDY.c.id.desc()).limit(limit + 1).offset(offset)
            found = connection.execute(query).mappings().all()
            views = _studies(connection, found[:limit])
        _audit(database, request, "study.search", "", f"{len(views)} studies")
        return StudyList(views, Page.of(found, limit, offset))

    @get("/{study_instance_uid:str}", opt=READS, sync_to_thread=True, summary="All of one study", responses=_NOT_FOUND)
    def retrieve_study(request: Request[Any, Any, Any], study_instance_uid: Uid) -> StudyDetail:
        with database.read() as session:
            connection = session.connection()
            found = connection.execute(select(_STUDY).where(_STUDY.c.study_instance_uid == study_instance_uid))
            row = found.mappings().first()
            if row is None:
                raise NotFound(f"there is no study {study_instance_uid}")
            (view,) = _studies(connection, [row])
            detail = StudyDetail(view, _series(connection, row["id"]), _results(connection, study_instance_uid))
        _audit(database, request, "study.read", study_instance_uid, "")
        return detail

    return Router("/studies", route_handlers=[search_for_studies, retrieve_study], tags=["studies"])


def _audit(database: Database, request: Request[Any, Any, Any], action: str, uid: str, detail: str) -> None:
    """Leave the event before the answer leaves: what cannot be recorded is not shown."""
    who, where = actor(request), origin(request)
    with database.write() as session:
        audit.record(session, action, object_type="study", object_uid=uid, actor=who, origin=where, detail=detail)


def _studies(connection: Connection, rows: Collection[RowMapping]) -> tuple[StudyView, ...]:
    held: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    per_modality = (
        select(_SERIES.c.study_id, _SERIES.c.modality, func.count(), func.sum(_SERIES.c.instance_count))
        .where(_SERIES.c.study_id.in_([row["id"] for row in rows]))
        .group_by(_SERIES.c.study_id, _SERIES.c.modality)
        .order_by(_SERIES.c.modality)
    )
    for study_id, modality, series, instances in connection.execute(per_modality):
        held[study_id].append((modality, series, int(instances)))
    return tuple(_study(row, held[row["id"]]) for row in rows)


def _study(row: RowMapping, held: list[tuple[str, int, int]]) -> StudyView:
    return StudyView(
        study_instance_uid=row["study_instance_uid"],
        patient_id=row["patient_id"],
        issuer_of_patient_id=row["issuer_of_patient_id"],
        patient_name=row["patient_name"],
        patient_birth_date=row["patient_birth_date"],
        patient_sex=row["patient_sex"],
        study_date=row["study_date"],
        study_time=row["study_time"],
        accession_number=row["accession_number"],
        study_description=row["study_description"],
        modalities_in_study=tuple(modality for modality, _, _ in held if modality),
        series=sum(series for _, series, _ in held),
        instances=sum(instances for _, _, instances in held),
        updated_at=moment(row["updated_at"]),
    )


def _series(connection: Connection, study_id: int) -> tuple[SeriesView, ...]:
    rows = connection.execute(select(_SERIES).where(_SERIES.c.study_id == study_id).order_by(_SERIES.c.id))
    return tuple(
        SeriesView(
            series_instance_uid=row.series_instance_uid,
            modality=row.modality,
            series_number=row.series_number,
            series_description=row.series_description,
            body_part_examined=row.body_part_examined,
            instances=row.instance_count,
            expected_instances=row.expected_count,
            state=row.state,
            revision=row.revision,
            origin=row.origin,
            last_received_at=moment(row.last_received_at),
        )
        for row in rows
    )


def _results(connection: Connection, study_instance_uid: str) -> tuple[StudyResult, ...]:
    rows = connection.execute(
        select(_RESULT.c.job_id, _JOB.c.model, _RESULT.c.kind, _RESULT.c.sop_instance_uid, _RESULT.c.sop_class_uid)
        .join(_JOB, _JOB.c.id == _RESULT.c.job_id)
        .where(_JOB.c.study_instance_uid == study_instance_uid)
        .order_by(_RESULT.c.id)
    )
    return tuple(StudyResult(*row) for row in rows)
