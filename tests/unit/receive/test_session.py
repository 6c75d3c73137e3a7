"""The reader and the session, over a socket pair: however the bytes are cut, and whatever they are."""

from __future__ import annotations

import io
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from sqlmodel import SQLModel

import phantoms
from imaging_ai.archive import gate
from imaging_ai.archive.archive import Archive, Visit
from imaging_ai.archive.folder import FolderStore
from imaging_ai.core.contexts import VERIFICATION
from imaging_ai.db.engine import Database
from imaging_ai.receive.command import Command, parse_command, response, response_pdus
from imaging_ai.receive.negotiation import AcceptedContext
from imaging_ai.receive.pdu import MalformedPdu
from imaging_ai.receive.policy import AssociationPolicy
from imaging_ai.receive.session import StorageSession

CONTEXTS = {
    1: AcceptedContext(1, CTImageStorage, ExplicitVRLittleEndian),
    3: AcceptedContext(3, VERIFICATION, ExplicitVRLittleEndian),
}
RELEASE = struct.pack(">BBII", 5, 0, 4, 0)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("archive")
    database = Database(f"sqlite:///{folder}/index.db")
    SQLModel.metadata.create_all(database.engine)
    opened = Archive(database, FolderStore(folder / "store", sync=False, min_free_bytes=0))
    yield opened
    opened.close()
    database.dispose()


def instance(name: str) -> Dataset:
    return phantoms.series(np.zeros((1, 30, 30), np.float32), name=name)[0]


def data_set(ds: Dataset) -> bytes:
    whole = phantoms.to_bytes(ds)
    return whole[gate.dataset_offset(whole) :]


def command_set(ds: Dataset, **changes: bytes) -> bytes:
    elements = {
        0x0002: str(ds.SOPClassUID).encode(),
        0x0100: b"\x01\0",
        0x0110: b"\x07\0",
        0x0700: b"\0\0",
        0x0800: b"\0\0",
        0x1000: str(ds.SOPInstanceUID).encode(),
    } | {int(key[1:], 16): value for key, value in changes.items()}
    body = b"".join(
        struct.pack("<HHI", 0, number, len(value) + len(value) % 2) + value + b"\0" * (len(value) % 2)
        for number, value in sorted(elements.items())
    )
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def value(data: bytes, *, command: bool, last: bool, context_id: int = 1) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context_id, command | last << 1) + data


def p_data(*values: bytes) -> bytes:
    body = b"".join(values)
    return struct.pack(">BBI", 4, 0, len(body)) + body


def store_request(ds: Dataset, **changes: bytes) -> bytes:
    return p_data(value(command_set(ds, **changes), command=True, last=True)) + p_data(
        value(data_set(ds), command=False, last=True)
    )


def talk(archive: Archive, pieces: list[bytes], policy: AssociationPolicy | None = None) -> tuple[list[bytes], bool]:
    """Let a session read these pieces; return the PDUs it answered, and whether it was released."""
    ours, theirs = socket.socketpair()
    session = StorageSession(
        ours, archive, policy or AssociationPolicy(idle_seconds=20), CONTEXTS, Visit("SCU", "10.0.0.1", "dimse"), 16382
    )
    released: list[bool] = []

    def serve() -> None:
        released.append(session.run())
        ours.close()

    answers = bytearray()

    def listen() -> None:
        while part := theirs.recv(65536):
            answers.extend(part)

    threads = [threading.Thread(target=serve), threading.Thread(target=listen)]
    for thread in threads:
        thread.start()
    with suppress(OSError):  # the session may end before it has read everything
        for piece in pieces:
            theirs.sendall(piece)
        theirs.shutdown(socket.SHUT_WR)
    for thread in threads:
        thread.join(30)
    theirs.close()
    pdus = []
    while answers:
        length = 6 + int.from_bytes(answers[2:6], "big")
        pdus.append(bytes(answers[:length]))
        del answers[:length]
    return pdus, released[0]


def status(pdu: bytes) -> int:
    at = pdu.index(struct.pack("<HHI", 0, 0x0900, 2)) + 8
    return int.from_bytes(pdu[at : at + 2], "little")


def stored(archive: Archive, ds: Dataset) -> bytes:
    (found,) = (one for one in archive.instances(ds.SeriesInstanceUID) if one.sop_instance_uid == ds.SOPInstanceUID)
    whole = archive.read(found)
    return whole[gate.dataset_offset(whole) :]


_SIZES = st.sampled_from([1, 2, 3, 11, 64, 100, 999, 1 << 20])


