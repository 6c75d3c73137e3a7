"""DELETE: what is gone is gone from everywhere, is told as gone, and can come back."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from sqlalchemy import insert, select
from sqlmodel import Session, SQLModel

import phantoms
import storing
from imaging_ai.archive import find, gate
from imaging_ai.archive.archive import Archive, Visit
from imaging_ai.archive.deletion import delete_instances
from imaging_ai.archive.folder import FolderStore
from imaging_ai.archive.log import records
from imaging_ai.archive.shelf import shelved
from imaging_ai.core.finding import ClassDescription, Code, Evaluation
from imaging_ai.core.job import Failure, Job, JobRequest, JobState, Stage
from imaging_ai.db.engine import Database
from imaging_ai.errors import DatabaseUnavailable, Gone, NotFound, StorageUnavailable, WrongState
from imaging_ai.keeping import removal
from imaging_ai.queue.evaluations import keep_evaluations
from imaging_ai.queue.ledger import Ledger
from imaging_ai.send.deliveries import Deliveries
from imaging_ai.serve.dicomweb.parts import Parts
from storing import ct, instance, post

TABLES = SQLModel.metadata.tables
WHO = {"source": "MODALITY", "origin_address": "", "door": "dimse"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/index.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    opened = Database(url)
    SQLModel.metadata.create_all(opened.engine)
    yield opened
    opened.dispose()


@pytest.fixture
def parts(database: Database, tmp_path: Path) -> Iterator[Parts]:
    made = storing.make_parts(database, tmp_path)
    yield made
    made.archive.close()


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient[Litestar]]:
    with storing.web(parts) as client:
        yield client


def keep(archive: Archive, data: bytes) -> None:
    writer = archive.begin()
    writer.write(data)
    archive.keep(gate.scan(writer.head, size=writer.size), writer, **WHO)


def store(client: TestClient[Litestar], count: int = 3, name: str = "stow") -> tuple[str, str, list[str]]:
    """Store a series; return its study, itself, and its instances."""
    datasets = ct(count, name)
    assert post(client, [instance(phantoms.to_bytes(ds)) for ds in datasets]).status_code == 200
    study, series = str(datasets[0].StudyInstanceUID), str(datasets[0].SeriesInstanceUID)
    return study, series, [str(ds.SOPInstanceUID) for ds in datasets]


def delete(client: TestClient[Litestar], study: str, series: str = "", sop: str = "") -> int:
    path = f"/dicom-web/studies/{study}"
    path += (f"/series/{series}" if series else "") + (f"/instances/{sop}" if sop else "")
    return client.delete(path).status_code


def rows(parts: Parts, table: str) -> list[dict[str, object]]:
    with parts.database.read() as session:
        return [dict(row._mapping) for row in session.connection().execute(select(TABLES[table]))]


def live(parts: Parts) -> int:
    """How many small objects lie in the storage."""
    return sum(1 for path in (parts.archive.store.root / "logs").rglob("*.log") for _ in records(path))  # type: ignore[attr-defined]


def test_a_study_is_gone_from_everywhere(client: TestClient[Litestar], parts: Parts) -> None:
    study, series, uids = store(client)
    other, *_ = store(client, 2, "other")
    stored = shelved(parts.database, study)[0]
    parts.describer.document_of(stored)
    assert delete(client, study) == 204
    for place in ((study,), (study, series), (study, series, uids[0])):
        with pytest.raises(Gone):
            shelved(parts.database, *place)
    assert [row["study_instance_uid"] for row in rows(parts, "study")] == [other]
    assert [len(rows(parts, table)) for table in ("series", "instance", "instance_document")] == [1, 2, 0]
    assert live(parts) == 2
    with pytest.raises(NotFound):
        parts.archive.read(stored)


def test_a_series_goes_alone_while_its_study_has_others(client: TestClient[Litestar], parts: Parts) -> None:
    study, series, _ = store(client)
    (extra,) = ct(1)
    extra.SeriesInstanceUID, extra.SOPInstanceUID = "1.2.3.4", "1.2.3.4.5"
    post(client, [instance(phantoms.to_bytes(extra))])
    assert delete(client, study, series) == 204
    assert [one.sop_instance_uid for one in shelved(parts.database, study)] == ["1.2.3.4.5"]
    assert delete(client, study, "1.2.3.4") == 204
    assert (rows(parts, "series"), rows(parts, "study")) == ([], [])


def test_the_last_instance_takes_its_parents_along(client: TestClient[Litestar], parts: Parts) -> None:
    study, series, (first, second) = store(client, 2)
    assert delete(client, study, series, first) == 204
    assert [row["instance_count"] for row in rows(parts, "series")] == [1]
    assert [one.sop_instance_uid for one in shelved(parts.database, study)] == [second]
    assert delete(client, study, series, second) == 204
    assert (rows(parts, "series"), rows(parts, "study")) == ([], [])


def test_what_was_deleted_is_410_and_what_never_was_is_404(client: TestClient[Litestar]) -> None:
    study, series, uids = store(client)
    assert delete(client, "1.2.3") == 404
    assert delete(client, study, "1.2.3") == 404
    assert delete(client, study, series, "1.2.3") == 404
    assert delete(client, study, series, uids[0]) == 204
    assert delete(client, study, series, uids[0]) == 410
    assert delete(client, study) == 204
    assert delete(client, study) == delete(client, study, series) == delete(client, study, series, uids[1]) == 410
    assert delete(client, study, "1.2.3") == 404


@pytest.mark.parametrize("place", [("1.2.x",), ("1.2", "'; DROP TABLE study"), ("1.2", "1.3", "..%2f..")])
def test_what_is_no_uid_is_400(client: TestClient[Litestar], place: tuple[str, ...]) -> None:
    assert delete(client, *place) in (400, 404)


def test_stored_again_it_is_there_again(client: TestClient[Litestar], parts: Parts) -> None:
    first = store(client)
    assert delete(client, first[0]) == 204
    assert store(client) == first
    assert len(shelved(parts.database, first[0])) == 3
    assert delete(client, first[0]) == 204
    with pytest.raises(Gone):
        shelved(parts.database, first[0])


def test_the_audit_says_who_deleted_what(client: TestClient[Litestar], parts: Parts) -> None:
    study, series, _ = store(client)
    delete(client, study, series)
    (event,) = (row for row in rows(parts, "audit_event") if row["action"] == "delete-instances")
    assert (event["object_type"], event["object_uid"], event["detail"]) == ("series", series, "3 instances")


def test_what_was_replaced_goes_too(database: Database, tmp_path: Path) -> None:
    parts = storing.make_parts(database, tmp_path, conflict="replace")
    (ds,) = ct()
    with storing.web(parts) as client:
        for comment in ("one", "two", "three"):
            ds.PatientComments = comment
            post(client, [instance(phantoms.to_bytes(ds))])
        assert (len(rows(parts, "replaced_instance")), live(parts)) == (2, 3)
        assert delete(client, ds.StudyInstanceUID) == 204
    assert (rows(parts, "replaced_instance"), live(parts)) == ([], 0)
    parts.archive.close()


# -- jobs and results


def schedule(parts: Parts, study: str, series: str, inputs: list[str], key: str = "one") -> Job:
    request = JobRequest(key, study, (series,), tuple(inputs), 1, model="model", queue="inference-cpu")
    with parts.database.write() as session:
        job_id = parts.ledger.schedule(session, request)
    assert job_id is not None
    return parts.ledger.get(job_id)


def test_a_job_that_waits_on_it_is_cancelled_with_its_reason(client: TestClient[Litestar], parts: Parts) -> None:
    study, series, uids = store(client)
    hit, other = schedule(parts, study, series, uids), schedule(parts, study, series, uids[1:], "two")
    delete(client, study, series, uids[0])
    ended = parts.ledger.get(hit.id)
    assert (ended.state, ended.failure and ended.failure.code) == (JobState.CANCELED, "inputs-deleted")
    assert parts.ledger.get(other.id).state == JobState.SCHEDULED


def test_a_running_job_is_asked_to_stop_and_cannot_complete(client: TestClient[Litestar], parts: Parts) -> None:
    study, series, uids = store(client)
    schedule(parts, study, series, uids)
    job = parts.ledger.claim("inference-cpu", "worker", 60)
    assert job is not None
    delete(client, study)
    assert parts.ledger.get(job.id).cancel_requested
    with pytest.raises(WrongState), parts.database.write() as session:
        parts.ledger.complete(session, job.id, job.attempt, {})
    parts.ledger.fail(job.id, job.attempt, Failure(Stage.READ, "not-found", "gone", permanent=True))
    assert parts.ledger.get(job.id).state == JobState.CANCELED


def complete(parts: Parts, study: str, series: str, inputs: list[str], results: int = 1) -> tuple[Job, str]:
    """A job with results, the first to be delivered; returns that one's UID."""
    schedule(parts, study, series, inputs)
    job = parts.ledger.claim("inference-cpu", "worker", 60)
    assert job is not None
    staged = []
    for number, ds in enumerate(ct(results), 1):
        ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2.9", f"1.2.9.{number}"
        data = phantoms.to_bytes(ds)
        staged.append(("SEG", parts.archive.store.put(data), gate.scan(data)))
    with parts.database.write() as session:
        parts.ledger.complete(session, job.id, job.attempt, {})
        parts.archive.register_results(session, job.id, staged)
        finding = {"job_id": job.id, "tracking_uid": "1.2.9.2", "segment_number": 1, "label": "", "found": True}
        finding |= {"type_code": "", "type_scheme": "", "type_meaning": "", "measurements": "[]"}
        session.connection().execute(insert(TABLES["finding"]).values(finding))
        said = Evaluation(ClassDescription("", Code("", "", "")), 0.5, "", "")
        keep_evaluations(session.connection(), job.id, [said])
        Deliveries(parts.database).schedule(session, job.id, ["1.2.9.1"], ["PACS"])
    return job, "1.2.9.1"


