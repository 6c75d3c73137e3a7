"""What every blob store promises: the folder and S3, plain and encrypted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imaging_ai.archive.blobs import BlobStore, open_store
from imaging_ai.archive.folder import FolderStore
from imaging_ai.archive.s3 import S3Store
from imaging_ai.archive.sealed_s3 import S3Cabinet, SealedS3Store
from imaging_ai.core.blob import BlobRef
from imaging_ai.errors import ConfigError, NotFound
from imaging_ai.keys.file import FileKeys
from imaging_ai.keys.ring import KeyRing
from sealing import key_file, open_folder

#: Around every limit where a store might change its ways.
SIZES = (1, 7, 8, 1000, 65_536, 65_537, 1 << 20, (1 << 20) + 1, 3_000_001, 12 << 20)


@pytest.fixture(
    params=[
        "folder",
        "folder without sync",
        "sealed folder",
        pytest.param("s3", marks=pytest.mark.service),
        pytest.param("sealed s3", marks=pytest.mark.service),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "sealed folder":
        return open_folder("sealed", tmp_path / "objects", min_free_bytes=0)
    if not request.param.endswith("s3"):
        return FolderStore(tmp_path, sync=request.param == "folder", min_free_bytes=0)
    bucket = request.getfixturevalue("s3_bucket")
    opened = S3Store(
        bucket.name,
        endpoint=bucket.endpoint,
        access_key_id="testing",
        secret_access_key="testing",
        spool_folder=bucket.spool_folder,
    )
    if request.param == "s3":
        return opened
    return SealedS3Store(opened, KeyRing(S3Cabinet(opened), FileKeys(key_file(tmp_path))))


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_is_read(store: BlobStore, size: int) -> None:
    data = os.urandom(size)
    writer = store.begin(size)
    chunk = bytearray(100_003)
    for start in range(0, size, len(chunk)):
        part = data[start : start + len(chunk)]
        chunk[: len(part)] = part
        writer.write(memoryview(chunk)[: len(part)])
        chunk[:] = bytes(len(chunk))  # the caller may reuse what it handed over
    assert writer.size == size
    assert bytes(writer.head) == data[: 1 << 20]
    ref = writer.commit()
    assert ref.length == size
    assert store.read(ref) == data
    assert b"".join(store.stream(ref, 65_537)) == data


def test_put_is_a_write_in_one_step(store: BlobStore) -> None:
    refs = [store.put(bytes([number]) * 1000) for number in range(5)]
    assert [store.read(ref)[:1] for ref in refs] == [bytes([number]) for number in range(5)]
    assert len({(ref.key, ref.offset) for ref in refs}) == 5


def test_ranges_never_leave_the_object(store: BlobStore) -> None:
    neighbour = store.put(b"before" * 100)
    ref = store.put(bytes(range(200)))
    store.put(b"after" * 100)
    assert store.read(ref, 10, 5) == bytes(range(10, 15))
    assert store.read(ref, 190) == bytes(range(190, 200))
    assert store.read(ref, 190, 100) == bytes(range(190, 200))
    assert store.read(ref, 500, 10) == b""
    assert store.read(neighbour) == b"before" * 100


def test_a_discarded_object_is_gone_and_can_be_discarded_again(store: BlobStore) -> None:
    for size in (10, 2 << 20):
        writer = store.begin()
        writer.write(bytes(size))
        writer.discard()
        writer.discard()
    kept = store.begin()
    kept.write(b"kept")
    ref = kept.commit()
    kept.discard()
    assert store.read(ref) == b"kept"


@pytest.mark.parametrize("size", [10, 2 << 20])
def test_a_deleted_object_can_be_deleted_again(store: BlobStore, size: int) -> None:
    ref, other = store.put(os.urandom(size)), store.put(b"other")
    store.delete(ref)
    store.delete(ref)
    assert store.read(other) == b"other"


def test_what_is_not_there_is_not_found(store: BlobStore) -> None:
    with pytest.raises(NotFound):
        store.read(BlobRef("objects/00/" + "0" * 32 + ".dcm", 0, 10))


def test_a_store_is_chosen_by_its_url(tmp_path: Path) -> None:
    for url in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b"):
        opened = open_store(url, sync=False, min_free_bytes=0)
        assert isinstance(opened, FolderStore)
        assert opened.root == tmp_path / "a b"
    with pytest.raises(ConfigError, match="ftp"):
        open_store("ftp://host/folder")