@settings(max_examples=80, deadline=None)
@given(
    st.uuids(),
    st.lists(_SIZES, min_size=1, max_size=6),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.lists(st.sampled_from([5, 64, 1460, 1 << 20]), min_size=1, max_size=6),
)
def test_every_way_to_cut_an_instance_stores_the_same_bytes(
    archive: Archive, name: object, fragments: list[int], together: list[int], packets: list[int]
) -> None:
    ds = instance(f"cut {name}")
    dataset = data_set(ds)
    sizes = cycle(fragments)
    values = [value(part, command=True, last=last) for part, last in cut(command_set(ds), sizes)]
    values += [value(part, command=False, last=last) for part, last in cut(dataset, sizes)]
    counts, stream = cycle(together), b""
    while values:
        count = next(counts)
        stream += p_data(*values[:count])
        values = values[count:]
    pdus, released = talk(archive, [part for part, _ in cut(stream + RELEASE, cycle(packets))])
    assert released
    assert [status(pdus[0]), pdus[1][0]] == [0x0000, 6]
    assert stored(archive, ds) == dataset


def cut(data: bytes, sizes: Iterator[int]) -> Iterator[tuple[bytes, bool]]:
    """Cut into pieces of these sizes; says of each whether it is the last."""
    position = 0
    while position < len(data):
        size = next(sizes)
        yield data[position : position + size], position + size >= len(data)
        position += size


@pytest.mark.parametrize("fragment", [64, 1 << 10, 1 << 14, 1 << 17, 1 << 20])
def test_a_large_instance_in_fragments_of_any_size(archive: Archive, fragment: int) -> None:
    ds = instance(f"large {fragment}")
    rows = 1500 if fragment > 1000 else 300
    ds.Rows = ds.Columns = rows
    ds.PixelData = np.random.default_rng(1).integers(0, 4096, (rows, rows), dtype=np.uint16).tobytes()
    dataset = data_set(ds)
    room = fragment - 6
    parts = [dataset[start : start + room] for start in range(0, len(dataset), room)]
    stream = p_data(value(command_set(ds), command=True, last=True)) + b"".join(
        p_data(value(part, command=False, last=part is parts[-1])) for part in parts
    )
    pdus, released = talk(archive, [stream + RELEASE])
    assert released
    assert status(pdus[0]) == 0x0000
    assert stored(archive, ds) == dataset


def test_stores_and_echoes_in_one_association(archive: Archive) -> None:
    one, two = instance("mixed 1"), instance("mixed 2")
    echo = p_data(
        value(
            command_set(one, x0100=b"\x30\0", x0800=b"\x01\x01", x0002=VERIFICATION.encode(), x1000=b""),
            command=True,
            last=True,
            context_id=3,
        )
    )
    pdus, released = talk(archive, [echo + store_request(one) + echo + store_request(two) + RELEASE])
    assert released
    assert [status(pdu) for pdu in pdus[:-1]] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"x1000": b"1.2.3.4"}, 0xA900),
        ({"x1000": b"../../etc/passwd"}, 0xC000),
        ({"x1000": b""}, 0xC000),
        ({"x0002": b"1.2.840.10008.5.1.4.1.1.4"}, 0x0122),
        ({"x0800": b"\x01\x01"}, 0xC000),
        ({"x0100": b"\x20\0"}, 0x0211),
    ],
)
def test_a_wrong_command_gets_its_status_and_leaves_nothing(
    archive: Archive, changes: dict[str, bytes], expected: int
) -> None:
    ds = instance(f"wrong {changes}")
    data = store_request(ds, **changes)
    if changes.get("x0800"):
        data = p_data(value(command_set(ds, **changes), command=True, last=True))
    pdus, released = talk(archive, [data + store_request(instance("after")) + RELEASE])
    assert released
    assert [status(pdu) for pdu in pdus[:-1]] == [expected, 0x0000]
    assert not list(Path(archive.store.root).rglob("*.part"))  # type: ignore[attr-defined]


def test_an_instance_over_the_limit_is_refused_and_the_next_is_taken(archive: Archive) -> None:
    small, large = instance("small"), instance("large")
    large.PixelData = bytes(300_000)
    pdus, _ = talk(
        archive, [store_request(large) + store_request(small) + RELEASE], AssociationPolicy(max_object_bytes=100_000)
    )
    assert [status(pdu) for pdu in pdus[:-1]] == [0xA700, 0x0000]
    assert b"larger than" in pdus[0]