def test_the_delivery_of_a_deleted_result_ends_and_its_findings_go(client: TestClient[Litestar], parts: Parts) -> None:
    study, series, uids = store(client)
    job, result = complete(parts, study, series, uids)
    assert delete(client, study, "1.2.9", result) == 204
    (delivery,) = Deliveries(parts.database).find(job_id=job.id)
    assert (delivery.state, delivery.reason, delivery.next_attempt_at) == ("DEAD", "the instance was deleted", None)
    assert rows(parts, "finding") == rows(parts, "evaluation") == []
    assert parts.archive.results(job.id) == ()
    assert parts.ledger.get(job.id).state == JobState.COMPLETED


def test_what_was_sent_stays_told_as_sent(client: TestClient[Litestar], parts: Parts) -> None:
    study, series, uids = store(client)
    complete(parts, study, series, uids)
    deliveries = TABLES["delivery"]
    with parts.database.write() as session:
        session.connection().execute(deliveries.update().values(state="SENT", next_attempt_at=0.0))
    delete(client, study)
    (row,) = rows(parts, "delivery")
    assert (row["state"], row["next_attempt_at"]) == ("SENT", math.inf)


def test_deleting_the_images_keeps_the_results(client: TestClient[Litestar], parts: Parts) -> None:
    study, series, uids = store(client)
    _, result = complete(parts, study, series, uids)
    delete(client, study, series)
    assert [one.sop_instance_uid for one in shelved(parts.database, study)] == [result]
    assert len(rows(parts, "finding")) == 1
    assert [row["state"] for row in rows(parts, "delivery")] == ["WAITING"]


