"""What a client of DICOMweb names by its place: the instances of a study, of a series, or one of them."""

from __future__ import annotations

from sqlalchemy import select
from sqlmodel import Session

from imaging_ai.archive.deletion import was_deleted
from imaging_ai.archive.find import INSTANCE, SERIES, STUDY, stored
from imaging_ai.core.instance import StoredInstance
from imaging_ai.db.engine import Database
from imaging_ai.errors import Gone, NotFound

__all__ = ["shelved", "shelved_in"]


def shelved(
    database: Database, study: str, series: str | None = None, instance: str | None = None
) -> tuple[StoredInstance, ...]:
    """Return the instances at a place, by series number, then instance number.

    Raises
    ------
    NotFound
        If there are none; `Gone` if they were deleted.
    """
    with database.read() as session:
        return shelved_in(session, study, series, instance)


def shelved_in(
    session: Session, study: str, series: str | None = None, instance: str | None = None
) -> tuple[StoredInstance, ...]:
    """Return the same as a transaction sees it."""
    joined = INSTANCE.join(SERIES, SERIES.c.id == INSTANCE.c.series_id).join(STUDY, STUDY.c.id == SERIES.c.study_id)
    query = (
        select(INSTANCE, SERIES.c.series_instance_uid, STUDY.c.study_instance_uid)
        .select_from(joined)
        .where(STUDY.c.study_instance_uid == study)
        .order_by(SERIES.c.series_number, SERIES.c.id, INSTANCE.c.instance_number, INSTANCE.c.sop_instance_uid)
    )
    if series is not None:
        query = query.where(SERIES.c.series_instance_uid == series)
    if instance is not None:
        query = query.where(INSTANCE.c.sop_instance_uid == instance)
    rows = session.connection().execute(query).all()
    if not rows:
        if was_deleted(session, study, series, instance):
            raise Gone("what was held here has been deleted")
        raise NotFound("no such instances are held here")
    return tuple(stored(row) for row in rows)
