"""The archive keeps what it acknowledges, once, and says what became of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from sqlalchemy import func, select, text, update
from sqlmodel import Session, SQLModel

import phantoms
from imaging_ai.archive import gate
from imaging_ai.archive.archive import Archive, Kept, Visit
from imaging_ai.archive.blobs import StagedWriter
from imaging_ai.archive.find import INSTANCE, REPLACED, SERIES, STUDY
from imaging_ai.archive.folder import FolderStore, Known
from imaging_ai.archive.index import Index
from imaging_ai.core.blob import BlobRef
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AuditEventRow, JobRow
from imaging_ai.errors import DatabaseUnavailable, InstanceConflict, NotFound

AUDIT = AuditEventRow.metadata.tables["audit_event"]
WHO = {"source": "MODALITY", "origin_address": "10.0.0.1", "door": "dimse"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/index.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    opened = Database(url)
    SQLModel.metadata.create_all(opened.engine)
    yield opened
    opened.dispose()


def open_archive(database: Database, folder: Path, **options: object) -> Archive:
    store = FolderStore(folder / "store", min_free_bytes=0, segment_bytes=4 << 20)
    return Archive(database, store, **options)  # type: ignore[arg-type]


@pytest.fixture
def archive(database: Database, tmp_path: Path) -> Iterator[Archive]:
    opened = open_archive(database, tmp_path)
    yield opened
    opened.close()


def ct(count: int = 1, name: str = "archive") -> list[Dataset]:
    return phantoms.series(np.zeros((count, 8, 8), np.float32), name=name)


def keep(archive: Archive, data: bytes, visit: Visit | None = None) -> Kept:
    writer = archive.begin()
    writer.write(data)
    return archive.keep(gate.scan(writer.head, size=writer.size), writer, visit=visit, **WHO)


def count(archive: Archive, table: object) -> int:
    with archive.database.read() as session:
        return int(session.connection().scalar(select(func.count()).select_from(table)))  # type: ignore[arg-type]


def rows(archive: Archive, table: object) -> list[dict[str, object]]:
    with archive.database.read() as session:
        return [dict(row._mapping) for row in session.connection().execute(select(table))]  # type: ignore[call-overload]


def test_what_is_kept_is_found_byte_for_byte(archive: Archive) -> None:
    datasets = ct(5)
    files = {ds.SOPInstanceUID: phantoms.to_bytes(ds) for ds in reversed(datasets)}
    assert {keep(archive, data) for data in files.values()} == {Kept.STORED}
    found = archive.instances(datasets[0].SeriesInstanceUID)
    assert [one.instance_number for one in found] == [1, 2, 3, 4, 5]
    assert {one.sop_instance_uid: archive.read(one) for one in found} == files


def test_the_summary_has_the_attributes_that_rules_ask_for(archive: Archive) -> None:
    for ds in ct(3):
        keep(archive, phantoms.to_bytes(ds))
    summary = archive.summary(ds.SeriesInstanceUID)
    assert (summary.modality, summary.instances, summary.revision) == ("CT", 3, 0)
    assert summary.study_instance_uid == ds.StudyInstanceUID
    for keyword in ("BodyPartExamined", "SeriesDescription", "Rows", "PatientID", "SOPClassUID"):
        assert summary.attributes[keyword] == str(ds[keyword].value)
    with pytest.raises(NotFound):
        archive.summary("1.2.3")
    with pytest.raises(NotFound):
        archive.instances("1.2.3")


def test_each_arrival_puts_the_end_of_the_silence_off(database: Database, tmp_path: Path) -> None:
    archive = open_archive(database, tmp_path, silence=7.0)
    first, second = ct(2)
    keep(archive, phantoms.to_bytes(first))
    with database.write() as session:
        session.connection().execute(update(SERIES).values(state="SETTLED", revision=1, settle_at=0.0))
    keep(archive, phantoms.to_bytes(second))
    (series,) = rows(archive, SERIES)
    assert (series["state"], series["revision"], series["instance_count"]) == ("RECEIVING", 1, 2)
    assert series["settle_at"] == pytest.approx(series["last_received_at"] + 7.0)  # type: ignore[operator]
    assert series["source"] == "MODALITY"


@pytest.mark.parametrize(("images", "frames", "expected"), [(None, None, None), (30, None, 30), (30, 10, 3), (1, 1, 1)])
def test_the_expected_count_comes_from_the_acquisition(
    archive: Archive, images: int | None, frames: int | None, expected: int | None
) -> None:
    (ds,) = ct()
    if images is not None:
        ds.ImagesInAcquisition = images
    if frames is not None:
        ds.NumberOfFrames = frames
        ds.PixelData = ds.PixelData * frames
    keep(archive, phantoms.to_bytes(ds))
    assert rows(archive, SERIES)[0]["expected_count"] == expected


def test_the_same_instance_twice_is_one_instance(archive: Archive) -> None:
    (ds,) = ct()
    assert keep(archive, phantoms.to_bytes(ds)) is Kept.STORED
    with archive.database.write() as session:
        session.connection().execute(update(SERIES).values(state="SETTLED"))
    ds.file_meta.SourceApplicationEntityTitle = "ANOTHER"
    assert keep(archive, phantoms.to_bytes(ds)) is Kept.DUPLICATE, "File Meta Information is no content"
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert keep(archive, phantoms.to_bytes(ds)) is Kept.DUPLICATE, "another encoding is no other content"
    assert count(archive, INSTANCE) == 1
    assert rows(archive, SERIES)[0]["state"] == "SETTLED"
    assert rows(archive, SERIES)[0]["instance_count"] == 1


def test_other_content_under_the_same_uid_is_refused_and_leaves_no_trace_but_the_audit(archive: Archive) -> None:
    (ds,) = ct()
    first = phantoms.to_bytes(ds)
    keep(archive, first)
    ds.PatientName = "Somebody^Else"
    ds.SeriesInstanceUID = "1.2.3.4"
    with pytest.raises(InstanceConflict):
        keep(archive, phantoms.to_bytes(ds))
    assert (count(archive, INSTANCE), count(archive, SERIES)) == (1, 1)
    assert rows(archive, STUDY)[0]["patient_name"] == "Phantom^Test"
    (refused,) = [row for row in rows(archive, AUDIT) if row["outcome"] == "refused"]
    assert (refused["action"], refused["object_uid"], refused["actor"]) == (
        "store-instance",
        ds.SOPInstanceUID,
        "MODALITY",
    )


def test_many_conflicts_of_a_visit_are_two_events_for_a_series(archive: Archive) -> None:
    visit = Visit("MODALITY", "10.0.0.7", "dimse")
    series = ct(5)
    for ds in series:
        keep(archive, phantoms.to_bytes(ds))
    for ds in series:
        ds.PatientName = "Somebody^Else"
        with pytest.raises(InstanceConflict):
            keep(archive, phantoms.to_bytes(ds), visit=visit)
    archive.leave(visit)
    told = [(row["object_type"], row["detail"]) for row in rows(archive, AUDIT) if row["outcome"] == "refused"]
    assert told == [
        ("instance", "instance-conflict: held with other content"),
        ("series", "instance-conflict: 5 instances held with other content"),
    ]


def test_the_policy_replace_keeps_the_old_content_aside(database: Database, tmp_path: Path) -> None:
    archive = open_archive(database, tmp_path, conflict="replace")
    (ds,) = ct()
    old = phantoms.to_bytes(ds)
    keep(archive, old)
    ds.InstanceNumber = 99
    new = phantoms.to_bytes(ds)
    assert keep(archive, new) is Kept.REPLACED
    (instance,) = archive.instances(ds.SeriesInstanceUID)
    assert (archive.read(instance), instance.instance_number) == (new, 99)
    (aside,) = rows(archive, REPLACED)
    blob = type(instance.blob)(aside["blob_key"], aside["blob_offset"], aside["blob_length"])  # type: ignore[arg-type]
    assert archive.store.read(blob) == old
    assert "replace-instance" in {row["action"] for row in rows(archive, AUDIT)}
    archive.close()


def test_a_study_says_what_its_newest_instance_says(archive: Archive) -> None:
    first, second = ct(2)
    keep(archive, phantoms.to_bytes(first))
    second.PatientName = "Corrected^Name"
    keep(archive, phantoms.to_bytes(second))
    assert [row["patient_name"] for row in rows(archive, STUDY)] == ["Corrected^Name"]


def test_results_are_registered_and_coming_back_are_duplicates(archive: Archive) -> None:
    source, result = ct(1, "source")[0], ct(1, "result")[0]
    keep(archive, phantoms.to_bytes(source))
    result.StudyInstanceUID = source.StudyInstanceUID
    data = phantoms.to_bytes(result)
    blob = archive.store.put(data)
    with archive.database.write() as session:
        job = JobRow(job_uid="1.2", dedupe_key="k", study_instance_uid="1", series_instance_uids="[]")
        job.created_at = job.not_before = 0.0
        session.add(job)
        session.flush()
        assert job.id is not None
        archive.register_results(session, job.id, [("SEG", blob, gate.scan(data))])
    (registered,) = archive.instances(result.SeriesInstanceUID)
    assert archive.read(registered) == data
    assert keep(archive, data) is Kept.DUPLICATE
    result.ContentDate = "20250101"  # as changed on the way by another archive
    assert keep(archive, phantoms.to_bytes(result)) is Kept.DUPLICATE
    (series,) = [row for row in rows(archive, SERIES) if row["origin"] == "result"]
    assert (series["state"], series["instance_count"]) == ("SETTLED", 1)


def test_a_visit_leaves_two_audit_events_for_a_series(archive: Archive) -> None:
    visit = Visit("MODALITY", "10.0.0.1", "dimse")
    for ds in ct(4):
        keep(archive, phantoms.to_bytes(ds), visit)
    archive.leave(visit)
    events = [(row["action"], row["object_uid"], row["detail"]) for row in rows(archive, AUDIT)]
    assert events == [
        ("begin-transferring-instances", ds.SeriesInstanceUID, "dimse"),
        ("instances-transferred", ds.SeriesInstanceUID, "dimse: 4 instances"),
    ]


def test_many_threads_and_processes_keep_the_same_instances_once(database: Database, tmp_path: Path) -> None:
    archives = [open_archive(database, tmp_path) for _ in range(2)]
    files = [phantoms.to_bytes(ds) for name in ("a", "b") for ds in ct(15, name)]
    outcomes: list[Kept] = []
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            order = files if number % 2 else files[::-1]
            outcomes.extend(keep(archives[number % 2], data) for data in order)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors
    assert sorted(outcomes).count(Kept.STORED) == len(files)
    assert outcomes.count(Kept.DUPLICATE) == 5 * len(files)
    assert [row["instance_count"] for row in rows(archives[0], SERIES)] == [15, 15]
    for archive in archives:
        archive.close()


def test_rows_that_vanish_behind_the_cache_are_made_again(archive: Archive) -> None:
    first, second = ct(2)
    keep(archive, phantoms.to_bytes(first))
    with archive.database.write() as session:
        for table in ("instance", "series", "study"):
            session.connection().execute(text(f"DELETE FROM {table}"))
    assert keep(archive, phantoms.to_bytes(second)) is Kept.STORED
    assert len(archive.instances(second.SeriesInstanceUID)) == 1


def test_without_a_database_nothing_is_acknowledged_or_left(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/index.db")
    SQLModel.metadata.create_all(database.engine)
    archive = open_archive(database, tmp_path, retry_seconds=0.1)
    keep(archive, phantoms.to_bytes(ct(1, "before")[0]))
    with database.write() as session:
        session.connection().execute(text("ALTER TABLE instance RENAME TO gone"))
    with pytest.raises(DatabaseUnavailable):
        keep(archive, phantoms.to_bytes(ct(1, "without")[0]))
    with database.write() as session:
        session.connection().execute(text("ALTER TABLE gone RENAME TO instance"))
    assert keep(archive, phantoms.to_bytes(ct(1, "after")[0])) is Kept.STORED
    archive.close()
    again = open_archive(database, tmp_path)
    assert again.recover() == 0
    assert count(again, INSTANCE) == 2


def test_the_audit_has_the_beginning_of_a_visit_although_the_database_was_away_at_first(
    database: Database, tmp_path: Path
) -> None:
    archive = open_archive(database, tmp_path, retry_seconds=0.0)
    visit = Visit("MODALITY", "10.0.0.1", "dimse")
    first, second = (phantoms.to_bytes(ds) for ds in ct(2))
    with database.write() as session:
        session.connection().execute(text("ALTER TABLE audit_event RENAME TO gone"))
    with pytest.raises(Exception):  # noqa: B017 - as each database says it
        keep(archive, first, visit)
    with database.write() as session:
        session.connection().execute(text("ALTER TABLE gone RENAME TO audit_event"))
    keep(archive, second, visit)
    assert [row["action"] for row in rows(archive, AUDIT)] == ["begin-transferring-instances"]
    archive.close()


@pytest.mark.service
def test_a_duplicate_whose_bytes_went_never_takes_the_place_of_what_a_crashed_server_lost(
    postgres_url: str, tmp_path: Path
) -> None:
    database = Database(postgres_url)
    SQLModel.metadata.create_all(database.engine)
    one, other = (open_archive(database, tmp_path) for _ in range(2))
    data, *more = (phantoms.to_bytes(ds) for ds in ct(3))
    assert [keep(one, data), keep(other, data)] == [Kept.STORED, Kept.DUPLICATE]
    with database.write() as session:  # what an unflushed commit leaves after a crash: nothing
        session.connection().execute(text("DELETE FROM instance"))
    for archive, late in ((other, more[0]), (one, more[1])):
        archive._index._disconnect()
        keep(archive, late)
    found = {one.read(each) for each in one.instances(gate.scan(data).series_instance_uid)}
    assert found == {data, *more}
    for archive in (one, other):
        archive.close()
    database.dispose()


class MemoryStore:
    """A store that keeps no journal, as S3."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def begin(self, size_hint: int | None = None) -> MemoryWriter:
        return MemoryWriter(self)

    def put(self, data: bytes) -> BlobRef:
        key = f"object-{len(self.objects)}"
        self.objects[key] = data
        return BlobRef(key, 0, len(data))

    def read(self, ref: BlobRef, start: int = 0, length: int | None = None) -> bytes:
        return self.objects[ref.key][start:][:length]

    def stream(self, ref: BlobRef, chunk_size: int = 1 << 20) -> Iterator[bytes]:
        yield self.objects[ref.key]

    def delete(self, ref: BlobRef) -> None:
        del self.objects[ref.key]


