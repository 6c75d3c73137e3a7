"""What no sender should send, through the whole server: the protocol's own answer, nothing half-made, a reason to read.

Where a data set can be told to be wrong at once, the sender is told. Where only a reader of pixels can tell, it is
stored as it came, and the job says why it has no result.
"""

from __future__ import annotations

import random
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

import storing
from e2e.raw import RawAssociation, fragments, read_pdu
from e2e.server import Server, push
from e2e.watching import WellBehaved, asks, stores
from imaging_ai.archive import gate
from imaging_ai.core.identity import new_uid
from imaging_ai.core.job import Job, JobState
from phantoms import ball, series, threshold_bundle, to_bytes, write
from services import free_port, wait_until

pytestmark = [pytest.mark.service, pytest.mark.slow]

SETTINGS = """
[[destinations]]
name = "pacs"
ae_title = "NOBODY"
host = "127.0.0.1"
port = {port}

[[rules]]
name = "bright things"
when = {{ Modality = "CT", instances = ">= 4", PatientID = "!NOBODY" }}
run = ["threshold"]

[[rules]]
name = "sent nowhere"
when = {{ Modality = "CT", instances = ">= 4", SeriesDescription = "to be sent" }}
run = ["threshold"]
send = ["pacs"]

[routing]
quiet_seconds = 0.3
silence_seconds = 1.0

[dicom]
max_object_mb = 8

[worker]
max_attempts = 1
memory_limit_mb = 3000

[log]
level = "DEBUG"
"""

KEPT = {"megabytes": 50}
MARKERS = ("ZZMARKER", "ZZSECRET", "ZZREFERRER", "ZZCOMMENT")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("bad"), SETTINGS.format(port=free_port())) as server:
        threshold_bundle(server.models / "threshold")
        server.serve()
        yield server


@pytest.fixture(scope="module")
def good(server: Server) -> Iterator[WellBehaved]:
    works = {"C-STORE": stores(server.dicom_port, new=False)}
    works["C-STORE"]()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.http_port}", timeout=30) as client:
        works["search"] = asks(client, f"/dicom-web/studies?PatientID={storing.ct(1, 'good client')[0].PatientID}")
        works["health"] = asks(client, "/health/live")
        with WellBehaved(works) as one:
            yield one


def phantom(slices: int = 6, size: int = 24) -> list[Dataset]:
    """A marked CT of somebody's, under fresh UIDs."""
    datasets = series(ball((slices, size, size)))
    study, one, frame = new_uid(), new_uid(), new_uid()
    for ds in datasets:
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, one, frame
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
        ds.PatientName, ds.PatientID = "ZZMARKER^SECRET", "ZZSECRET"
        ds.ReferringPhysicianName, ds.PatientComments = "ZZREFERRER^X", "ZZCOMMENT of a patient"
    return datasets


def data_set(ds: Dataset) -> bytes:
    data = to_bytes(ds)
    return data[gate.dataset_offset(data) :]


def store(server: Server, datasets: list[Dataset], transfer_syntax_uid: str = ExplicitVRLittleEndian) -> str:
    """Store a series that is taken, whatever is in it; return its Study Instance UID."""
    with RawAssociation(server.dicom_port, datasets[0].SOPClassUID, transfer_syntax_uid) as assoc:
        for ds in datasets:
            assert assoc.store(ds.SOPInstanceUID, data_set(ds)) == (0x0000, "")
    return str(datasets[0].StudyInstanceUID)


def ended(server: Server, study: str) -> Job:
    (job,) = server.wait_jobs(1, study, timeout=120)
    return job


# -- what is refused at the door


def cut(ds: Dataset) -> bytes:
    return data_set(ds)[:-100]


def of_other_instance(ds: Dataset) -> bytes:
    ds.SOPInstanceUID = new_uid()
    return data_set(ds)


def with_path_for_uid(ds: Dataset) -> bytes:
    ds.add_new("SeriesInstanceUID", "UI", "../../../etc/cron.d/x")
    return data_set(ds)


def of_declared_gigabytes(ds: Dataset) -> bytes:
    return data_set(ds)[:-1164] + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 0xF0000000) + bytes(512)


def without_study(ds: Dataset) -> bytes:
    del ds.StudyInstanceUID
    return data_set(ds)


