"""The Storage SCP against real senders, and against bad ones."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification
from sqlalchemy import select
from sqlmodel import SQLModel

import phantoms
from imaging_ai.archive import gate
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.find import INSTANCE
from imaging_ai.archive.folder import FolderStore
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.contexts import TRANSFER_SYNTAXES
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AuditEventRow
from imaging_ai.receive.policy import AssociationPolicy
from imaging_ai.receive.scp import StorageScp
from services import free_port, missing, wait_until
from services.dcmtk import Dcmtk

AUDIT = AuditEventRow.metadata.tables["audit_event"]


@dataclass
class Receiver:
    """A running Storage SCP with an archive of its own."""

    folder: Path
    policy: AssociationPolicy = field(default_factory=AssociationPolicy)
    options: dict[str, Any] = field(default_factory=dict)
    min_free_bytes: int = 0
    ended: list[tuple[frozenset[int], bool]] = field(default_factory=list)

    def note(self, series_ids: frozenset[int], graceful: bool) -> None:
        self.ended.append((series_ids, graceful))

    def __enter__(self) -> Receiver:
        self.database = Database(f"sqlite:///{self.folder}/index.db")
        SQLModel.metadata.create_all(self.database.engine)
        self.store = FolderStore(self.folder / "store", sync=False, min_free_bytes=self.min_free_bytes)
        self.archive = Archive(self.database, self.store, retry_seconds=0.2)
        self.scp = StorageScp(
            self.archive,
            self.policy,
            lambda ids, graceful: self.ended.append((ids, graceful)),
            host="127.0.0.1",
            **self.options,
        )
        self.scp.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.scp.stop(grace_seconds=1)
        self.archive.close()
        self.database.dispose()

    @property
    def port(self) -> int:
        return self.scp.port

    def stored(self) -> dict[str, bytes]:
        """Return the data sets that are held, by SOP Instance UID."""
        held = {}
        with self.database.read() as session:
            rows = session.connection().execute(select(INSTANCE)).all()
        for row in rows:
            whole = self.store.read(blob_of(row))
            held[row.sop_instance_uid] = whole[gate.dataset_offset(whole) :]
        return held

    def audit(self) -> list[tuple[str, str, str]]:
        with self.database.read() as session:
            return [(row.action, row.outcome, row.detail) for row in session.connection().execute(select(AUDIT))]


def blob_of(row: Any) -> BlobRef:
    return BlobRef(row.blob_key, row.blob_offset, row.blob_length)


StartReceiver = Callable[..., Receiver]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartReceiver]:
    running: list[Receiver] = []

    def begin(policy: AssociationPolicy | None = None, *, min_free_bytes: int = 0, **options: Any) -> Receiver:
        folder = tmp_path / f"receiver{len(running)}"
        folder.mkdir()
        receiver = Receiver(folder, policy or AssociationPolicy(), options, min_free_bytes).__enter__()
        running.append(receiver)
        return receiver

    yield begin
    for receiver in running:
        receiver.__exit__()


def instances(count: int, name: str) -> list[Dataset]:
    return phantoms.series(np.zeros((count, 16, 16), np.float32), name=name)


def data_set(data: bytes) -> bytes:
    return data[gate.dataset_offset(data) :]


def associate(port: int, *contexts: Any, called: str = "IMAGINGAI", calling: str = "SCU", max_pdu: int = 16382) -> Any:
    entity = AE(calling)
    for context in contexts or (CTImageStorage, Verification):
        if isinstance(context, tuple):
            entity.add_requested_context(*context)
        else:
            entity.add_requested_context(context, ExplicitVRLittleEndian)
    return entity.associate("127.0.0.1", port, ae_title=called, max_pdu=max_pdu)


# -- real senders


def test_dcmtk_echoes(start: StartReceiver, dcmtk: Dcmtk) -> None:
    receiver = start()
    assert (
        "Received Echo Response (Success)"
        in (done := dcmtk.echo(receiver.port, "-aec", "IMAGINGAI")).stderr + done.stdout
    )
    assert dcmtk.echo(receiver.port, "-aec", "IMAGINGAI").returncode == 0


@pytest.mark.parametrize("data_path", ["fast", "plain"])
def test_a_real_series_from_storescu_is_stored_byte_for_byte(
    start: StartReceiver, dcmtk: Dcmtk, real_data: Path, data_path: str
) -> None:
    receiver = start(AssociationPolicy(data_path=data_path))
    files = [path for path in sorted((real_data / "ct-gantry-tilt").rglob("*")) if is_dicom(path)]
    files = [path for path in files if path.name != "DIRFILE"]
    done = dcmtk.store(receiver.port, files, "-aec", "IMAGINGAI")
    assert done.returncode == 0, done.stdout + done.stderr
    sent = {dcmread(path, stop_before_pixels=True).SOPInstanceUID: path for path in files}
    held = receiver.stored()
    assert held.keys() == sent.keys()
    for uid, path in sent.items():
        assert dcmread(path).PixelData == dcmread(io.BytesIO(_whole(held[uid], path))).PixelData
    wait_until(lambda: receiver.ended, what="the release is told")
    assert receiver.ended == [(receiver.ended[0][0], True)]
    assert len(receiver.ended[0][0]) == 1
    actions = [(action, outcome) for action, outcome, _ in receiver.audit()]
    assert actions == [("begin-transferring-instances", "success"), ("instances-transferred", "success")]


def is_dicom(path: Path) -> bool:
    with suppress(IsADirectoryError), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
    return False


def _whole(data: bytes, path: Path) -> bytes:
    head = path.read_bytes()
    return head[: gate.dataset_offset(head)] + data


@pytest.mark.parametrize("data_path", ["fast", "plain"])
def test_every_real_transfer_syntax_is_stored_byte_for_byte(
    start: StartReceiver, real_data: Path, data_path: str
) -> None:
    receiver = start(AssociationPolicy(data_path=data_path))
    sent = {}
    for path in sorted((real_data / "syntaxes").glob("*.dcm")):
        data = path.read_bytes()
        try:
            header = gate.scan(data)
        except Exception:
            continue
        if header.transfer_syntax_uid not in TRANSFER_SYNTAXES or header.sop_instance_uid in sent:
            continue  # the same instance in another compression is another content
        outcome = send_raw(
            receiver.port, header.sop_class_uid, header.sop_instance_uid, header.transfer_syntax_uid, data_set(data)
        )
        assert outcome == 0x0000, path.name
        sent[header.sop_instance_uid] = data_set(data)
    assert len(sent) >= 20
    held = receiver.stored()
    assert {uid: hashlib.sha256(held[uid]).hexdigest() for uid in sent} == {
        uid: hashlib.sha256(data).hexdigest() for uid, data in sent.items()
    }


def test_pynetdicom_stores_and_echoes_with_small_pdus(start: StartReceiver) -> None:
    receiver = start()
    assoc = associate(receiver.port, max_pdu=64)
    datasets = instances(3, "pynetdicom")
    assert assoc.send_c_echo().Status == 0
    assert [assoc.send_c_store(ds).Status for ds in datasets] == [0, 0, 0]
    assert assoc.send_c_echo().Status == 0
    assoc.release()
    assert receiver.stored().keys() == {ds.SOPInstanceUID for ds in datasets}
    (ds,) = instances(1, "pynetdicom")
    whole = receiver.archive.read(receiver.archive.instances(ds.SeriesInstanceUID)[0])
    meta = dcmread(io.BytesIO(whole)).file_meta
    assert (meta.SourceApplicationEntityTitle, meta.TransferSyntaxUID) == ("SCU", ExplicitVRLittleEndian)


def test_other_services_on_the_port_are_pynetdicoms(start: StartReceiver) -> None:
    found = [build_context(StudyRootQueryRetrieveInformationModelFind, ExplicitVRLittleEndian)]
    receiver = start(services=(found, [(evt.EVT_C_FIND, lambda event: iter([(0x0000, None)]))]))
    assoc = associate(receiver.port, StudyRootQueryRetrieveInformationModelFind, CTImageStorage, Verification)
    assert assoc.is_established
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    (ds,) = instances(1, "beside a query")
    assert [status.Status for status, _ in assoc.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)] == [0]
    assert assoc.send_c_store(ds).Status == 0
    assert assoc.send_c_echo().Status == 0
    assoc.release()
    wait_until(lambda: receiver.ended, what="the release is told")
    assert receiver.ended[0][1] is True
    assert receiver.stored().keys() == {ds.SOPInstanceUID}


# -- both data paths answer the same


CASES: dict[str, Callable[[Dataset], tuple[str, str, bytes]]] = {
    "good": lambda ds: (ds.SOPClassUID, ds.SOPInstanceUID, data_set(phantoms.to_bytes(ds))),
    "other instance uid": lambda ds: (ds.SOPClassUID, "1.2.3.4", data_set(phantoms.to_bytes(ds))),
    "other class": lambda ds: ("1.2.840.10008.5.1.4.1.1.4", ds.SOPInstanceUID, data_set(phantoms.to_bytes(ds))),
    "cut": lambda ds: (ds.SOPClassUID, ds.SOPInstanceUID, data_set(phantoms.to_bytes(ds))[:-10]),
    "garbage": lambda ds: (ds.SOPClassUID, ds.SOPInstanceUID, b"garbage!" * 50),
    "huge length": lambda ds: (
        ds.SOPClassUID,
        ds.SOPInstanceUID,
        data_set(phantoms.to_bytes(ds))[:-520]
        + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 0xF0000000)
        + bytes(512),
    ),
    "over the limit": lambda ds: (ds.SOPClassUID, ds.SOPInstanceUID, data_set(phantoms.to_bytes(ds)) + bytes(200_000)),
    "no study": lambda ds: (ds.SOPClassUID, ds.SOPInstanceUID, data_set(phantoms.to_bytes(_without_study(ds)))),
}


def _without_study(ds: Dataset) -> Dataset:
    del ds.StudyInstanceUID
    return ds


def test_the_fast_and_the_plain_data_path_answer_and_store_the_same(start: StartReceiver) -> None:
    outcomes = []
    for data_path in ("fast", "plain"):
        receiver = start(AssociationPolicy(data_path=data_path, max_object_bytes=150_000))
        answers = {}
        for name, make in CASES.items():
            (ds,) = instances(1, f"differential {name}")
            sop_class_uid, uid, data = make(ds)
            answers[name] = send_raw(
                receiver.port, sop_class_uid, uid, ExplicitVRLittleEndian, data, context_class=CTImageStorage
            )
        (ds,) = instances(1, "differential good")
        ds.PatientName = "Other^Content"
        answers["conflict"] = send_raw(
            receiver.port, ds.SOPClassUID, ds.SOPInstanceUID, ExplicitVRLittleEndian, data_set(phantoms.to_bytes(ds))
        )
        files = {uid: hashlib.sha256(data).hexdigest() for uid, data in receiver.stored().items()}
        whole = [receiver.archive.read(one) for one in receiver.archive.instances(ds.SeriesInstanceUID)]
        outcomes.append((answers, files, whole))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == {
        "good": 0x0000,
        "other instance uid": 0xA900,
        "other class": 0x0122,
        "cut": 0xC000,
        "garbage": 0xC000,
        "huge length": 0xC000,
        "over the limit": 0xA700,
        "no study": 0xC000,
        "conflict": 0x0111,
    }


# -- who is not let in


@pytest.mark.parametrize(
    ("policy", "called", "calling", "reason"),
    [
        (AssociationPolicy(), "WRONG", "SCU", (1, 1, 7)),
        (AssociationPolicy(calling_ae_titles=frozenset({"CT1"})), "IMAGINGAI", "SCU", (1, 1, 3)),
        (AssociationPolicy(networks=(ip_network("10.9.8.0/24"),)), "IMAGINGAI", "SCU", (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("data_path", ["fast", "plain"])
def test_who_is_not_let_in_is_rejected_and_recorded(
    start: StartReceiver,
    policy: AssociationPolicy,
    called: str,
    calling: str,
    reason: tuple[int, int, int],
    data_path: str,
) -> None:

    receiver = start(replace(policy, data_path=data_path))
    with socket.create_connection(("127.0.0.1", receiver.port), 10) as sock:
        sock.sendall(request_pdu(CTImageStorage, ExplicitVRLittleEndian, called=called, calling=calling))
        kind, answer = read_pdu(sock)
    assert (kind, tuple(answer[1:])) == (3, reason)
    wait_until(receiver.audit, what="the refusal is recorded")
    assert receiver.audit()[0][:2] == ("open-association", "refused")


@pytest.mark.parametrize("data_path", ["fast", "plain"])
def test_one_association_too_many_is_rejected_for_now(start: StartReceiver, data_path: str) -> None:
    receiver = start(AssociationPolicy(max_associations=2, data_path=data_path))
    first, second = associate(receiver.port), associate(receiver.port)
    third = associate(receiver.port)
    assert first.is_established
    assert second.is_established
    assert third.is_rejected
    answer = third.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
    first.release()
    wait_until(
        lambda: (one := associate(receiver.port)).is_established and (one.release() or True), what="a place is free"
    )
    second.release()


def test_unknown_classes_are_taken_only_when_configured(start: StartReceiver) -> None:
    assert not associate(start().port, ("1.2.3.4", ["1.2.3.5"])).is_established
    assoc = associate(start(AssociationPolicy(unknown_sop_classes=True)).port, ("1.2.3.4", ["1.2.3.5"]))
    assert assoc.is_established
    assoc.release()


# -- bad input


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00" + bytes(50),
        struct.pack(">BBI", 1, 0, 0xFFFFFFFF),
        struct.pack(">BBI", 1, 0, 10) + bytes(10),
        struct.pack(">BBI", 1, 0, 100) + bytes([1] * 100),
        struct.pack(">BBI", 4, 0, 10) + bytes(10),
        b"",
    ],
)
def test_what_is_no_association_is_sent_away_and_the_server_lives(start: StartReceiver, data: bytes) -> None:
    receiver = start(AssociationPolicy(artim_seconds=0.3))
    with socket.create_connection(("127.0.0.1", receiver.port), 10) as sock:
        sock.sendall(data)
        answer = b""
        while part := sock.recv(100):
            answer += part
    assert not answer or answer[0] == 7
    assoc = associate(receiver.port)
    assert assoc.is_established
    assoc.release()


def test_an_association_that_aborts_in_mid_object_leaves_nothing(start: StartReceiver) -> None:
    receiver = start()
    (ds,) = instances(1, "aborted")
    for size in (1000, 3 << 20):
        with associated(receiver.port, ds.SOPClassUID, ExplicitVRLittleEndian) as sock:
            sock.sendall(command_pdu(ds.SOPClassUID, ds.SOPInstanceUID))
            for _ in range(0, size, 1000):
                sock.sendall(struct.pack(">BBIIBB", 4, 0, 1006, 1002, 1, 0) + bytes(1000))
    wait_until(lambda: not receiver.scp._sessions, what="the sessions end")
    assert receiver.stored() == {}
    assert not list(receiver.folder.rglob("*.part"))
    assert receiver.ended == []


def test_a_full_disk_is_answered_with_out_of_resources(start: StartReceiver) -> None:
    receiver = start(min_free_bytes=1 << 62)
    (ds,) = instances(1, "full")
    assoc = associate(receiver.port)
    status = assoc.send_c_store(ds)
    assert status.Status == 0xA700
    assert "full" in status.ErrorComment
    receiver.store._min_free_bytes = 0
    assert assoc.send_c_store(ds).Status == 0
    assoc.release()


def test_a_disk_that_fills_in_mid_object_is_answered_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=False).returncode:
        missing("the right to mount a small file system")
    try:
        database = Database(f"sqlite:///{tmp_path}/index.db")
        SQLModel.metadata.create_all(database.engine)
        store = FolderStore(disk, min_free_bytes=0, segment_bytes=2 << 20)
        archive = Archive(database, store)
        scp = StorageScp(archive, AssociationPolicy(), host="127.0.0.1")
        scp.start()
        small, large = instances(1, "small")[0], instances(1, "large")[0]
        large.PixelData = bytes(12 << 20)
        assoc = associate(scp.port)
        assert assoc.send_c_store(small).Status == 0
        assert assoc.send_c_store(large).Status == 0xA700
        second = instances(2, "small")[1]
        assert assoc.send_c_store(second).Status == 0
        assoc.release()
        scp.stop()
        archive.close()
        assert not list(disk.rglob("*.part"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_database_that_is_away_is_answered_with_out_of_resources_until_it_is_back(
    tmp_path: Path, postgres_server: Any
) -> None:
    database = Database(postgres_server.new_database())
    SQLModel.metadata.create_all(database.engine)
    archive = Archive(database, FolderStore(tmp_path, min_free_bytes=0), retry_seconds=0.3)
    scp = StorageScp(archive, AssociationPolicy(), host="127.0.0.1")
    scp.start()
    datasets = instances(5, "away")
    assoc = associate(scp.port)
    try:
        assert assoc.send_c_store(datasets[0]).Status == 0
        postgres_server.process.kill()  # what it had committed and not flushed is lost
        postgres_server.process.wait()
        assert assoc.send_c_store(datasets[1]).Status == 0xA700
        _remove_stale_lock(postgres_server)
        postgres_server.start()
        assert [assoc.send_c_store(ds).Status for ds in datasets[1:]] == [0, 0, 0, 0]
        assoc.release()
        found = archive.instances(datasets[0].SeriesInstanceUID)
        assert {one.sop_instance_uid for one in found} == {ds.SOPInstanceUID for ds in datasets}
        for one in found:
            assert dcmread(io.BytesIO(archive.read(one))).SOPInstanceUID == one.sop_instance_uid
    finally:
        scp.stop()
        archive.close()
        database.dispose()


def _remove_stale_lock(server: Any) -> None:
    """The children of a killed postmaster may still hold its memory for a moment."""
    wait_until(
        lambda: subprocess.run(["pgrep", "-g", str(server.process.pid)], check=False, capture_output=True).returncode,
        what="its children end",
    )
    (server.folder / "data" / "postmaster.pid").unlink(missing_ok=True)


# -- stopping, sharing, dying


def test_stopping_lets_a_message_finish_and_ends_idle_associations(start: StartReceiver) -> None:
    receiver = start()
    (ds,) = instances(1, "stopping")
    idle = associate(receiver.port)
    data = data_set(phantoms.to_bytes(ds))
    with associated(receiver.port, ds.SOPClassUID, ExplicitVRLittleEndian) as sock:
        sock.sendall(command_pdu(ds.SOPClassUID, ds.SOPInstanceUID))
        wait_until(lambda: any(not session.is_idle for session in receiver.scp._sessions), what="the command arrives")
        stopping = threading.Thread(target=receiver.scp.stop, args=(10,))
        stopping.start()
        wait_until(lambda: not idle.is_established, what="the idle association is ended")
        sock.sendall(data_pdu(data))
        kind, answer = read_pdu(sock)
        assert (kind, status_of(answer)) == (4, 0x0000)
        assert read_pdu(sock)[0] == 7
        stopping.join(20)
    assert receiver.stored() == {ds.SOPInstanceUID: data}
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", receiver.port or 1), 1)


RECEIVE = """
import sys, threading
from pathlib import Path
from sqlmodel import SQLModel
import imaging_ai.db.tables
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.folder import FolderStore
from imaging_ai.db.engine import Database
from imaging_ai.receive.policy import AssociationPolicy
from imaging_ai.receive.scp import StorageScp
folder, port = Path(sys.argv[1]), int(sys.argv[2])
database = Database(f"sqlite:///{folder}/index.db")
SQLModel.metadata.create_all(database.engine)
archive = Archive(database, FolderStore(folder / "store", min_free_bytes=0, segment_bytes=4 << 20))
print("recovered", archive.recover(), flush=True)
scp = StorageScp(archive, AssociationPolicy(), host="127.0.0.1", port=port, share_port=True)
scp.start()
print("listening", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        process.kill()
        process.wait()


def spawn(folder: Path, port: int, running: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RECEIVE, str(folder), str(port)], stdout=subprocess.PIPE, text=True
    )
    running.append(process)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("recovered")
    assert process.stdout.readline() == "listening\n"
    return process


