"""Other ends of an association: one that records and answers as told, one that breaks, and DCMTK's storescp."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import AllTransferSyntaxes, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import StoredInstance
from services import free_port, require_program, wait_until

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
CT = "1.2.840.10008.5.1.4.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.34"


def stored(path: Path) -> StoredInstance:
    """Describe a DICOM file as the archive would."""
    ds = dcmread(path, stop_before_pixels=True)
    return StoredInstance(
        sop_instance_uid=str(ds.SOPInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
        study_instance_uid=str(ds.StudyInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        instance_number=None,
        blob=BlobRef(str(path), 0, path.stat().st_size),
    )


def read(instance: StoredInstance) -> bytes:
    """Read what `stored` described."""
    return Path(instance.blob.key).read_bytes()


def dataset_bytes(data: bytes) -> bytes:
    """The data set of a PS3.10 file, by pydicom's reading of where it begins."""
    stream = BytesIO(data)
    length = dcmread(stream, stop_before_pixels=True).file_meta.FileMetaInformationGroupLength
    return data[128 + 4 + 12 + length :]


def small_object(
    folder: Path,
    sop_class_uid: str,
    uid: str,
    *,
    study: str = "1.2.3",
    series: str = "1.2.3.4",
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
) -> Path:
    """Write a valid little file of a SOP class: enough for every archive to store and find it."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{series}.{uid.rsplit('.', 1)[-1]}"
    ds.PatientID, ds.PatientName, ds.Modality = "TEST", "TEST^SEND", {SEG: "SEG", SR: "SR"}.get(sop_class_uid, "OT")
    ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.StudyID = ds.PatientBirthDate = ds.PatientSex = ""
    ds.SeriesNumber = ds.InstanceNumber = 1
    path = folder / f"{uid}.dcm"
    ds.file_meta = Dataset()  # type: ignore[assignment]
    ds.file_meta.TransferSyntaxUID = transfer_syntax_uid
    dcmwrite(path, ds, enforce_file_format=True)
    return path


class RecordingPeer:
    """A Storage SCP that keeps what it gets, and answers what `answer` says (its argument counts from 0)."""

    def __init__(
        self,
        sop_classes: tuple[str, ...] = (SEG, CT, SR),
        transfer_syntaxes: tuple[str, ...] = tuple(AllTransferSyntaxes),
        answer: Callable[[int], int] = lambda _: 0x0000,
        delay: float = 0.0,
        ae_title: str = "PEER",
        require_called: bool = False,
        require_calling: tuple[str, ...] = (),
        port: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.received: list[tuple[str, str, bytes]] = []
        self.associations = 0
        self.port = port or free_port()
        self._answer, self._delay, self._requests = answer, delay, 0
        ae = AE(ae_title=ae_title)
        for sop_class_uid in sop_classes:
            ae.add_supported_context(sop_class_uid, list(transfer_syntaxes))
        ae.add_supported_context("1.2.840.10008.1.1")
        ae.require_called_aet = require_called
        ae.require_calling_aet = list(require_calling)
        self._server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)],
            ssl_context=ssl_context,
        )

    def _accepted(self, _event: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: evt.Event) -> int:
        time.sleep(self._delay)
        status = self._answer(self._requests)
        self._requests += 1
        if status == 0x0000 or status & 0xF000 == 0xB000:
            data = event.request.DataSet.getvalue()
            uid = str(event.request.AffectedSOPInstanceUID)
            self.received.append((uid, str(event.context.transfer_syntax), data))
        return status

    @property
    def uids(self) -> list[str]:
        """SOP Instance UIDs of what it kept, in the order of arrival."""
        return [uid for uid, _, _ in self.received]

    def __enter__(self) -> RecordingPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()


@contextmanager
def breaking_peer(after_bytes: int, *, stalls: bool = False) -> Iterator[int]:
    """Listen on a port, pass so many bytes on to a real peer, and then cut the connection, or read no more."""
    with RecordingPeer() as behind, socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    front, _ = listener.accept()
                except OSError:
                    return
                with front, socket.create_connection(("127.0.0.1", behind.port)) as back:
                    _relay(front, back, after_bytes)
                    if stalls:
                        stop.wait(30)
                    with suppress(OSError):  # a thread that still reads would keep it open
                        back.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        stop.set()


def _relay(front: socket.socket, back: socket.socket, budget: int) -> None:
    def answers() -> None:
        try:
            while data := back.recv(65536):
                front.sendall(data)
        except OSError:
            return

    threading.Thread(target=answers, daemon=True).start()
    while budget > 0 and (data := front.recv(min(budget, 65536))):
        back.sendall(data)
        budget -= len(data)
    front.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, as from a dead machine


@contextmanager
def storescp(folder: Path, ae_title: str = "STORESCP", options: Sequence[str] = ()) -> Iterator[int]:
    """Run DCMTK's storescp into `folder` and give its port. It stores, and cannot be queried.

    Nagle stays off: DCMTK leaves it on, at 40 ms for each C-STORE.
    """
    program, port = require_program("storescp"), free_port()
    process = subprocess.Popen(
        [program, "--output-directory", str(folder), "--aetitle", ae_title, "+xa", *options, str(port)],
        env={**os.environ, "TCP_NODELAY": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _listens(port), what="storescp listens")
        yield port
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