def noise(_ds: Dataset) -> bytes:
    return random.Random(4).randbytes(5000)


def too_large(ds: Dataset) -> bytes:
    return data_set(ds) + bytes(9 << 20)


REFUSED: dict[str, tuple[Callable[[Dataset], bytes], int]] = {
    "cut short": (cut, 0xC000),
    "noise": (noise, 0xC000),
    "nothing": (lambda _: b"", 0xC000),
    "without a study": (without_study, 0xC000),
    "a path for a UID": (with_path_for_uid, 0xC000),
    "a value of gigabytes": (of_declared_gigabytes, 0xC000),
    "of another instance": (of_other_instance, 0xA900),
    "too large": (too_large, 0xA700),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_instance_is_refused_with_the_reason_and_leaves_nothing(server: Server, name: str) -> None:
    spoil, status = REFUSED[name]
    (ds, good) = phantom(2)
    uid = str(ds.SOPInstanceUID)
    study = str(ds.StudyInstanceUID)
    with RawAssociation(server.dicom_port, CTImageStorage, ExplicitVRLittleEndian) as assoc:
        answer, comment = assoc.store(uid, spoil(ds))
        assert answer == status
        assert len(comment) > 10, "a reason in words"
        assert assoc.store(good.SOPInstanceUID, data_set(good)) == (0x0000, ""), "the association goes on"
    assert server.instance_count(study) == 1
    said = [line for line in log(server).splitlines() if f"{status:#06x}" in line]
    assert any(comment[:40] in line for line in said), "the log says so too"


def test_a_uid_with_a_path_in_the_command_is_refused_and_touches_no_file(server: Server) -> None:
    (ds,) = phantom(1)
    path = f"../../../../{server.folder}/planted"
    with RawAssociation(server.dicom_port, CTImageStorage, ExplicitVRLittleEndian) as assoc:
        assert assoc.store(path[:64], data_set(ds))[0] == 0xC000
    assert not (server.folder / "planted").exists()
    assert not list(server.folder.rglob("*planted*"))


def test_a_pdu_of_declared_gigabytes_is_aborted(server: Server) -> None:
    assoc = RawAssociation(server.dicom_port, CTImageStorage, ExplicitVRLittleEndian)
    assoc.sock.sendall(struct.pack(">BBI", 4, 0, 0xFFFFFFF0) + bytes(100))
    kind, body = read_pdu(assoc.sock)
    assert (kind, body[2:]) == (7, bytes((2, 6)))
    assoc.sock.close()


def test_an_association_that_breaks_in_mid_object_keeps_what_was_acknowledged_and_nothing_else(server: Server) -> None:
    first, second = phantom(2)
    assoc = RawAssociation(server.dicom_port, CTImageStorage, ExplicitVRLittleEndian)
    assert assoc.store(first.SOPInstanceUID, data_set(first))[0] == 0x0000
    assoc.sock.sendall(assoc.command(second.SOPInstanceUID) + fragments(data_set(second))[:700])
    assoc.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assoc.sock.close()
    job = ended(server, str(first.StudyInstanceUID))
    assert (job.model, len(job.inputs)) == ("", 1)
    assert server.instance_count(str(first.StudyInstanceUID)) == 1


# -- what is stored as it came, and cannot be read


def all_of(change: Callable[[Dataset], object]) -> Callable[[list[Dataset]], str]:
    def spoil(datasets: list[Dataset]) -> str:
        for ds in datasets:
            change(ds)
        return ExplicitVRLittleEndian

    return spoil


def one_of(change: Callable[[Dataset], object]) -> Callable[[list[Dataset]], str]:
    def spoil(datasets: list[Dataset]) -> str:
        change(datasets[2])
        return ExplicitVRLittleEndian

    return spoil


def encapsulated(syntax: str, frame: bytes, **attributes: int) -> Callable[[list[Dataset]], str]:
    def change(ds: Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        ds.PixelData = encapsulate([frame])
        ds["PixelData"].is_undefined_length = True
        ds["PixelData"].VR = "OB"
        ds.file_meta.TransferSyntaxUID = syntax

    def spoil(datasets: list[Dataset]) -> str:
        for ds in datasets:
            change(ds)
        return syntax

    return spoil


def raw_element(tag: int, vr: str, value: bytes) -> Callable[[Dataset], object]:
    def change(ds: Dataset) -> None:
        ds[Tag(tag)] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)

    return change


UNREADABLE: dict[str, Callable[[list[Dataset]], str]] = {
    "pixels cut short in one slice": one_of(lambda ds: setattr(ds, "PixelData", ds.PixelData[:-200])),
    "rows that the pixels have not": all_of(lambda ds: setattr(ds, "Rows", 4000)),
    "no rows": all_of(lambda ds: setattr(ds, "Rows", 0)),
    "no position": all_of(lambda ds: delattr(ds, "ImagePositionPatient")),
    "a spacing of no numbers": all_of(raw_element(0x00280030, "DS", b"ZZMARKER\\wide ")),
    "a slope of no number": all_of(raw_element(0x00281053, "DS", b"ZZMARKER")),
    "an orientation of zeros": all_of(lambda ds: setattr(ds, "ImageOrientationPatient", [0, 0, 0, 0, 0, 0])),
    "jpeg 2000 of noise": encapsulated(JPEG2000Lossless, random.Random(5).randbytes(600)),
    "rle of noise": encapsulated(RLELossless, random.Random(6).randbytes(600)),
    "rle that says little and means gigabytes": encapsulated(RLELossless, bytes(64), Rows=60000, Columns=60000),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_stored_and_the_job_says_why(server: Server, name: str) -> None:
    datasets = phantom()
    study = store_spoiled(server, datasets, UNREADABLE[name])
    job = ended(server, study)
    assert job.state is JobState.CANCELED
    assert job.failure is not None
    print(f"{name}: {job.failure}")
    assert job.failure.permanent
    assert job.failure.code not in {"internal-error", "model-failed"}, job.failure
    assert not any(marker in job.failure.reason for marker in MARKERS)
    assert server.instance_count(study) == len(datasets)
    assert server.rows("SELECT count(*) AS n FROM result WHERE job_id = :job", job=job.id)[0].n == 0


def store_spoiled(server: Server, datasets: list[Dataset], spoil: Callable[[list[Dataset]], str]) -> str:
    return store(server, datasets, spoil(datasets))


def test_a_deflate_bomb_is_stored_small_and_read_by_nobody(server: Server) -> None:
    datasets = phantom(4)
    bombs = [bomb(data_set(ds)) for ds in datasets]
    with RawAssociation(server.dicom_port, CTImageStorage, DeflatedExplicitVRLittleEndian) as assoc:
        for ds, data in zip(datasets, bombs, strict=True):
            assert assoc.store(ds.SOPInstanceUID, data) == (0x0000, "")
    job = ended(server, str(datasets[0].StudyInstanceUID))
    assert job.state is JobState.CANCELED
    assert job.failure is not None and job.failure.permanent
    assert "inflates to more than" in job.failure.reason
    described = (
        "SELECT d.error AS error FROM instance_document d JOIN series s ON s.id = d.series_id "
        "WHERE s.series_instance_uid = :uid"
    )
    wait_until(lambda: len(server.rows(described, uid=datasets[0].SeriesInstanceUID)) == 4, 120, what="documents")


def bomb(data: bytes) -> bytes:
    """A data set of which a quarter of a megabyte travels and 384 megabytes come out."""
    deflate = zlib.compressobj(1, wbits=-15)
    large = struct.pack("<HH2sHI", 0x7FE1, 0x10, b"OB", 0, 384 << 20)
    return (
        deflate.compress(data + large) + b"".join(deflate.compress(bytes(1 << 24)) for _ in range(24)) + deflate.flush()
    )


# -- what is odd, and works


def nested(ds: Dataset) -> None:
    inner = Dataset()
    for _ in range(60):
        outer = Dataset()
        outer.add_new(0x00081140, "SQ", Sequence([inner]))
        inner = outer
    ds.add_new(0x00081140, "SQ", Sequence([inner]))


ODD: dict[str, Callable[[list[Dataset]], str]] = {
    "an unknown character set": all_of(raw_element(0x00080005, "CS", b"ISO_IR 999")),
    "a japanese name": all_of(
        lambda ds: (
            setattr(ds, "SpecificCharacterSet", ["", "ISO 2022 IR 87"]),
            setattr(ds, "PatientName", "ヤマダ^タロウ=山田^太郎"),
        )
    ),
    "bytes that are not of the character set": all_of(raw_element(0x00100010, "PN", b"ZZMARKER^\xff\xfe\x80\x81 ")),
    "a name of too many parts": all_of(raw_element(0x00100010, "PN", b"ZZMARKER=A=B=C=D^E^F^G^H^I ")),
    "a date of words": all_of(raw_element(0x00080020, "DA", b"yesterday ")),
    "a birth date of no day": all_of(raw_element(0x00100030, "DA", b"ZZMARKER")),
    "an age and a weight of words": all_of(
        lambda ds: (raw_element(0x00101010, "AS", b"old ")(ds), raw_element(0x00101030, "DS", b"heavy ")(ds))
    ),
    "an instance number of words": all_of(raw_element(0x00200013, "IS", b"first ")),
    "sequences in sequences": all_of(nested),
    "a private creator without its block": all_of(raw_element(0x00091010, "UN", b"\1\2\3\4")),
    "a name longer than allowed": all_of(lambda ds: setattr(ds, "PatientID", "ZZSECRET" * 40)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_where_it_does_not_matter_has_results(server: Server, name: str) -> None:
    job = ended(server, store_spoiled(server, phantom(), ODD[name]))
    assert job.state is JobState.COMPLETED, job.failure
    assert set(server.results(job.id)) == {"SEG", "SR"}


# -- nobody's name where it does not belong


def log(server: Server) -> str:
    return "".join(path.read_text(errors="replace") for path in server.folder.glob("*.log"))


@pytest.mark.filterwarnings("ignore")
def test_no_log_no_file_name_no_metric_and_no_error_carries_a_patients_name_or_id(
    server: Server, tmp_path: Path
) -> None:
    """The last test of the module: everything above was of the same marked patient."""
    sent = phantom()
    for ds in sent:
        ds.SeriesDescription = "to be sent"
    push(server.dicom_port, *write(sent, tmp_path / "sent"))  # to a destination that is away
    ended(server, str(sent[0].StudyInstanceUID))
    unmatched = phantom()
    for ds in unmatched:
        ds.Modality = "MR"
    push(server.dicom_port, *write(unmatched, tmp_path / "unmatched"))
    none = ended(server, str(unmatched[0].StudyInstanceUID))
    assert none.failure is not None
    sent[0].PatientComments = "ZZCOMMENT of the same instance with other content"
    with RawAssociation(server.dicom_port, CTImageStorage, ExplicitVRLittleEndian) as assoc:
        assert assoc.store(sent[0].SOPInstanceUID, data_set(sent[0]))[0] == 0x0111
    attempted = "SELECT count(*) AS n FROM delivery WHERE attempts > 0"
    wait_until(lambda: server.rows(attempted)[0].n > 0, what="an attempt to deliver")

    told = {
        "the logs": log(server),
        "the metrics": server.get("/metrics").text,
        "the jobs": server.get("/api/jobs").text + server.cli("jobs", "list", "--limit", "1000").stdout,
        "the ledger": str(server.rows("SELECT * FROM job")),
        "the deliveries": str(server.rows("SELECT * FROM delivery")),
        "the audit": str(server.rows("SELECT * FROM audit_event")),
        "the errors": "".join(
            server.get(path).text
            for path in (
                "/api/studies/ZZMARKER",
                "/api/studies?PatientName=ZZMARKER",
                "/api/jobs/ZZMARKER",
                "/api/jobs?study=ZZMARKER",
                "/ZZMARKER",
            )
        ),
        "file names": "\n".join(map(str, (server.folder / "data").rglob("*"))),
        **{str(path): path.read_bytes().decode("latin-1") for path in outside_of_the_archive(server)},
    }
    assert len(told["the logs"]) > 2000, "it is looked at what was written"
    for place, text in told.items():
        for marker in MARKERS:
            found = re.search(f".*{marker}.*", text)
            assert found is None, f"{place}: {found and found[0]}"


def outside_of_the_archive(server: Server) -> Iterator[Path]:
    """Files of the data directory that are neither objects nor the database."""
    data = server.folder / "data"
    for path in data.rglob("*"):
        if path.is_file() and data / "objects" not in path.parents and ".db" not in path.name:
            yield path