DS = instance("hostile")
COMMAND = command_set(DS)


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (struct.pack(">BBI", 4, 0, 0xFFFFFFFF), 6),
        (struct.pack(">BBI", 99, 0, 4) + bytes(4), 1),
        (struct.pack(">BBI", 1, 0, 4) + bytes(4), 2),
        (struct.pack(">BBI", 2, 0, 4) + bytes(4), 2),
        (struct.pack(">BBI", 6, 0, 4) + bytes(4), 2),
        (p_data(struct.pack(">IBB", 0xFFFFFFF0, 1, 3)), 6),
        (p_data(struct.pack(">IBB", 1, 1, 3)), 6),
        (p_data(b"abc"), 6),
        (p_data(value(b"data", command=False, last=True)), 5),
        (p_data(value(COMMAND, command=True, last=True), value(COMMAND, command=True, last=True)), 5),
        (p_data(value(COMMAND, command=True, last=True, context_id=9)), 6),
        (p_data(value(COMMAND, command=True, last=True), value(b"x", command=False, last=True, context_id=3)), 5),
        (
            p_data(
                value(COMMAND[:50], command=True, last=False),
                value(COMMAND[50:], command=True, last=True, context_id=3),
            ),
            5,
        ),
        (p_data(value(bytes(20_000), command=True, last=False)), 6),
        (p_data(value(b"\0\0\0\0\xff\xff\xff\xff", command=True, last=True)), 6),
        (p_data(value(b"", command=True, last=True)), 6),
        (p_data(value(b"\x08\0\0\0\x02\0\0\0xx", command=True, last=True)), 6),
    ],
)
def test_who_breaks_the_protocol_is_aborted_with_the_reason(archive: Archive, stream: bytes, reason: int) -> None:
    pdus, released = talk(archive, [stream])
    assert not released
    assert pdus[-1] == struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, 2, reason)


@pytest.mark.parametrize("ending", [b"", struct.pack(">BBII", 7, 0, 4, 0)])
def test_an_association_that_ends_in_mid_object_leaves_nothing(archive: Archive, ending: bytes) -> None:
    ds = instance(f"aborted {len(ending)}")
    begun = (
        p_data(value(command_set(ds), command=True, last=True))
        + p_data(value(bytes(1 << 19), command=False, last=False)) * 4
    )
    pdus, released = talk(archive, [begun + ending])
    assert (pdus, released) == ([], False)
    assert not list(Path(archive.store.root).rglob("*.part"))  # type: ignore[attr-defined]


def test_a_silent_peer_is_let_go(archive: Archive) -> None:
    ours, theirs = socket.socketpair()
    session = StorageSession(
        ours, archive, AssociationPolicy(idle_seconds=0.1), CONTEXTS, Visit("SCU", "10.0.0.1", "dimse"), 0
    )
    assert session.run() is False
    theirs.close()
    ours.close()


def test_a_peer_that_drips_is_let_go(archive: Archive) -> None:
    ours, theirs = socket.socketpair()
    session = StorageSession(
        ours, archive, AssociationPolicy(idle_seconds=0.3), CONTEXTS, Visit("SCU", "10.0.0.1", "dimse"), 0
    )
    stopped = threading.Event()

    def drip() -> None:
        theirs.sendall(struct.pack(">BBI", 4, 0, 10_000) + struct.pack(">IBB", 9_996, 1, 1))
        while not stopped.wait(0.05):
            theirs.sendall(b"x")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    assert session.run() is False
    stopped.set()
    thread.join(10)
    theirs.close()
    ours.close()


def test_the_command_of_pynetdicom_is_read() -> None:
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = 5, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = CTImageStorage, "1.2.3"
    primitive.DataSet = io.BytesIO(b"1234")
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    (first, *_) = message.encode_msg(1, 16382)
    data = first.presentation_data_value_list[0][1][1:]
    assert parse_command(data) == Command(1, 5, True, CTImageStorage, "1.2.3")


@given(st.binary(max_size=200))
def test_no_bytes_make_reading_a_command_fail_otherwise(data: bytes) -> None:
    try:
        parse_command(data)
    except MalformedPdu:
        return


@pytest.mark.parametrize("limit", [0, 12, 64, 131072])
def test_an_answer_fits_the_peers_limit_and_comes_out_whole(limit: int) -> None:
    answer = response(Command(1, 7, True, CTImageStorage, "1.2.3"), 0xC000, "x" * 100)
    stream, whole = response_pdus(5, answer, limit), b""
    while stream:
        length = int.from_bytes(stream[2:6], "big")
        assert not limit or length <= limit
        assert stream[10] == 5
        is_last = bool(stream[11] & 2)
        whole += stream[12 : 6 + length]
        stream = stream[6 + length :]
        assert is_last == (not stream)
    assert whole == answer