def test_findings_stay_as_long_as_an_object_of_their_job(client: TestClient[Litestar], parts: Parts) -> None:
    study, series, uids = store(client)
    _, result = complete(parts, study, series, uids, results=2)
    delete(client, study, "1.2.9", result)
    assert len(rows(parts, "finding")) == len(rows(parts, "evaluation")) == 1
    delete(client, study, "1.2.9")
    assert rows(parts, "finding") == rows(parts, "evaluation") == []


# -- crashes, and others at work


def test_bytes_that_a_crash_left_are_removed_later(
    client: TestClient[Litestar], parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, *_ = store(client)

    def away(_blob: object) -> None:
        raise StorageUnavailable("the storage does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(parts.archive.store, "delete", away)
        assert delete(client, study) == 204, "the index says that it is deleted"
    assert live(parts) == 3
    assert parts.archive.remove_deleted() == 3
    assert (live(parts), parts.archive.remove_deleted()) == (0, 0)


def test_recovery_does_not_bring_back_what_was_deleted(parts: Parts, tmp_path: Path) -> None:
    """A process dies with instances that the index may not have durably; others deleted some of them before."""
    dying = Archive(parts.database, FolderStore(tmp_path / "store", min_free_bytes=0))
    datasets = ct(3)
    for ds in datasets:
        keep(dying, phantoms.to_bytes(ds))
    with parts.database.write() as session:
        assert delete_instances(session, [ds.SOPInstanceUID for ds in datasets[:2]]) == 2
    dying.store._area.release()  # type: ignore[attr-defined] # its lock, as the end of the process does
    recovering = Archive(parts.database, FolderStore(tmp_path / "store", min_free_bytes=0))
    assert recovering.recover() == 0
    assert [one.sop_instance_uid for one in shelved(parts.database, ds.StudyInstanceUID)] == [ds.SOPInstanceUID]
    assert recovering.remove_deleted() == 2
    recovering.close()


def test_a_process_that_knew_the_series_stores_into_a_new_one(
    client: TestClient[Litestar], parts: Parts, tmp_path: Path
) -> None:
    """SQLite gives the number of a deleted row to the next one: what others remember of it must not be believed."""
    elsewhere = Archive(parts.database, FolderStore(tmp_path / "store", min_free_bytes=0))
    first, second = ct(2, "first")
    keep(elsewhere, phantoms.to_bytes(first))
    assert delete(client, first.StudyInstanceUID) == 204
    store(client, 1, "another")
    keep(elsewhere, phantoms.to_bytes(second))
    (found,) = shelved(parts.database, second.StudyInstanceUID)
    assert (found.sop_instance_uid, found.series_instance_uid) == (second.SOPInstanceUID, second.SeriesInstanceUID)
    assert len(rows(parts, "series")) == 2
    elsewhere.close()


def test_what_is_deleted_while_it_is_stored_again_is_stored(
    client: TestClient[Litestar], parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _, (uid,) = store(client, 1)
    read = parts.archive.store.read
    deleted: list[int] = []

    def meanwhile(*arguments: object) -> bytes:
        if not deleted:
            deleted.append(0)
            deleted.append(delete(client, study))
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(parts.archive.store, "read", meanwhile)
    for ds in ct(1):
        keep(parts.archive, phantoms.to_bytes(ds))
    assert deleted == [0, 204]
    assert [one.sop_instance_uid for one in shelved(parts.database, study)] == [uid]


def test_deleting_and_storing_the_same_study_at_once_leaves_every_row_whole(parts: Parts) -> None:
    """Whatever wins, each instance is either there, with bytes and parents, or gone."""
    data = {ds.SOPInstanceUID: phantoms.to_bytes(ds) for ds in ct(8)}
    study = ct(1)[0].StudyInstanceUID
    problems: list[object] = []
    begun, stop = threading.Event(), threading.Event()

    def storing_again(some: list[bytes]) -> None:
        with storing.web(parts) as client:
            while not stop.is_set():
                answer = post(client, map(instance, some))
                if answer.status_code != 200:
                    problems.append(answer.json())
                begun.set()

    halves = list(data.values())[:4], list(data.values())[4:]
    threads = [threading.Thread(target=storing_again, args=(half,)) for half in halves]
    for thread in threads:
        thread.start()
    assert begun.wait(60), "something is stored before the first deletion"
    with storing.web(parts) as client:
        statuses = {delete(client, study) for _ in range(25)}
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == [] and 204 in statuses and statuses <= {204, 404, 410}
    with storing.web(parts) as client:
        post(client, map(instance, data.values()))
    found = shelved(parts.database, study)
    assert {one.sop_instance_uid: parts.archive.read(one) for one in found} == data
    (series,) = rows(parts, "series")
    assert series["instance_count"] == 8
    parts.archive.remove_deleted()
    assert live(parts) == 8
    assert find.known(parts.database, [one.blob for one in found]) == {one.blob for one in found}


def test_a_visit_is_no_reason_to_keep_what_was_deleted(client: TestClient[Litestar], parts: Parts) -> None:
    """An association whose series is deleted under it ends as any other."""
    (ds,) = ct()
    visit = Visit("MODALITY", "", "dimse")
    writer = parts.archive.begin()
    writer.write(phantoms.to_bytes(ds))
    parts.archive.keep(gate.scan(writer.head, size=writer.size), writer, visit=visit, **WHO)
    delete(client, ds.StudyInstanceUID)
    parts.archive.leave(visit)
    assert Ledger(parts.database).find() == []


@pytest.fixture
def server(postgres_url: str, tmp_path: Path) -> Iterator[Parts]:
    """The parts of a process on PostgreSQL, where others write at the same moment."""
    database = Database(postgres_url)
    SQLModel.metadata.create_all(database.engine)
    made = storing.make_parts(database, tmp_path)
    yield made
    made.archive.close()
    database.dispose()


@pytest.mark.service
def test_what_is_just_arriving_is_waited_for_and_goes_too(server: Parts) -> None:
    with storing.web(server) as client, ThreadPoolExecutor(1) as pool:
        study, series, _ = store(client, 1)
        (row,) = rows(server, "instance")
        arriving = {name: value for name, value in row.items() if name != "id"} | {"sop_instance_uid": "1.2.3"}
        with server.database.write() as session:
            session.connection().execute(insert(TABLES["instance"]).values(arriving))
            deleting = pool.submit(delete, client, study, series)
            with pytest.raises(TimeoutError):
                deleting.result(0.5)
        assert deleting.result(30) == 204
    assert [rows(server, table) for table in ("study", "series", "instance")] == [[], [], []]


@pytest.mark.service
def test_a_job_that_is_made_meanwhile_is_cancelled_too(server: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    with storing.web(server) as client:
        study, series, uids = store(client)
        lock, made = removal.lock_series, []

        def meanwhile(session: Session, *place: str) -> None:
            made.append(schedule(server, study, series, uids))
            lock(session, *place)

        monkeypatch.setattr(removal, "lock_series", meanwhile)
        assert delete(client, study) == 204
    assert server.ledger.get(made[0].id).state == JobState.CANCELED


@pytest.mark.service
def test_of_two_transactions_that_wait_for_each_other_the_deletion_tries_again(
    server: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storing.web(server) as client:
        study, *_ = store(client)
        lock, failures = removal.lock_series, [DatabaseUnavailable("deadlock detected")] * 2

        def unlucky(session: Session, *place: str) -> None:
            if failures:
                raise failures.pop()
            lock(session, *place)

        monkeypatch.setattr(removal, "lock_series", unlucky)
        assert delete(client, study) == 204
    assert len([row for row in rows(server, "audit_event") if row["action"] == "delete-instances"]) == 1


@pytest.mark.service
def test_what_goes_in_again_after_the_server_died_leaves_out_what_was_deleted(server: Parts, tmp_path: Path) -> None:
    """Commits of the last seconds may be lost with a PostgreSQL server, so they are made again; a deletion is not."""
    elsewhere = Archive(server.database, FolderStore(tmp_path / "store", min_free_bytes=0))
    kept, gone, later = ct(3)
    for ds in (kept, gone):
        keep(elsewhere, phantoms.to_bytes(ds))
    with storing.web(server) as client:
        assert delete(client, gone.StudyInstanceUID, gone.SeriesInstanceUID, gone.SOPInstanceUID) == 204
    elsewhere._index._disconnect()
    keep(elsewhere, phantoms.to_bytes(later))
    found = [one.sop_instance_uid for one in shelved(server.database, kept.StudyInstanceUID)]
    assert found == [kept.SOPInstanceUID, later.SOPInstanceUID]
    elsewhere.close()