@pytest.mark.slow
def test_after_kill_9_every_acknowledged_instance_is_there_and_nothing_else(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    port = free_port()
    acknowledged: dict[str, bytes] = {}
    tried: dict[str, bytes] = {}
    rng = np.random.default_rng(7)
    for kill in range(5):
        shares = [made(f"{kill}-{number}", large=number == 3) for number in range(4)]
        for share in shares:
            tried.update(share)
        process = spawn(tmp_path, port, processes)
        timer = threading.Timer(float(rng.uniform(0.05, 0.6)), process.kill)
        threads = [threading.Thread(target=push, args=(port, share, acknowledged)) for share in shares]
        timer.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        process.wait(30)
    last = spawn(tmp_path, port, processes)
    last.kill()
    last.wait()
    assert len(acknowledged) > 20
    database = Database(f"sqlite:///{tmp_path}/index.db")
    store = FolderStore(tmp_path / "store", min_free_bytes=0)
    archive = Archive(database, store)
    archive.recover()
    with database.read() as session:
        rows = session.connection().execute(select(INSTANCE)).all()
    from imaging_ai.core.blob import BlobRef

    held = {
        row.sop_instance_uid: data_set(store.read(BlobRef(row.blob_key, row.blob_offset, row.blob_length)))
        for row in rows
    }
    assert acknowledged.keys() <= held.keys() <= tried.keys()
    assert all(held[uid] == tried[uid] for uid in held)
    assert [path for path in (tmp_path / "store" / "owners").rglob("*") if path.suffix] == [], (
        "nothing unsettled is left"
    )
    named = {row.blob_key for row in rows}
    on_disk = {str(path.relative_to(tmp_path / "store")) for path in (tmp_path / "store" / "objects").rglob("*.dcm")}
    assert on_disk <= named, "no object without a row"


def made(name: str, *, large: bool) -> dict[str, bytes]:
    """Make the data sets of one sender."""
    datasets = {}
    for ds in instances(20 if large else 80, name):
        if large:
            ds.PixelData = bytes(2 << 20)
        datasets[str(ds.SOPInstanceUID)] = data_set(phantoms.to_bytes(ds))
    return datasets


def push(port: int, datasets: dict[str, bytes], acknowledged: dict[str, bytes]) -> None:
    """Store instance after instance until the receiver dies."""
    with suppress(OSError), associated(port, CTImageStorage, ExplicitVRLittleEndian) as sock:
        for uid, data in datasets.items():
            sock.sendall(command_pdu(CTImageStorage, uid) + data_pdu(data))
            if status_of(read_pdu(sock)[1]) == 0:
                acknowledged[uid] = data


@pytest.mark.slow
def test_several_receivers_share_a_port(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    port = free_port()
    for _ in range(2):
        spawn(tmp_path, port, processes)
    datasets = instances(24, "shared")
    for number in range(12):
        assoc = associate(port)
        assert [assoc.send_c_store(ds).Status for ds in datasets[2 * number : 2 * number + 2]] == [0, 0]
        assoc.release()
    database = Database(f"sqlite:///{tmp_path}/index.db")
    archive = Archive(database, FolderStore(tmp_path / "store", min_free_bytes=0))
    assert len(archive.instances(datasets[0].SeriesInstanceUID)) == 24
    assert archive.recover() == 0, "the living are left alone"


# -- a raw sender


def request_pdu(
    sop_class_uid: str, transfer_syntax_uid: str, *, called: str = "IMAGINGAI", calling: str = "RAW"
) -> bytes:
    """Make an A-ASSOCIATE-RQ with one context."""

    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(value)) + value

    context = bytes((1, 0, 0, 0)) + item(0x30, sop_class_uid.encode()) + item(0x40, transfer_syntax_uid.encode())
    body = struct.pack(">HH", 1, 0) + called.encode().ljust(16) + calling.encode().ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context)
    body += item(0x50, item(0x51, struct.pack(">I", 131072)) + item(0x52, b"1.2.3"))
    return struct.pack(">BBI", 1, 0, len(body)) + body


