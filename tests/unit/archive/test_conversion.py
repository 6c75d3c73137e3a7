"""Bringing an archive under encryption and back: everything stays readable, and it may end anywhere."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from sqlalchemy import select, text
from sqlmodel import Session, SQLModel

import phantoms
import sealing
from imaging_ai.archive import log
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.conversion import Held, held
from imaging_ai.archive.deletion import delete_instances, was_deleted
from imaging_ai.archive.describer import Describer
from imaging_ai.archive.find import INSTANCE, REPLACED
from imaging_ai.archive.s3 import S3Store
from imaging_ai.archive.sealed_s3 import S3Cabinet, SealedS3Store
from imaging_ai.core.blob import BlobRef
from imaging_ai.db.engine import Database
from imaging_ai.errors import DatabaseUnavailable, NotFound
from imaging_ai.keys.file import FileKeys
from imaging_ai.keys.ring import KeyRing
from sealing import found_in, key_file, open_folder, sealed_folder
from services.s3 import Bucket
from shelf import keep

MARK = b"MARKED^BYTES"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/index.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    opened = Database(url)
    SQLModel.metadata.create_all(opened.engine)
    yield opened
    opened.dispose()


def marked(name: str, *, large: bool = False, number: int = 0) -> bytes:
    """An instance whose bytes hold the mark."""
    ds: Dataset = phantoms.series(np.zeros((1, 8, 8), np.float32), name=name)[0]
    ds.ImageComments = f"{MARK.decode()} {number}"
    if large:
        ds.Rows = ds.Columns = 1024
        ds.PixelData = (MARK * (2 * 1024 * 1024 // len(MARK) + 1))[: 2 * 1024 * 1024]
    return phantoms.to_bytes(ds)


def root(folder: Path) -> Path:
    return folder / "objects"


def plain(database: Database, folder: Path) -> Archive:
    store = open_folder("plain", root(folder), min_free_bytes=0, segment_bytes=4 << 20)
    return Archive(database, store, conflict="replace")


def encrypting(database: Database, folder: Path, *, seals: bool = True) -> Archive:
    store = sealed_folder(root(folder), key_file(folder), seals=seals, min_free_bytes=0, segment_bytes=4 << 20)
    return Archive(database, store, conflict="replace")


def fill(archive: Archive) -> dict[str, bytes]:
    """Keep small instances and large ones, one of them replaced."""
    data = {f"small {n}": marked(f"small {n}") for n in range(6)} | {"large": marked("large", large=True)}
    for one in data.values():
        keep(archive, one)
    data["small 0"] = marked("small 0", number=1)
    keep(archive, data["small 0"])
    archive.close()
    return data


def contents(archive: Archive) -> list[bytes]:
    """All that the index names, what was replaced too."""
    found = []
    with archive.database.read() as session:
        for table in (INSTANCE, REPLACED):
            columns = table.c.blob_key, table.c.blob_offset, table.c.blob_length
            found += session.connection().execute(select(*columns)).all()
    return sorted(archive.store.read(BlobRef(*row)) for row in found)


def convert(archive: Archive, *, seals: bool = True, keep_seconds: float = 0.0) -> int:
    conversion = archive.conversion(seals=seals, keep_seconds=keep_seconds)
    done = sum(batch.objects for batch in conversion.run())
    archive.remove_deleted()
    return done


def test_an_archive_goes_under_encryption_and_back_with_everything_in_it(database: Database, tmp_path: Path) -> None:
    data = fill(plain(database, tmp_path))
    archive = encrypting(database, tmp_path)
    before = contents(archive)
    assert len(before) == len(data) + 1
    Describer(database, archive.store).describe_pending()
    size = sum(map(len, before))
    assert held(database, sealed=False) == Held(len(before), size)
    assert convert(archive) == len(before)
    assert held(database, sealed=True) == Held(len(before), size)
    assert held(database, sealed=False) == Held(0, 0)
    assert contents(archive) == before
    assert found_in(root(tmp_path), MARK) == []
    with database.read() as session:
        assert session.connection().scalar(text("SELECT count(*) FROM instance_document")) == len(data)
    assert convert(archive) == 0, "once is enough"
    archive.close()
    back = encrypting(database, tmp_path, seals=False)
    assert convert(back, seals=False) == len(before)
    back.close()
    opened = plain(database, tmp_path)
    assert contents(opened) == before
    assert found_in(root(tmp_path), MARK)
    assert not list((root(tmp_path) / "objects").rglob("*.sealed.dcm"))
    opened.close()


def test_who_is_reading_an_object_reads_on_and_it_is_not_called_deleted(database: Database, tmp_path: Path) -> None:
    fill(plain(database, tmp_path))
    archive = encrypting(database, tmp_path)
    with database.read() as session:
        rows = session.connection().execute(select(INSTANCE)).all()
    refs = [BlobRef(row.blob_key, row.blob_offset, row.blob_length) for row in rows]
    convert(archive, keep_seconds=1000.0)
    assert all(len(archive.store.read(ref)) == ref.length for ref in refs)
    with database.write() as session:
        study = session.connection().execute(text("SELECT study_instance_uid FROM study")).first()
        assert study is not None and not was_deleted(session, study[0])
        session.connection().execute(text("UPDATE deleted_instance SET deleted_at = deleted_at - 1001"))
    assert archive.remove_deleted() == len(refs) + 1
    for ref in refs:
        with pytest.raises(NotFound):
            archive.store.read(ref)
    archive.close()


def test_what_is_deleted_meanwhile_is_not_brought_back(database: Database, tmp_path: Path) -> None:
    data = fill(plain(database, tmp_path))
    archive = encrypting(database, tmp_path)
    conversion = archive.conversion(seals=True, keep_seconds=0.0)
    real = conversion._put

    def late(copies: list[object]) -> Held:
        with database.write() as session:
            delete_instances(session, uids(session)[:2])
        return real(copies)  # type: ignore[arg-type]

    conversion._put = late  # type: ignore[method-assign]
    next(conversion.run())
    archive.remove_deleted()
    assert len(contents(archive)) == len(data) - 2
    (segment,) = (root(tmp_path) / "logs").rglob("*.sealed.log")
    assert len(list(log.records(segment))) == len(data) - 3, "copies of what was deleted are gone; one is no small one"
    archive.close()
    assert found_in(root(tmp_path), MARK) == []


def test_what_is_replaced_meanwhile_is_not_put_back(database: Database, tmp_path: Path) -> None:
    fill(plain(database, tmp_path))
    archive = encrypting(database, tmp_path)
    conversion = archive.conversion(seals=True, keep_seconds=0.0)
    real, corrected = conversion._put, marked("small 1", number=2)

    def late(copies: list[object]) -> Held:
        conversion._put = real  # type: ignore[method-assign]
        keep(archive, corrected)
        return real(copies)  # type: ignore[arg-type]

    conversion._put = late  # type: ignore[method-assign]
    list(conversion.run())
    uid = str(pydicom.dcmread(io.BytesIO(corrected)).SOPInstanceUID)
    found = Describer(database, archive.store).find(uid)
    assert found is not None and archive.read(found[0]) == corrected
    archive.remove_deleted()
    assert held(database, sealed=False).objects == 0
    assert found_in(root(tmp_path), MARK) == []
    archive.close()


def uids(session: Session) -> list[str]:
    rows = session.connection().execute(select(INSTANCE.c.sop_instance_uid).order_by(INSTANCE.c.id)).all()
    return [row.sop_instance_uid for row in rows]


def test_what_cannot_be_read_stays_and_the_others_go(database: Database, tmp_path: Path) -> None:
    opened = plain(database, tmp_path)
    data = fill(opened)
    (large,) = (root(tmp_path) / "objects").rglob("*.dcm")
    os.truncate(large, 1000)
    archive = encrypting(database, tmp_path)
    conversion = archive.conversion(seals=True, keep_seconds=0.0)
    assert sum(batch.objects for batch in conversion.run()) == len(data)
    assert conversion.unreadable == 1
    assert large.stat().st_size == 1000
    assert held(database, sealed=False).objects == 1
    archive.close()


KILLED = """
import os, sys
from pathlib import Path
import imaging_ai.db.tables
from imaging_ai.archive.archive import Archive
from imaging_ai.archive import conversion
from imaging_ai.db.engine import Database
from sealing import key_file, sealed_folder
folder, where = Path(sys.argv[2]), sys.argv[3]
store = sealed_folder(folder / "objects", key_file(folder), min_free_bytes=0, segment_bytes=4 << 20)
archive = Archive(Database(sys.argv[1]), store)
conversion._AT_ONCE = 2
def die(*_):
    os.kill(os.getpid(), 9)
