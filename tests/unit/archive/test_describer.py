"""The describer: several at once, instances that vanish or change, files that cannot be read."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import SQLModel

from imaging_ai.archive.blobs import FolderStore
from imaging_ai.archive.describer import LOST, Describer
from imaging_ai.archive.document import unpack_json
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import StoredInstance
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import InstanceRow, SeriesRow, StudyRow
from imaging_ai.errors import NotFound, StorageUnavailable
from sealing import open_folder

TS = "1.2.840.10008.1.2.5"


class Archive:
    """A database and a folder with instances that nobody has described."""

    def __init__(self, url: str, folder: Path) -> None:
        self.database = Database(url)
        SQLModel.metadata.drop_all(self.database.engine)
        SQLModel.metadata.create_all(self.database.engine)
        self.store = FolderStore(folder / "objects", sync=False)
        with self.database.write() as session:
            session.add(StudyRow(id=1, study_instance_uid="1.1", created_at=0.0, updated_at=0.0))
            session.flush()
            times = {"settle_at": 0.0, "last_received_at": 0.0, "created_at": 0.0}
            session.add(SeriesRow(id=1, study_id=1, series_instance_uid="1.1.1", **times))

    def add(self, *files: bytes) -> list[StoredInstance]:
        """Store files as instances 1.1.1.1, 1.1.1.2, …"""
        with self.database.read() as session:
            first = 1 + (session.connection().execute(text("SELECT max(id) FROM instance")).scalar() or 0)
        refs = [self.store.put(data) for data in files]
        instances = [
            StoredInstance(f"1.1.1.{number}", "1.2.840.10008.5.1.4.1.1.4", TS, "1.1", "1.1.1", number, ref)
            for number, ref in enumerate(refs, start=first)
        ]
        with self.database.write() as session:
            for instance in instances:
                session.add(
                    InstanceRow(
                        id=instance.instance_number,
                        sop_instance_uid=instance.sop_instance_uid,
                        series_id=1,
                        sop_class_uid=instance.sop_class_uid,
                        transfer_syntax_uid=TS,
                        blob_key=instance.blob.key,
                        blob_offset=instance.blob.offset,
                        blob_length=instance.blob.length,
                        received_at=0.0,
                    )
                )
        return instances

    def run(self, statement: str, **values: Any) -> None:
        with self.database.write() as session:
            session.connection().execute(text(statement), values)

    def documents(self) -> dict[int, tuple[dict[str, Any], str]]:
        """What is kept: instance id -> (JSON, error)."""
        with self.database.read() as session:
            rows = session.connection().execute(
                text("SELECT instance_id, metadata_json, error FROM instance_document ORDER BY instance_id")
            )
            return {row[0]: (json.loads(unpack_json(row[1])), row[2]) for row in rows}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    url = f"sqlite:///{tmp_path}/index.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Archive(url, tmp_path)
    yield made
    made.database.dispose()


@pytest.fixture
def file(real_data: Path) -> bytes:
    return (real_data / "syntaxes" / "emri_small_RLE.dcm").read_bytes()


def test_pending_instances_are_described_once(archive: Archive, file: bytes) -> None:
    archive.add(*[file] * 5)
    describer = Describer(archive.database, archive.store)
    assert sum(describer.describe_pending(limit=2) for _ in range(3)) == 5
    assert describer.describe_pending() == 0
    documents = archive.documents()
    assert list(documents) == [1, 2, 3, 4, 5]
    assert documents[3][0]["7FE00010"]["BulkDataURI"] == "instances/1.1.1.3/bulkdata/7FE00010"
    assert documents[3][1] == ""
    archive.add(file)
    assert describer.describe_pending() == 1


def test_the_document_of_an_instance_is_made_on_demand_and_kept(archive: Archive, file: bytes) -> None:
    instance, _ = archive.add(file, file)
    describer = Describer(archive.database, archive.store)
    made = describer.document_of(instance)
    assert list(archive.documents()) == [1]
    kept = describer.document_of(instance)
    assert kept == made
    assert kept.frames.count == 10
    assert kept.transfer_syntax_uid == TS
    [pixels] = kept.bulk
    assert archive.store.read(instance.blob, pixels.offset, 4) == b"\xfe\xff\x00\xe0"
    offset, length = kept.frames.ranges(10)[0]
    assert len(archive.store.read(instance.blob, offset, length)) == length > 0


def test_an_instance_that_is_not_in_the_index_is_not_found(archive: Archive, file: bytes) -> None:
    [instance] = archive.add(file)
    archive.run("DELETE FROM instance")
    with pytest.raises(NotFound):
        Describer(archive.database, archive.store).document_of(instance)


class ChangesMeanwhile(FolderStore):
    """A store during whose reads somebody else changes the index."""

    change: Any = None

    def read(self, ref: BlobRef, start: int = 0, length: int | None = None) -> bytes:
        if self.change:
            change, self.change = self.change, None
            change()
        return super().read(ref, start, length)


@pytest.mark.parametrize(
    "change", ["DELETE FROM instance WHERE id = 2", "UPDATE instance SET blob_key = 'other' WHERE id = 2"]
)
def test_an_instance_deleted_or_replaced_meanwhile_gets_no_document(
    archive: Archive, file: bytes, tmp_path: Path, change: str
) -> None:
    archive.add(file, file, file)
    store = ChangesMeanwhile(tmp_path / "objects", sync=False)
    store.change = lambda: archive.run(change)
    Describer(archive.database, store).describe_pending()
    assert list(archive.documents()) == [1, 3]


def test_what_cannot_be_understood_gets_what_the_index_knows_and_the_reason(archive: Archive, file: bytes) -> None:
    archive.add(b"\0" * 500, file[:1500], file)
    gone = archive.add(file)[0]
    archive.store.delete(gone.blob)
    describer = Describer(archive.database, archive.store)
    assert describer.describe_pending() == 4
    documents = archive.documents()
    uids = {tag: value["Value"][0] for tag, value in documents[1][0].items()}
    assert uids == {
        "00080016": "1.2.840.10008.5.1.4.1.1.4",
        "00080018": "1.1.1.1",
        "0020000D": "1.1",
        "0020000E": "1.1.1",
    }
    assert "neither" in documents[1][1]
    assert "00080060" in documents[2][0]
    assert "cut short" in documents[2][1]
    assert documents[3][1] == ""
    assert documents[4][1] != ""
    assert describer.describe_pending() == 0


def test_several_describers_share_the_work(archive: Archive, file: bytes) -> None:
    archive.add(*[file] * 120)
    errors: list[BaseException] = []

    def work() -> None:
        describer = Describer(archive.database, archive.store)
        try:
            while describer.describe_pending(limit=10):
                continue
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(archive.documents()) == 120


class Unavailable(FolderStore):
    """A store that is down."""

    is_down = True

    def read(self, ref: BlobRef, start: int = 0, length: int | None = None) -> bytes:
        if self.is_down:
            raise StorageUnavailable("the object storage does not answer")
        return super().read(ref, start, length)


def test_a_store_that_is_down_leaves_everything_pending_and_the_loop_goes_on_when_it_is_back(
    archive: Archive, file: bytes, tmp_path: Path
) -> None:
    archive.add(file)
    store = Unavailable(tmp_path / "objects", sync=False)
    describer = Describer(archive.database, store)
    with pytest.raises(StorageUnavailable):
        describer.describe_pending()
    assert archive.documents() == {}
    stop, wake = threading.Event(), threading.Event()
    loop = threading.Thread(target=describer.run, args=(stop, wake), kwargs={"poll_seconds": 0.02})
    loop.start()
    time.sleep(0.1)
    store.is_down = False
    deadline = time.monotonic() + 20
    while not archive.documents() and time.monotonic() < deadline:
        time.sleep(0.02)
    archive.add(file)
    wake.set()
    while len(archive.documents()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    wake.set()
    loop.join(10)
    assert not loop.is_alive()
    assert list(archive.documents()) == [1, 2]


def test_an_instance_committed_late_under_an_earlier_id_is_still_found(archive: Archive, file: bytes) -> None:
    archive.add(*[file] * 30)
    archive.run("UPDATE instance SET id = id + 100 WHERE id > 20")
    describer = Describer(archive.database, archive.store)
    while describer.describe_pending(limit=50):
        continue
    archive.run("UPDATE instance SET id = 25 WHERE id = 130")
    archive.run("DELETE FROM instance_document WHERE instance_id = 130")
    assert describer.describe_pending() == 1
    assert 25 in archive.documents()


def test_a_damaged_instance_holds_up_no_other(archive: Archive, file: bytes, tmp_path: Path) -> None:
    archive.store = open_folder("sealed", tmp_path / "objects")
    _, damaged, _ = (one.blob for one in archive.add(file, file, file))
    with archive.store.path(damaged).open("r+b") as segment:
        segment.seek(damaged.offset + 300)
        segment.write(bytes(8))
    assert Describer(archive.database, archive.store).describe_pending() == 3
    errors = [error for _, error in archive.documents().values()]
    assert errors == ["", LOST, ""]
