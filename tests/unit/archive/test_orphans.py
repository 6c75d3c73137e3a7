"""Objects that no row names: which are removed, when, and what is never touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from imaging_ai.archive.find import INSTANCE, REPLACED, SERIES, STUDY
from imaging_ai.archive.orphans import Listed, OrphanSweep
from imaging_ai.core.blob import BlobRef
from imaging_ai.db.engine import Database
from ledgers import Clock

HOUR = 3600.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path}/index.db")
    SQLModel.metadata.create_all(opened.engine)
    with opened.write() as session:
        now = {"created_at": 0.0}
        session.connection().execute(STUDY.insert().values(id=1, study_instance_uid="1.2", updated_at=0.0, **now))
        times = {"settle_at": 0.0, "last_received_at": 0.0, **now}
        session.connection().execute(SERIES.insert().values(id=1, study_id=1, series_instance_uid="1.3", **times))
    yield opened
    opened.dispose()


class Bucket:
    """Objects by key, with the time they were put there."""

    def __init__(self) -> None:
        self.objects: dict[str, float] = {}
        self.pages = 0

    def page(self, after: str, most: int) -> tuple[Sequence[Listed], str]:
        self.pages += 1
        keys = sorted(key for key in self.objects if key > after)
        listed = [Listed(BlobRef(key, 0, 1), self.objects[key]) for key in keys[:most]]
        return listed, keys[most - 1] if len(keys) >= most else ""

    def delete(self, ref: BlobRef) -> None:
        del self.objects[ref.key]


def name(database: Database, key: str, table: object = INSTANCE) -> None:
    blob = {"blob_key": key, "blob_offset": 0, "blob_length": 1}
    row = {"sop_instance_uid": f"1.4.{key}", "received_at": 0.0, "replaced_at": 0.0, "series_id": 1}
    row |= {"sop_class_uid": "1.5", "transfer_syntax_uid": "1.6"}
    with database.write() as session:
        columns = table.c.keys()  # type: ignore[attr-defined]
        values = {column: value for column, value in (row | blob).items() if column in columns}
        session.connection().execute(table.insert().values(values))  # type: ignore[attr-defined]


def test_what_is_old_and_nameless_is_removed_when_it_still_is_later(database: Database) -> None:
    clock, bucket = Clock(), Bucket()
    sweep = OrphanSweep(database, bucket, age=HOUR, patience=600, clock=clock)
    bucket.objects = {"held": clock.now, "kept-aside": clock.now, "orphan": clock.now}
    name(database, "held")
    name(database, "kept-aside", REPLACED)
    assert sweep.run() == 0
    clock.advance(HOUR - 1)
    assert [sweep.run(), sweep.run()] == [0, 0], "not old enough"
    clock.advance(2)
    assert sweep.run() == 0, "a suspect"
    clock.advance(599)
    assert sweep.run() == 0
    clock.advance(2)
    assert sweep.run() == 1
    assert sorted(bucket.objects) == ["held", "kept-aside"]


def test_an_upload_that_began_long_ago_and_has_just_ended_is_spared(database: Database) -> None:
    """S3 dates an object that comes in parts by its beginning."""
    clock, bucket = Clock(), Bucket()
    sweep = OrphanSweep(database, bucket, age=HOUR, clock=clock)
    bucket.objects = {"slow": clock.now - 2 * HOUR}
    sweep.run()
    name(database, "slow")  # its row, a moment later
    clock.advance(HOUR)
    assert sweep.run() == 0
    assert bucket.objects


def test_the_whole_store_is_looked_at_page_by_page(database: Database) -> None:
    clock, bucket = Clock(), Bucket()
    sweep = OrphanSweep(database, bucket, age=HOUR, patience=600, clock=clock)
    bucket.objects = {f"{number:05}": clock.now - 2 * HOUR for number in range(2500)}
    orphans = ["00007", "01500", "02499"]
    for key in bucket.objects:
        if key not in orphans:
            name(database, key)
    for _ in range(3):
        sweep.run()
    clock.advance(601)
    assert sweep.run() == 3
    assert bucket.pages == 4
    assert len(bucket.objects) == 2497


def test_the_storage_of_another_database_is_not_touched(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    clock, bucket = Clock(), Bucket()
    sweep = OrphanSweep(database, bucket, age=HOUR, clock=clock)
    bucket.objects = {f"{number:05}": clock.now - 2 * HOUR for number in range(100)}
    for _ in range(3):
        assert sweep.run() == 0
        clock.advance(HOUR)
    assert len(bucket.objects) == 100
    assert "does this storage belong to this database" in caplog.text
