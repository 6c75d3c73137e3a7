"""The S3 store against a real S3 protocol server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sqlmodel import SQLModel

import phantoms
from imaging_ai.archive import gate
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.orphans import OrphanSweep
from imaging_ai.archive.s3 import S3Store, open_s3_store
from imaging_ai.core.blob import BlobRef
from imaging_ai.db.engine import Database
from imaging_ai.errors import ConfigError, NotFound, StorageUnavailable
from ledgers import Clock
from services import free_port
from services.s3 import Bucket, S3Server

pytestmark = pytest.mark.service


@pytest.fixture
def store(s3_bucket: Bucket) -> S3Store:
    return S3Store(
        s3_bucket.name,
        "archive",
        endpoint=s3_bucket.endpoint,
        access_key_id="testing",
        secret_access_key="testing",
        spool_folder=s3_bucket.spool_folder,
    )


def test_what_is_put_is_read_back_whole_and_in_ranges(store: S3Store, s3_bucket: Bucket) -> None:
    data = os.urandom(300_000)
    ref = store.put(data)
    assert ref.length == len(data)
    assert store.read(ref) == data
    assert store.read(ref, 100, 50) == data[100:150]
    assert store.read(ref, 299_990, 500) == data[-10:]
    assert store.read(ref, 300_000) == b""
    assert b"".join(store.stream(ref, 65_536)) == data
    assert [key.split("/")[0] for key in s3_bucket.keys()] == ["archive"]  # noqa: SIM118


def test_a_reference_into_the_middle_of_an_object_is_honoured(store: S3Store) -> None:
    whole = store.put(bytes(range(200)))
    part = BlobRef(whole.key, 50, 20)
    assert store.read(part) == bytes(range(50, 70))
    assert store.read(part, 15, 100) == bytes(range(65, 70))
    assert b"".join(store.stream(part, 7)) == bytes(range(50, 70))


def test_a_large_object_goes_up_in_parts_with_bounded_memory(store: S3Store, s3_bucket: Bucket) -> None:
    block = os.urandom(1 << 20)
    tracemalloc.start()
    writer = store.begin()
    for _ in range(40):
        writer.write(memoryview(block))
    ref = writer.commit()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ref.length == 40 << 20
    assert peak < 30 << 20
    assert store.read(ref, 39 << 20) == block
    head = s3_bucket.client().head_object(Bucket=s3_bucket.name, Key=f"archive/{ref.key}")
    assert head["ETag"].strip('"').endswith("-5")  # five parts of 8 MiB


@pytest.mark.parametrize("size_hint", [None, 100, 50 << 20])
def test_nothing_is_visible_before_commit_and_nothing_remains_after_discard(
    store: S3Store, s3_bucket: Bucket, size_hint: int | None
) -> None:
    writer = store.begin(size_hint)
    writer.write(b"x" * (10 << 20))
    assert s3_bucket.keys() == []
    writer.discard()
    writer.discard()
    assert s3_bucket.keys() == []
    assert list(Path(s3_bucket.spool_folder).iterdir()) == []


def test_discard_after_commit_keeps_the_object(store: S3Store) -> None:
    writer = store.begin()
    writer.write(b"kept")
    ref = writer.commit()
    writer.discard()
    assert store.read(ref) == b"kept"


def test_an_empty_object_is_an_object(store: S3Store) -> None:
    ref = store.begin().commit()
    assert store.read(ref) == b""
    assert list(store.stream(ref)) == []


def test_a_deleted_object_is_not_found_and_may_be_deleted_again(store: S3Store) -> None:
    ref = store.put(b"short-lived")
    store.delete(ref)
    store.delete(ref)
    with pytest.raises(NotFound, match="gone"):
        store.read(ref)
    with pytest.raises(NotFound):
        list(store.stream(ref))


def test_the_url_with_credentials_of_the_environment_opens_the_same_bucket(s3_bucket: Bucket, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")  # the client reads the process environment itself
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    ref = open_s3_store(s3_bucket.url).put(b"by url")
    assert open_s3_store(s3_bucket.url).read(ref) == b"by url"


def test_a_bucket_that_does_not_exist_is_storage_unavailable_for_writing(s3_server: S3Server) -> None:
    store = S3Store("no-such-bucket", endpoint=s3_server.endpoint, access_key_id="a", secret_access_key="b")
    with pytest.raises(StorageUnavailable, match="bucket"):
        store.put(b"x")


def test_a_service_that_went_away_is_storage_unavailable_and_the_upload_can_be_tried_again() -> None:
    server = S3Server()
    server.start()
    try:
        boto = Bucket("again", server.endpoint, "").client()
        boto.create_bucket(Bucket="again")
        store = S3Store("again", endpoint=server.endpoint, access_key_id="a", secret_access_key="b", retry_timeout=0.5)
        writer = store.begin()
        writer.write(b"once more")
        server.stop()
        with pytest.raises(StorageUnavailable) as caught:
            writer.commit()
        assert "again" not in caught.value.message
        server.start()
        boto.create_bucket(Bucket="again")
        assert store.read(writer.commit()) == b"once more"
    finally:
        server.stop()


def test_a_port_where_nothing_listens_is_storage_unavailable() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    store = S3Store("b", endpoint=endpoint, access_key_id="a", secret_access_key="b", retry_timeout=0.2)
    with pytest.raises(StorageUnavailable):
        store.read(BlobRef("ab/cd", 0, 10))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3:///prefix", "is not s3://"),
        ("s3://bucket?region=x&secret=y", "secret"),
        ("s3://b?style=odd", "is not s3://"),
    ],
)
def test_a_bad_address_is_refused_with_the_remedy(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        open_s3_store(url)


def test_an_upload_whose_process_was_killed_before_its_row_is_swept_in_the_end(
    store: S3Store, s3_bucket: Bucket, tmp_path: Path
) -> None:
    database = Database(f"sqlite:///{tmp_path}/index.db")
    SQLModel.metadata.create_all(database.engine)
    data = tmp_path / "instance.dcm"
    images = [phantoms.to_bytes(ds) for ds in phantoms.series(np.zeros((2, 8, 8), np.float32))]
    data.write_bytes(images[0])
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, database.url, s3_bucket.url, str(data)],
        capture_output=True,
        env={**os.environ, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"},
        check=False,
    )
    assert done.returncode == -9, done.stderr.decode()
    (orphan,) = s3_bucket.keys()
    archive = Archive(database, store)
    writer = archive.begin()
    writer.write(images[1])
    archive.keep(gate.scan(images[1]), writer, source="A", origin_address="", door="dimse")
    s3_bucket.client().put_object(Bucket=s3_bucket.name, Key="archive/notes.txt", Body=b"not ours")

    clock = Clock(time.time())
    sweep = OrphanSweep(database, store, age=3600, patience=600, clock=clock)
    assert sweep.run() == 0
    assert orphan in s3_bucket.keys()  # noqa: SIM118
    clock.advance(3700)
    assert sweep.run() == 0
    clock.advance(700)
    assert sweep.run() == 1
    (kept,) = archive.instances(gate.scan(images[1]).series_instance_uid)
    assert sorted(s3_bucket.keys()) == sorted([f"archive/{kept.blob.key}", "archive/notes.txt"])
    assert archive.read(kept) == images[1]
    archive.close()
    database.dispose()


_KILLED = """
import os, sys
from pathlib import Path
from imaging_ai.archive import gate
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.index import Index
from imaging_ai.archive.s3 import open_s3_store
from imaging_ai.db.engine import Database

Index.insert = lambda *_: os.kill(os.getpid(), 9)
archive, data = Archive(Database(sys.argv[1]), open_s3_store(sys.argv[2])), Path(sys.argv[3]).read_bytes()
writer = archive.begin()
writer.write(data)
archive.keep(gate.scan(data), writer, source="A", origin_address="", door="dimse")
"""


def test_a_listing_goes_on_page_by_page(store: S3Store) -> None:
    keys = sorted(store.put(b"x").key for _ in range(25))
    found, after = store.page("", 10)
    while after:
        more, after = store.page(after, 10)
        found += more
    assert [one.blob.key for one in found] == keys
    assert {one.blob.length for one in found} == {1}
