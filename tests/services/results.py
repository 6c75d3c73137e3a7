"""Results of jobs as the pipeline leaves them: rows in a database, files that can be read, deliveries scheduled."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from sqlmodel import Session, SQLModel

from imaging_ai.core.identity import new_uid
from imaging_ai.core.instance import StoredInstance
from imaging_ai.core.job import Priority
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import InstanceRow, JobRow, ResultRow, SeriesRow, StudyRow
from imaging_ai.errors import StorageUnavailable
from imaging_ai.send.deliveries import Deliveries
from services.peers import SEG, SR, small_object, stored

SOP_CLASSES: Mapping[str, str] = {"SEG": SEG, "SR": SR}


class Results:
    """A database with jobs, and the archive that holds their objects."""

    def __init__(self, url: str, folder: Path) -> None:
        self.database = Database(url)
        SQLModel.metadata.create_all(self.database.engine)
        self.deliveries = Deliveries(self.database)
        self.folder = folder
        self.is_readable = True

    def read(self, instance: StoredInstance) -> bytes:
        """Read an object, as the archive does."""
        if not self.is_readable:
            raise StorageUnavailable("the object storage does not answer")
        return Path(instance.blob.key).read_bytes()

    def job(
        self,
        kinds: Iterable[str] = ("SEG", "SR"),
        destinations: Iterable[str] = ("pacs",),
        priority: Priority = Priority.MEDIUM,
        files: Iterable[Path] | None = None,
    ) -> tuple[int, dict[str, str]]:
        """Add a finished job with one object of each kind; return its id, and SOP Instance UID by kind."""
        kinds = list(kinds)
        paths = list(files) if files is not None else [self._object(kind) for kind in kinds]
        with self.database.write() as session:
            job_id = self._job_row(session, priority)
            uids = {}
            for kind, path in zip(kinds, paths, strict=True):
                instance = stored(path)
                uids[kind] = instance.sop_instance_uid
                self._instance_row(session, instance)
                session.add(
                    ResultRow(
                        job_id=job_id,
                        kind=kind,
                        sop_instance_uid=instance.sop_instance_uid,
                        sop_class_uid=instance.sop_class_uid,
                        created_at=time.time(),
                    )
                )
            self.deliveries.schedule(session, job_id, uids.values(), destinations)
        return job_id, uids

    def _object(self, kind: str) -> Path:
        number = len(list(self.folder.glob("*.dcm"))) + 1
        return small_object(self.folder, SOP_CLASSES[kind], f"1.2.3.4.{number}", study=f"1.2.3.{number}")

    @staticmethod
    def _job_row(session: Session, priority: Priority) -> int:
        job = JobRow(
            job_uid=new_uid(),
            dedupe_key=new_uid(),
            state="COMPLETED",
            priority=int(priority),
            study_instance_uid="1.2.3",
            series_instance_uids="[]",
            created_at=time.time(),
            not_before=0.0,
        )
        session.add(job)
        session.flush()
        assert job.id is not None
        return job.id

    @staticmethod
    def _instance_row(session: Session, instance: StoredInstance) -> None:
        now = time.time()
        study = StudyRow(study_instance_uid=instance.study_instance_uid, created_at=now, updated_at=now)
        session.add(study)
        session.flush()
        assert study.id is not None
        series = SeriesRow(
            study_id=study.id,
            series_instance_uid=instance.series_instance_uid,
            origin="result",
            settle_at=now,
            last_received_at=now,
            created_at=now,
        )
        session.add(series)
        session.flush()
        assert series.id is not None
        session.add(
            InstanceRow(
                sop_instance_uid=instance.sop_instance_uid,
                series_id=series.id,
                sop_class_uid=instance.sop_class_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
                blob_key=instance.blob.key,
                blob_offset=0,
                blob_length=instance.blob.length,
                received_at=now,
            )
        )