class MemoryWriter:
    def __init__(self, store: MemoryStore) -> None:
        self._store, self.head = store, b""

    @property
    def size(self) -> int:
        return len(self.head)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.head += bytes(data)

    def commit(self) -> BlobRef:
        return self._store.put(self.head)

    def discard(self) -> None:
        """There is nothing to remove."""


def test_without_a_journal_every_acknowledged_commit_is_synced(database: Database) -> None:
    archive = Archive(database, MemoryStore(), conflict="replace")
    flushes: list[int] = []

    class WatchedIndex(Index):
        def flush(self) -> None:
            flushes.append(1)
            super().flush()

    archive._index = index = WatchedIndex(database, silence=1.0, synced=True)
    (ds,) = ct()
    keep(archive, phantoms.to_bytes(ds))
    asked = "PRAGMA synchronous" if database.is_sqlite else "SHOW synchronous_commit"
    assert index._connection is not None
    cursor = index._connection.cursor()
    cursor.execute(asked)
    assert cursor.fetchone()[0] in (2, "on")
    cursor.close()
    index._connection.rollback()
    ds.PatientName = "Other"
    assert keep(archive, phantoms.to_bytes(ds)) is Kept.REPLACED
    assert flushes == [1]
    archive.close()


def test_what_arrives_while_names_are_settled_is_flushed_before_its_name_goes(
    database: Database, tmp_path: Path
) -> None:
    flushes: list[int] = []
    seen: list[tuple[int, int]] = []

    class WatchedIndex(Index):
        def flush(self) -> None:
            super().flush()
            flushes.append(1)

    class BusyStore(FolderStore):
        def settle(self, known: Known) -> None:
            def watched(refs: Sequence[BlobRef]) -> set[BlobRef]:
                flushes.clear()
                found = known(refs)
                seen.append((len(found), len(flushes)))
                return found

            super().settle(watched)

    archive = Archive(database, BusyStore(tmp_path / "store", min_free_bytes=0, segment_bytes=4 << 20))
    archive._index = WatchedIndex(database, silence=1.0, synced=False)
    for ds in (*ct(1, "small"), *phantoms.series(np.zeros((1, 800, 800), np.float32), name="large")):
        keep(archive, phantoms.to_bytes(ds))
    archive.close()
    assert seen == [(1, 1), (1, 1), (0, 0)], "every row that was seen was flushed after that"


