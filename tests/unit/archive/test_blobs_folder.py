"""The folder store: where things lie, and what a crash leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sealing
from imaging_ai.archive import log
from imaging_ai.archive.folder import SMALL_BYTES, FolderStore
from imaging_ai.core.blob import BlobRef
from imaging_ai.errors import NotFound, StorageUnavailable
from sealing import KINDS, open_folder


def nothing_known(refs: Sequence[BlobRef]) -> set[BlobRef]:
    return set()


def all_known(refs: Sequence[BlobRef]) -> set[BlobRef]:
    return set(refs)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def stage(store: FolderStore, data: bytes) -> BlobRef:
    writer = store.begin()
    writer.write(data)
    ref = writer.stage()
    store.sync([ref])
    return ref


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path, min_free_bytes=0, segment_bytes=4 << 20)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def crash(folder: Path, code: str, kind: str = "plain") -> list[str]:
    """Run code with a `store` in a process of its own that ends by kill -9; return what it printed."""
    script = f"""
import os, sys
from pathlib import Path
from imaging_ai.archive.folder import SMALL_BYTES
from sealing import open_folder
store = open_folder({kind!r}, Path({str(folder)!r}), min_free_bytes=0, segment_bytes=4 << 20)
{textwrap.dedent(code)}
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""
    there = {**os.environ, "PYTHONPATH": str(Path(sealing.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=there)
    assert done.returncode == -9, done.stderr
    return done.stdout.split()


def test_small_objects_share_a_file_and_large_ones_do_not(store: FolderStore, tmp_path: Path) -> None:
    small = [store.put(os.urandom(1000)) for _ in range(10)]
    large = store.put(os.urandom(SMALL_BYTES + 1))
    assert len({ref.key for ref in small}) == 1
    assert small[0].key.startswith("logs/")
    assert large.key.startswith("objects/")
    assert store.path(large).stat().st_size == SMALL_BYTES + 1


def test_a_full_segment_is_followed_by_another(store: FolderStore) -> None:
    data = [os.urandom(900_000) for _ in range(12)]
    refs = [stage(store, one) for one in data]
    assert len({ref.key for ref in refs}) == 3
    assert [store.read(ref) for ref in refs] == data
    assert store.path(refs[0]).stat().st_size < 4 << 20, "what a sealed segment does not use is given back"


def test_an_object_has_no_name_before_it_is_whole(store: FolderStore, tmp_path: Path) -> None:
    writer = store.begin()
    writer.write(bytes(SMALL_BYTES))
    writer.write(b"more")
    assert not [name for name in files(tmp_path) if name.startswith("objects/")]
    writer.discard()
    writer.discard()
    assert [name for name in files(tmp_path) if not name.endswith("lock")] == []


def test_a_key_from_outside_opens_nothing(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for key in ("secret", "../secret", "objects/../secret", "objects/ab/../../secret", "/etc/passwd", ""):
        with pytest.raises(NotFound):
            store.read(BlobRef(key, 0, 6))


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux tells what is in memory")
def test_what_is_in_memory_is_read_at_once_and_nothing_else(store: FolderStore) -> None:
    first, second = store.put(b"a" * 5000), store.put(b"b" * 5000)
    buffer = memoryview(bytearray(3000))
    assert store.fill_at_once(first, 2000, buffer)
    assert bytes(buffer) == b"a" * 3000
    assert not store.fill_at_once(first, 2001, buffer), "it never leaves the object"
    assert not store.fill_at_once(first, -1, buffer)
    assert not store.fill_at_once(BlobRef("../index.db", 0, 5000), 0, buffer)
    assert not store.fill_at_once(BlobRef(first.key.replace(first.key[-8:], "ffff.log"), 64, 5000), 0, buffer)
    store.delete(second)
    assert not store.fill_at_once(second, 0, buffer), "what was erased reads as zeros"
    assert store.fill_at_once(first, 0, buffer)


def test_below_the_free_space_nothing_is_begun(tmp_path: Path) -> None:
    full = FolderStore(tmp_path, min_free_bytes=1 << 62)
    with pytest.raises(StorageUnavailable, match="is full"):
        full.begin()
    assert [name for name in files(tmp_path) if not name.endswith("lock")] == []


def test_deleting_frees_the_blocks_of_a_small_object_and_spares_its_neighbours(store: FolderStore) -> None:
    data = [os.urandom(500_000) for _ in range(3)]
    refs = [store.put(one) for one in data]
    before = store.path(refs[1]).stat().st_blocks
    store.delete(refs[1])
    assert store.path(refs[0]).stat().st_blocks < before - 900
    assert [store.read(refs[0]), store.read(refs[2])] == [data[0], data[2]]
    with pytest.raises(NotFound):
        store.read(refs[1])
    with pytest.raises(NotFound):
        list(store.stream(refs[1]))


def test_a_clean_end_leaves_recovery_nothing(store: FolderStore, tmp_path: Path) -> None:
    stage(store, b"small")
    stage(store, bytes(SMALL_BYTES * 2))
    store.close(all_known)
    assert not [name for name in files(tmp_path) if name.startswith("owners/")]
    assert list(FolderStore(tmp_path).recover(nothing_known)) == []


def test_what_the_index_does_not_know_outlives_a_clean_end(store: FolderStore, tmp_path: Path) -> None:
    ref = stage(store, b"small")
    store.close(nothing_known)
    assert list(FolderStore(tmp_path).recover(nothing_known)) == [ref]


def test_settling_forgets_only_what_is_known(store: FolderStore, tmp_path: Path) -> None:
    known, unknown = stage(store, bytes(SMALL_BYTES + 1)), stage(store, bytes(SMALL_BYTES + 2))
    store.settle(lambda refs: {ref for ref in refs if ref == known})
    store.close(nothing_known)
    assert list(FolderStore(tmp_path).recover(nothing_known)) == [unknown]


def test_a_living_process_is_not_recovered(store: FolderStore, tmp_path: Path) -> None:
    stage(store, b"alive")
    assert list(FolderStore(tmp_path).recover(nothing_known)) == []


def test_after_kill_9_whole_objects_are_given_and_unfinished_ones_removed(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "objects"
    printed = crash(
        root,
        """
        def stage(data):
            writer = store.begin()
            writer.write(data)
            print(writer.stage().key)
        stage(b"small" * 100)
        stage(b"L" * (SMALL_BYTES + 5))
        unfinished = store.begin()
        unfinished.write(b"U" * (SMALL_BYTES + 7))
        store.put(b"result" * 100)
        store.put(b"R" * (SMALL_BYTES + 9))
        """,
        kind,
    )
    store = open_folder(kind, root)
    refs = list(store.recover(nothing_known))
    assert sorted(ref.key for ref in refs) == sorted(printed)
    assert {store.read(ref)[:5] for ref in refs} == {b"small", b"LLLLL"}, "results belong to their job, not to recovery"
    assert [name.split("/")[0] for name in files(root) if not name.startswith("keys/")] == ["logs", "objects"]
    assert list(store.recover(nothing_known)) == []


def test_a_segment_of_which_nothing_is_left_is_removed(store: FolderStore, tmp_path: Path) -> None:
    crash(tmp_path, "store.put(b'result' * 100); store.put(b'another' * 100)")
    assert list(FolderStore(tmp_path).recover(nothing_known)) == []
    assert files(tmp_path) == []
    store.delete(store.put(b"withdrawn"))
    store.close(all_known)
    assert files(tmp_path) == []


def test_what_the_index_knows_is_not_given(tmp_path: Path, kind: str) -> None:
    known = "w = store.begin(); w.write(b'known'); w.stage(); w = store.begin(); w.write(b'not'); w.stage()"
    crash(tmp_path / "objects", known, kind)
    store = open_folder(kind, tmp_path / "objects")
    given_refs = list(store.recover(lambda refs: {ref for ref in refs if ref.length == 5}))
    assert [store.read(ref) for ref in given_refs] == [b"not"]


def test_a_torn_record_is_removed_and_those_before_and_after_it_are_not(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "objects"
    crash(root, "for n in range(3):\n    w = store.begin(); w.write(bytes([65 + n]) * 20000); w.stage()", kind)
    (segment,) = (root / "logs").rglob("*.log")
    with segment.open("r+b") as file:
        file.seek(30000)
        file.write(bytes(4096))  # a page that a power cut kept from the disk
    store = open_folder(kind, root)
    assert [store.read(ref)[:1] for ref in store.recover(nothing_known)] == [b"A", b"C"]


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_the_checksum_sees_every_byte(data: bytes, draw: st.DataObject) -> None:
    position = draw.draw(st.integers(0, len(data) - 1))
    other = draw.draw(st.integers(0, 255).filter(lambda value: value != data[position]))
    changed = data[:position] + bytes([other]) + data[position + 1 :]
    assert log.checksum(data) != log.checksum(changed)


def test_a_file_that_was_cut_short_does_not_pass_for_whole(store: FolderStore) -> None:
    ref = stage(store, bytes(SMALL_BYTES * 2))
    os.truncate(store.path(ref), SMALL_BYTES)
    with pytest.raises(StorageUnavailable):
        store.read(ref)
    with pytest.raises(StorageUnavailable):
        list(store.stream(ref))


def test_a_recovery_that_was_interrupted_can_be_tried_again_at_once(tmp_path: Path) -> None:
    crash(tmp_path, "w = store.begin(); w.write(b'lost'); w.stage()")
    store = FolderStore(tmp_path)
    first = store.recover(nothing_known)
    ref = next(first)
    first.close()  # the database was away
    assert list(store.recover(nothing_known)) == [ref]


def test_names_are_forgotten_only_after_the_index_was_flushed(tmp_path: Path) -> None:
    crash(tmp_path, "w = store.begin(); w.write(b'lost'); w.stage()")
    store = FolderStore(tmp_path)
    left: list[list[str]] = []
    list(store.recover(nothing_known, lambda: left.append(files(tmp_path / "owners"))))
    assert [[name[-4:] for name in names] for names in left] == [[".log", "lock"]]
    assert files(tmp_path / "owners") == []
