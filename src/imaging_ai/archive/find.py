"""Looking instances and series up in the index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, func, select

from imaging_ai.archive.batch import Held
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import SeriesSummary, StoredInstance
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import DeletedInstanceRow, InstanceRow, ReplacedInstanceRow, SeriesRow, StudyRow
from imaging_ai.errors import NotFound

__all__ = ["await_results", "deleted", "held", "instances", "known", "named", "stored", "summarised", "summary"]

STUDY: Table = StudyRow.metadata.tables["study"]
SERIES: Table = SeriesRow.metadata.tables["series"]
INSTANCE: Table = InstanceRow.metadata.tables["instance"]
REPLACED: Table = ReplacedInstanceRow.metadata.tables["replaced_instance"]
DELETED: Table = DeletedInstanceRow.metadata.tables["deleted_instance"]
_JOINED = INSTANCE.join(SERIES, SERIES.c.id == INSTANCE.c.series_id).join(STUDY, STUDY.c.id == SERIES.c.study_id)

#: Attributes that rules and models may ask for, by keyword, and the column that holds them.
_KEYWORDS = {
    STUDY: {
        "PatientID": "patient_id",
        "IssuerOfPatientID": "issuer_of_patient_id",
        "PatientName": "patient_name",
        "PatientBirthDate": "patient_birth_date",
        "PatientSex": "patient_sex",
        "StudyDate": "study_date",
        "StudyTime": "study_time",
        "AccessionNumber": "accession_number",
        "StudyID": "study_id",
        "StudyDescription": "study_description",
        "ReferringPhysicianName": "referring_physician_name",
        "StudyInstanceUID": "study_instance_uid",
    },
    SERIES: {
        "SeriesInstanceUID": "series_instance_uid",
        "Modality": "modality",
        "SeriesNumber": "series_number",
        "SeriesDescription": "series_description",
        "SeriesDate": "series_date",
        "SeriesTime": "series_time",
        "BodyPartExamined": "body_part_examined",
        "ProtocolName": "protocol_name",
        "Manufacturer": "manufacturer",
        "ManufacturerModelName": "manufacturer_model_name",
        "StationName": "station_name",
        "InstitutionName": "institution_name",
        "PerformedProcedureStepStartDate": "performed_procedure_step_start_date",
        "PerformedProcedureStepStartTime": "performed_procedure_step_start_time",
        "FrameOfReferenceUID": "frame_of_reference_uid",
    },
    INSTANCE: {
        "SOPClassUID": "sop_class_uid",
        "TransferSyntaxUID": "transfer_syntax_uid",
        "ImageType": "image_type",
        "Rows": "rows",
        "Columns": "columns",
        "NumberOfFrames": "number_of_frames",
        "BitsAllocated": "bits_allocated",
    },
}


def instances(
    database: Database, series_instance_uid: str, study_instance_uid: str | None
) -> tuple[StoredInstance, ...]:
    """Return the instances of a series by instance number."""
    query = (
        select(INSTANCE, SERIES.c.series_instance_uid, STUDY.c.study_instance_uid)
        .select_from(_JOINED)
        .where(_is(series_instance_uid, study_instance_uid))
        .order_by(INSTANCE.c.instance_number, INSTANCE.c.sop_instance_uid)
    )
    with database.read() as session:
        rows = session.connection().execute(query).all()
    if not rows:
        raise NotFound(f"series {series_instance_uid} is not held")
    return tuple(stored(row) for row in rows)


def summarised() -> frozenset[str]:
    """Return the keywords of the attributes that `summary` tells."""
    return frozenset(keyword for names in _KEYWORDS.values() for keyword in names)


def summary(database: Database, series_instance_uid: str, study_instance_uid: str | None) -> SeriesSummary:
    """Return what the index says of a series, with the attributes of one of its instances."""
    one = (
        select(STUDY, SERIES, INSTANCE, SERIES.c.source.label("series_source"))
        .select_from(_JOINED)
        .where(_is(series_instance_uid, study_instance_uid))
        .order_by(INSTANCE.c.id)
        .limit(1)
    )
    count = select(func.count()).select_from(_JOINED).where(_is(series_instance_uid, study_instance_uid))
    with database.read() as session:
        row = session.connection().execute(one).first()
        number = session.connection().scalar(count) or 0
    if row is None:
        raise NotFound(f"series {series_instance_uid} is not held")
    columns = row._mapping
    attributes = {
        keyword: "" if columns[table.c[name]] is None else str(columns[table.c[name]])
        for table, names in _KEYWORDS.items()
        for keyword, name in names.items()
    }
    return SeriesSummary(
        study_instance_uid=attributes["StudyInstanceUID"],
        series_instance_uid=series_instance_uid,
        modality=attributes["Modality"],
        instances=number,
        revision=columns[SERIES.c.revision],
        attributes=attributes,
    )


def held(database: Database, sop_instance_uid: str) -> Held | None:
    """Return what is held under a SOP Instance UID."""
    query = (
        select(INSTANCE, SERIES.c.origin)
        .join(SERIES, SERIES.c.id == INSTANCE.c.series_id)
        .where(INSTANCE.c.sop_instance_uid == sop_instance_uid)
    )
    with database.read() as session:
        row = session.connection().execute(query).first()
    if row is None:
        return None
    return Held(_blob(row), row.transfer_syntax_uid, row.series_id, row.origin)


def await_results(database: Database) -> None:
    """Return when every transaction that registers results and is under way has ended.

    A server carries out a commit that it was sent although its client is dead by then.
    """
    if not database.is_sqlite:
        with database.write() as session:
            session.connection().exec_driver_sql("SET LOCAL lock_timeout = '10s'")
            session.connection().exec_driver_sql("LOCK TABLE result IN SHARE MODE")


def known(database: Database, blobs: Sequence[BlobRef]) -> set[BlobRef]:
    """Return those of the blobs that a row names, as current or replaced content, or as deleted."""
    return _in_tables(database, (INSTANCE, REPLACED, DELETED), blobs)


def deleted(database: Database, blobs: Sequence[BlobRef]) -> set[BlobRef]:
    """Return those of the blobs that were deleted."""
    return _in_tables(database, (DELETED,), blobs)


def _in_tables(database: Database, tables: Sequence[Table], blobs: Sequence[BlobRef]) -> set[BlobRef]:
    wanted = set(blobs)
    keys = sorted({blob.key for blob in blobs})
    found: set[BlobRef] = set()
    with database.read() as session:
        for table in tables:  # in this order: a row goes from the first to the others
            for start in range(0, len(keys), 500):
                columns = table.c.blob_key, table.c.blob_offset, table.c.blob_length
                rows = session.connection().execute(
                    select(*columns).where(table.c.blob_key.in_(keys[start : start + 500]))
                )
                found.update(_blob(row) for row in rows)
    return found & wanted


def named(database: Database, keys: Sequence[str]) -> set[str]:
    """Return those of the keys of objects that any row names."""
    found: set[str] = set()
    with database.read() as session:
        for table in (INSTANCE, REPLACED):  # in this order: a row goes from the first to the second
            for start in range(0, len(keys), 500):
                some = table.c.blob_key.in_(keys[start : start + 500])
                found.update(session.connection().scalars(select(table.c.blob_key).where(some)))
    return found


def _is(series_instance_uid: str, study_instance_uid: str | None) -> ColumnElement[bool]:
    series = SERIES.c.series_instance_uid == series_instance_uid
    return series if study_instance_uid is None else series & (STUDY.c.study_instance_uid == study_instance_uid)


def stored(row: Any) -> StoredInstance:
    return StoredInstance(
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        instance_number=row.instance_number,
        blob=_blob(row),
    )


def _blob(row: Any) -> BlobRef:
    return BlobRef(row.blob_key, row.blob_offset, row.blob_length)