def test_a_recovery_that_the_database_interrupts_is_done_by_the_next(database: Database, tmp_path: Path) -> None:
    writer = FolderStore(tmp_path / "store", min_free_bytes=0).begin()
    writer.write(phantoms.to_bytes(ct()[0]))
    writer.stage()
    store = writer._store
    store.area().release()  # its process died
    archive = open_archive(database, tmp_path, retry_seconds=0.0)
    with database.write() as session:
        session.connection().execute(text("ALTER TABLE audit_event RENAME TO gone"))
    with pytest.raises(DatabaseUnavailable if database.is_sqlite else Exception):
        archive.recover()
    with database.write() as session:
        session.connection().execute(text("ALTER TABLE gone RENAME TO audit_event"))
    assert archive.recover() == 1
    archive.close()


def test_recovery_waits_for_the_last_commit_of_the_dead_and_keeps_the_files_of_its_results(
    database: Database, tmp_path: Path
) -> None:
    if database.is_sqlite:
        pytest.skip("its commits are over when their process is")
    dead, ds = open_archive(database, tmp_path), ct(name="result")[0]
    data = phantoms.to_bytes(ds)
    with database.write() as session:
        job = JobRow(job_uid="1.2", dedupe_key="1", study_instance_uid="1", series_instance_uids="[]")
        job.created_at = job.not_before = 0.0
        session.add(job)
    blob = dead.store.put(data)
    held = database.engine.connect()
    with Session(bind=held) as session:
        dead.register_results(session, 1, [("SEG", blob, gate.scan(data, size=len(data)))])
        dead.store.area().release()  # it dies here; the server has its commit, and has not come to it yet
        recovery = threading.Thread(target=open_archive(database, tmp_path).recover)
        recovery.start()
        recovery.join(1.0)
        session.commit()
    recovery.join(20.0)
    held.close()
    (result,) = dead.results(1)
    assert dead.read(result) == data


def test_nul_bytes_in_the_header_are_no_reason_to_refuse_an_instance(archive: Archive) -> None:
    (ds,) = ct()
    ds.Modality, ds.StudyDate, ds.PatientName, ds.ImageType = "C\0T", "2020\x000101", "A\0B", ["ORIG\0INAL", "AXIAL"]
    assert keep(archive, phantoms.to_bytes(ds)) is Kept.STORED
    attributes = archive.summary(ds.SeriesInstanceUID).attributes
    assert (attributes["Modality"], attributes["PatientName"]) == ("CT", "AB")


def test_what_recovery_indexes_keeps_who_brought_it(database: Database, tmp_path: Path) -> None:
    dead, ds = open_archive(database, tmp_path), ct()[0]
    ds.file_meta.SourceApplicationEntityTitle = "MODALITY"
    writer = dead.begin()
    writer.write(phantoms.to_bytes(ds))
    assert isinstance(writer, StagedWriter)
    writer.stage()
    dead.store.area().release()  # type: ignore[attr-defined]
    archive = open_archive(database, tmp_path)
    assert archive.recover() == 1
    with database.read() as session:
        assert session.connection().scalar(select(SERIES.c.source)) == "MODALITY"
    archive.close()