class associated:  # noqa: N801 - reads as a context
    """An association with one context, on a bare socket."""

    def __init__(self, port: int, sop_class_uid: str, transfer_syntax_uid: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 20)
        self.sock.sendall(request_pdu(sop_class_uid, transfer_syntax_uid))
        assert read_pdu(self.sock)[0] == 2

    def __enter__(self) -> socket.socket:
        return self.sock

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def command_pdu(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    body = element(2, sop_class_uid.encode()) + element(0x100, b"\x01\0") + element(0x110, b"\x01\0")
    body += element(0x700, b"\0\0") + element(0x800, b"\0\0") + element(0x1000, sop_instance_uid.encode())
    body = element(0, struct.pack("<I", len(body))) + body
    return struct.pack(">BBIIBB", 4, 0, len(body) + 6, len(body) + 2, 1, 3) + body


def data_pdu(data: bytes) -> bytes:
    parts = [data[start : start + 100_000] for start in range(0, len(data), 100_000)]
    return b"".join(
        struct.pack(">BBIIBB", 4, 0, len(part) + 6, len(part) + 2, 1, 2 if number == len(parts) - 1 else 0) + part
        for number, part in enumerate(parts)
    )


def read_pdu(sock: socket.socket) -> tuple[int, bytes]:
    data = b""
    while len(data) < 6 or len(data) < 6 + int.from_bytes(data[2:6], "big"):
        part = sock.recv(6 - len(data) if len(data) < 6 else 6 + int.from_bytes(data[2:6], "big") - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data[0], data[6:]


def status_of(answer: bytes) -> int:
    at = answer.index(struct.pack("<HHI", 0, 0x0900, 2)) + 8
    return int.from_bytes(answer[at : at + 2], "little")


def send_raw(
    port: int, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data: bytes, context_class: str = ""
) -> int:
    with associated(port, context_class or sop_class_uid, transfer_syntax_uid) as sock:
        sock.sendall(command_pdu(sop_class_uid, sop_instance_uid) + data_pdu(data))
        status = status_of(read_pdu(sock)[1])
        sock.sendall(struct.pack(">BBII", 5, 0, 4, 0))
        assert read_pdu(sock)[0] == 6
    return status