converting = archive.conversion(seals=True, keep_seconds=0.0)
if where == "copied":  # what was replaced: it must not come back as what is
    conversion._TABLES = conversion._TABLES[1:]
    converting._put = die
run = converting.run()
next(run)
if where == "indexed":
    archive._index.flush = die
elif where == "removing":
    real, left = store.delete, [2]
    def delete(ref):
        left[0] -= 1
        die() if left[0] == 0 else real(ref)
    store.delete = delete
    archive.remove_deleted()
next(run)
"""


@pytest.mark.parametrize("where", ["copied", "indexed", "removing"])
def test_killed_anywhere_it_is_begun_again_and_nothing_is_lost(tmp_path: Path, where: str) -> None:
    database = Database(f"sqlite:///{tmp_path}/index.db")
    SQLModel.metadata.create_all(database.engine)
    fill(plain(database, tmp_path))
    archive = encrypting(database, tmp_path)
    before = contents(archive)
    environment = {**os.environ, "PYTHONPATH": str(Path(sealing.__file__).parent)}
    url = database.engine.url.render_as_string(hide_password=False)
    done = subprocess.run([sys.executable, "-c", KILLED, url, str(tmp_path), where], check=False, env=environment)
    assert done.returncode == -9
    assert contents(archive) == before
    assert archive.recover() == 0, "a copy is nobody's until the index names it"
    assert contents(archive) == before
    convert(archive)
    assert contents(archive) == before
    archive.close()
    assert found_in(root(tmp_path), MARK) == []
    assert not any((root(tmp_path) / "owners").iterdir())
    named = {row[0] for row in rows_of(database)}
    assert {str(p.relative_to(root(tmp_path))) for p in root(tmp_path).rglob("*.dcm")} <= named
    database.dispose()


def test_recovery_waits_for_a_commit_of_a_conversion_as_for_one_of_results(database: Database, tmp_path: Path) -> None:
    if database.is_sqlite:
        pytest.skip("its commits are over when their process is")
    fill(plain(database, tmp_path))
    archive = encrypting(database, tmp_path)
    conversion = archive.conversion(seals=True, keep_seconds=0.0)
    real = conversion._to_remove

    def within(copy: object) -> dict[str, object]:
        with pytest.raises(DatabaseUnavailable), database.write() as session:
            session.connection().exec_driver_sql("LOCK TABLE result IN SHARE MODE NOWAIT")  # as `find.await_results`
        return real(copy)  # type: ignore[arg-type]

    conversion._to_remove = within  # type: ignore[method-assign]
    assert next(conversion.run()).objects > 0
    archive.close()


def rows_of(database: Database) -> list[tuple[str]]:
    with database.read() as session:
        tables = (INSTANCE, REPLACED)
        return [tuple(row) for table in tables for row in session.connection().execute(select(table.c.blob_key))]


@pytest.mark.service
def test_a_bucket_goes_under_encryption_and_back(s3_bucket: Bucket, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/index.db")
    SQLModel.metadata.create_all(database.engine)
    bucket = S3Store(s3_bucket.name, endpoint=s3_bucket.endpoint, access_key_id="testing", secret_access_key="testing")
    data = fill(Archive(database, bucket, conflict="replace"))
    ring = KeyRing(S3Cabinet(bucket), FileKeys(key_file(tmp_path)))
    for seals in (True, False):
        archive = Archive(database, SealedS3Store(bucket, ring, seals=seals))
        before = contents(archive)
        assert convert(archive, seals=seals) == len(before) == len(data) + 1
        assert contents(archive) == before
        keys = [key for key in s3_bucket.keys() if not key.startswith("keys/")]  # noqa: SIM118 - no dict
        assert len(keys) == len(before)
        assert all(key.endswith(".sealed") == seals for key in keys)
        raw = [s3_bucket.client().get_object(Bucket=s3_bucket.name, Key=key)["Body"].read() for key in keys]
        assert any(MARK in one for one in raw) != seals
        archive.close()
    listed, _ = SealedS3Store(bucket, ring).page("", 1000)
    assert {one.blob.key for one in listed} == set(keys), "data keys are not listed as objects that may be swept away"
    assert ring.census() == {"file:first": 1}
    database.dispose()
