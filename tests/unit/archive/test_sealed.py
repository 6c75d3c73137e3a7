"""Encrypted objects: whatever is done to the bytes on disk, what is read is what was stored, or nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ai.archive import log, sealed
from imaging_ai.archive.blobs import open_store
from imaging_ai.archive.folder import SMALL_BYTES, FolderStore
from imaging_ai.archive.sealed import CHUNK_BYTES, HEADER_BYTES, OpenObject, Sealing, plain_bytes, seal, sealed_bytes
from imaging_ai.archive.sealed_folder import SealedFolderStore
from imaging_ai.core.blob import BlobRef
from imaging_ai.errors import KeyUnavailable, NotFound, StorageCorrupted, StorageUnavailable
from imaging_ai.keys.file import FileKeys
from imaging_ai.keys.ring import DataKey
from sealing import found_in, key_file, sealed_folder, swap

KEY = DataKey(b"i" * 16, b"k" * 32)
TAG = 16
LARGE = SMALL_BYTES + 3 * CHUNK_BYTES + 5


@pytest.fixture
def store(tmp_path: Path) -> SealedFolderStore:
    return sealed_folder(tmp_path / "objects", key_file(tmp_path), min_free_bytes=0, segment_bytes=4 << 20)


def again(store: FolderStore, tmp_path: Path) -> SealedFolderStore:
    """The store of another process, which remembers nothing."""
    return sealed_folder(store.root, key_file(tmp_path), min_free_bytes=0)


@given(st.integers(0, 5 * CHUNK_BYTES))
def test_what_an_object_takes_and_what_it_holds_are_told_from_each_other(length: int) -> None:
    assert plain_bytes(sealed_bytes(length)) == length


@given(st.lists(st.integers(0, CHUNK_BYTES + 3), max_size=6), st.data())
def test_what_is_encrypted_as_it_comes_is_what_is_encrypted_at_once(pieces: list[int], draw: st.DataObject) -> None:
    data = os.urandom(sum(pieces))
    sealing, streamed, position = Sealing(KEY, "here"), bytearray(), 0
    streamed += sealing.header
    for piece in pieces:
        for chunk in sealing.update(memoryview(data)[position : position + piece]):
            streamed += chunk
        position += piece
    streamed += sealing.finish()
    whole = seal(KEY, "here", memoryview(data))
    assert len(streamed) == len(whole) == sealed_bytes(len(data))
    start = draw.draw(st.integers(0, max(len(data) - 1, 0)))
    wanted = draw.draw(st.integers(0, len(data) - start))
    for made in (bytes(streamed), bytes(whole)):
        opened = OpenObject(KEY, made[:HEADER_BYTES], "here", len(data))
        if wanted:
            assert (
                opened.read(start, wanted, lambda begin, length, made=made: made[begin : begin + length])
                == (data[start : start + wanted])
            )
            begin, length = opened.extent(start, wanted)
            assert HEADER_BYTES <= begin < begin + length <= len(made)


def test_a_range_is_read_from_the_chunks_that_it_touches_and_no_others(store: SealedFolderStore) -> None:
    data = os.urandom(LARGE)
    ref = store.put(data)
    with store.path(ref).open("r+b") as file:  # the third chunk is damaged
        file.seek(HEADER_BYTES + 2 * (CHUNK_BYTES + TAG) + 100)
        file.write(b"\0\0\0\0")
    assert store.read(ref, CHUNK_BYTES - 5, CHUNK_BYTES + 5) == data[CHUNK_BYTES - 5 : 2 * CHUNK_BYTES]
    assert store.read(ref, 3 * CHUNK_BYTES) == data[3 * CHUNK_BYTES :]
    with pytest.raises(StorageCorrupted):
        store.read(ref, CHUNK_BYTES, CHUNK_BYTES + 1)


def flipped(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("size", [500, LARGE])
@pytest.mark.parametrize("part", ["salt", "key id", "chunk bytes", "zeros", "magic", "bytes", "tag"])
def test_a_changed_bit_is_found_wherever_it_is(store: SealedFolderStore, tmp_path: Path, size: int, part: str) -> None:
    ref = store.put(os.urandom(size))
    end = ref.offset + sealed_bytes(size) - 1
    places = {"salt": 3, "key id": 40, "chunk bytes": 50, "zeros": 90, "magic": 130, "bytes": HEADER_BYTES + 7}
    flipped(store.path(ref), ref.offset + places[part] if part in places else end)
    fresh = again(store, tmp_path)
    buffer = memoryview(bytearray(size))
    assert not fresh.fill_at_once(ref, 0, buffer)
    with pytest.raises(KeyUnavailable if part == "key id" else StorageCorrupted):
        fresh.read(ref)
    with pytest.raises(StorageUnavailable):
        list(fresh.stream(ref))


def moved_chunk(path: Path, ref: BlobRef) -> None:
    first, second = HEADER_BYTES, HEADER_BYTES + CHUNK_BYTES + TAG
    data = bytearray(path.read_bytes())
    length = CHUNK_BYTES + TAG
    data[first : first + length], data[second : second + length] = (
        data[second : second + length],
        data[first : first + length],
    )
    path.write_bytes(data)


def left_out_chunk(path: Path, ref: BlobRef) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:HEADER_BYTES] + data[HEADER_BYTES + CHUNK_BYTES + TAG :] + bytes(CHUNK_BYTES + TAG))


def cut_short(path: Path, ref: BlobRef) -> None:
    os.truncate(path, path.stat().st_size - TAG - 5 - CHUNK_BYTES - TAG)


def plain_instead(path: Path, ref: BlobRef) -> None:
    path.write_bytes(os.urandom(sealed_bytes(ref.length)))


@pytest.mark.parametrize("attack", [moved_chunk, left_out_chunk, cut_short, plain_instead])
def test_a_file_whose_chunks_are_not_all_there_in_their_order_does_not_open(
    store: SealedFolderStore, tmp_path: Path, attack: Callable[[Path, BlobRef], None]
) -> None:
    ref = store.put(os.urandom(LARGE))
    attack(store.path(ref), ref)
    with pytest.raises(StorageUnavailable):
        again(store, tmp_path).read(ref)


def test_an_object_cut_at_a_chunk_does_not_pass_for_a_shorter_one(store: SealedFolderStore, tmp_path: Path) -> None:
    ref = store.put(os.urandom(LARGE))
    os.truncate(store.path(ref), HEADER_BYTES + 5 * (CHUNK_BYTES + TAG))
    shorter = store.ref(ref.key, 0, store.path(ref).stat().st_size)  # as recovery would take it
    assert shorter.length == 5 * CHUNK_BYTES
    with pytest.raises(StorageCorrupted):
        again(store, tmp_path).read(shorter, 4 * CHUNK_BYTES)


def test_objects_that_change_places_do_not_open(store: SealedFolderStore, tmp_path: Path) -> None:
    large = [store.put(os.urandom(LARGE)) for _ in range(2)]
    small = [store.put(os.urandom(1000)) for _ in range(2)]
    swap(store.path(large[0]), store.path(large[1]))
    path, length = store.path(small[0]), sealed_bytes(1000)
    data = bytearray(path.read_bytes())
    first, second = (slice(ref.offset, ref.offset + length) for ref in small)
    data[first], data[second] = data[second], data[first]
    path.write_bytes(data)
    for ref in (*large, *small):
        with pytest.raises(StorageCorrupted):
            again(store, tmp_path).read(ref)


def test_a_segment_under_the_name_of_another_does_not_open(store: SealedFolderStore, tmp_path: Path) -> None:
    ref = store.put(b"here" * 100)
    copy = f"logs/00/{'0' * 32}.sealed.log"
    (store.root / copy).parent.mkdir(exist_ok=True)
    shutil.copy(store.path(ref), store.root / copy)
    with pytest.raises(StorageCorrupted):
        again(store, tmp_path).read(BlobRef(copy, ref.offset, ref.length))


def test_the_same_bytes_are_never_encrypted_to_the_same(store: SealedFolderStore) -> None:
    refs = [store.put(bytes(LARGE)) for _ in range(2)] + [store.put(bytes(5000)) for _ in range(2)]
    taken = [store.path(ref).read_bytes()[ref.offset : ref.offset + sealed_bytes(ref.length)] for ref in refs]
    chunks = [one[at : at + 64] for one in taken for at in range(HEADER_BYTES, len(one) - 64, 64)]
    assert len(set(chunks)) == len(chunks)


def test_nothing_plain_is_on_disk_not_even_before_it_is_whole(store: SealedFolderStore, tmp_path: Path) -> None:
    mark = b"MARKED^PATIENT"
    store.put(mark * 50)
    store.put(mark * (LARGE // len(mark)))
    unfinished = store.begin()
    for _ in range(40):
        unfinished.write(mark * 5000)
    assert found_in(tmp_path, mark) == []
    assert bytes(unfinished.head[:14]) == mark, "the gate reads it all the same"
    unfinished.discard()


def test_plain_and_encrypted_objects_lie_side_by_side(tmp_path: Path) -> None:
    keys = FileKeys(key_file(tmp_path))
    url = str(tmp_path / "objects")
    data = [os.urandom(size) for size in (900, LARGE)]
    stores = [
        open_store(url, min_free_bytes=0),
        open_store(url, min_free_bytes=0, keys=keys),
        open_store(url, min_free_bytes=0, keys=keys, seals=False),
    ]
    refs = [store.put(one) for store in stores for one in data]
    assert [ref.is_sealed for ref in refs] == [False, False, True, True, False, False]
    for store in stores[1:]:
        assert [store.read(ref) for ref in refs] == data * 3
    assert not isinstance(stores[0], SealedFolderStore)
    for sealed_ref in refs[2:4]:
        with pytest.raises(KeyUnavailable, match="without a key"):
            stores[0].read(sealed_ref)
        assert isinstance(stores[0], FolderStore)
        assert not stores[0].fill_at_once(sealed_ref, 0, memoryview(bytearray(10)))


def test_without_the_key_nothing_is_told_and_nothing_is_lost(store: SealedFolderStore, tmp_path: Path) -> None:
    ref = store.put(b"secret" * 100)
    keyless = open_store(str(store.root), min_free_bytes=0)
    with pytest.raises(KeyUnavailable, match="file:first"):
        keyless.read(ref)
    assert not keyless.put(b"plain").is_sealed
    other = sealed_folder(store.root, key_file(tmp_path / "other"), min_free_bytes=0)
    with pytest.raises(StorageCorrupted, match="'first'"):
        other.read(ref)
    assert store.read(ref) == b"secret" * 100


def test_an_erased_object_is_not_found_and_not_called_damaged(store: SealedFolderStore, tmp_path: Path) -> None:
    ref, other = store.put(os.urandom(200_000)), store.put(b"other")
    blocks = store.path(ref).stat().st_blocks
    store.delete(ref)
    assert store.path(ref).stat().st_blocks < blocks - 350
    taken = store.path(ref).read_bytes()[ref.offset : ref.offset + sealed_bytes(ref.length)]
    assert not any(taken), "its last bytes too"
    for one in (store, again(store, tmp_path)):
        with pytest.raises(NotFound):
            one.read(ref)
        with pytest.raises(NotFound):
            list(one.stream(ref))
        assert not one.fill_at_once(ref, 0, memoryview(bytearray(100)))
        assert one.read(other) == b"other"


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux tells what is in memory")
def test_what_is_in_memory_is_read_at_once_if_its_key_is_too(store: SealedFolderStore, tmp_path: Path) -> None:
    data = [os.urandom(5000), os.urandom(LARGE)]
    refs = [store.put(one) for one in data]
    fresh, buffer = again(store, tmp_path), memoryview(bytearray(3000))
    assert not fresh.fill_at_once(refs[0], 0, buffer), "the key is not at hand"
    assert fresh.read(refs[0], 0, 1) == data[0][:1]
    for one in (store, fresh):
        for ref, whole in zip(refs, data, strict=True):
            for start in (0, 1777, ref.length - 3000):
                assert one.fill_at_once(ref, start, buffer)
                assert bytes(buffer) == whole[start : start + 3000]
            assert not one.fill_at_once(ref, ref.length - 2999, buffer), "it never leaves the object"


def test_the_log_sees_pages_of_encrypted_objects_that_a_power_cut_took(store: SealedFolderStore) -> None:
    ref = store.put(os.urandom(20_000))
    flipped(store.path(ref), ref.offset + 9000)
    (record,) = log.records(store.path(ref), verify=True)
    assert not record.whole


def test_the_format_is_the_one_of_the_documentation() -> None:
    assert (HEADER_BYTES, CHUNK_BYTES) == (136, 65_536)
    made = bytes(seal(KEY, "place@0", memoryview(b"x")))
    assert made[32:48] == KEY.id
    assert made[128:136] == b"IAISEAL1"
    assert len(made) == 136 + 1 + 16
    assert sealed.key_id_of(made[:136]) == KEY.id
