"""Patient data stays in its place: marked names go through every door, failures included, and nothing else knows them.

Their place is the object storage, the index and the work items in the database, and what a client asked for and got.
Looked through is everything else that is written: logs at their chattiest, metrics, queue messages, error bodies, names
of files, other files of the data directory, and every other table.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from sqlalchemy import select
from sqlmodel import SQLModel

import storing
from e2e.raw import RawAssociation
from e2e.server import Server, push, renamed
from imaging_ai.core.job import JobState
from phantoms import ball, series, threshold_bundle, to_bytes, write
from services import wait_until
from services.peers import RecordingPeer
from services.redis import RedisServer
from services.worklist import new_item

pytestmark = [pytest.mark.service, pytest.mark.slow]

MARK = "ZZMARK"
MARKED = {
    "PatientName": f"{MARK}^NAME",
    "PatientID": f"{MARK}-ID",
    "OtherPatientIDs": f"{MARK}-OTHER",
    "AccessionNumber": f"{MARK}-ACC",
    "StudyID": f"{MARK}-SID",
    "PatientComments": f"{MARK} comments",
    "PatientAddress": f"{MARK} street",
    "StudyDescription": f"{MARK} study",
    "SeriesDescription": f"{MARK} series",
    "ReferringPhysicianName": f"{MARK}^REF",
    "InstitutionName": f"{MARK} house",
    "RequestingPhysician": f"{MARK}^REQ",
    "ImageComments": f"{MARK} image",
}
#: Where patient data belongs: the index and its documents, and work items with what is told of them.
THEIR_TABLES = {"study", "series", "instance_document", "work_item", "notification", "subscription"}

SETTINGS = """
[log]
level = "DEBUG"

[[destinations]]
name = "refusing"
ae_title = "PEER"
host = "127.0.0.1"
port = {peer}

[[destinations]]
name = "away"
ae_title = "AWAY"
host = "127.0.0.1"
port = 1
max_attempts = 1

[[rules]]
name = "bright things"
when = {{ Modality = "CT", instances = ">= 4", PatientID = "ZZMARK*" }}
run = ["threshold"]
send = ["refusing", "away"]

[[rules]]
name = "broken"
when = {{ Modality = "MR", PatientName = "/zzmark/" }}
run = ["broken"]

[routing]
quiet_seconds = 0.3
"""


def marked(folder: Path, modality: str, slices: int = 6) -> list[Path]:
    datasets = series(ball((slices, 32, 32)), modality=modality)
    for ds in datasets:
        for keyword, value in MARKED.items():
            setattr(ds, keyword, value)
    return list(renamed(write(datasets, folder / "made"), folder / "fresh"))


def traces(what: bytes | str) -> list[str]:
    """The surroundings of marks."""
    text = what.decode("latin-1") if isinstance(what, bytes) else what
    return [text[max(0, one.start() - 120) : one.end() + 60] for one in re.finditer(MARK, text, re.IGNORECASE)]


class Queue:
    """Everything that is said to Redis."""

    def __init__(self, port: int) -> None:
        self.said = b""
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(b"MONITOR\r\n")
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while some := self._socket.recv(1 << 16):
            self.said += some

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._socket.close()


def through_dimse(server: Server, folder: Path) -> list[str]:
    """Series that run, fail and are refused, and objects that are damaged; return the comments on errors."""
    push(server.dicom_port, *marked(folder / "ct", "CT"))
    push(server.dicom_port, *marked(folder / "mr", "MR"))
    push(server.dicom_port, *marked(folder / "few", "CT", slices=2))
    ds = pydicom.dcmread(marked(folder / "bad", "CT")[0])
    whole = to_bytes(ds)
    body = whole[whole.index(b"\x08\0\x05\0") if b"\x08\0\x05\0" in whole else 400 :]
    damaged = (
        body[: len(body) // 2],
        body.replace(b"1.2.", MARK.encode()),
        body.replace(b"CS", b"ZZ"),
        MARK.encode() * 99,
    )
    comments = []
    for data in damaged:
        with RawAssociation(server.dicom_port, str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)) as association:
            comments.append(association.store(str(ds.SOPInstanceUID), data)[1])
    return comments


def through_http(server: Server, folder: Path) -> list[httpx.Response]:
    """Good and bad requests with marks in bodies and addresses; return the answers that are errors."""
    files = marked(folder / "stow", "CT", slices=2)
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    data = [path.read_bytes() for path in files]
    answers = []
    with httpx.Client(base_url=f"http://127.0.0.1:{server.http_port}/dicom-web", timeout=30) as client:

        def stow(content: bytes, content_type: str) -> None:
            answers.append(client.post("/studies", content=content, headers={"Content-Type": content_type}))

        stow(storing.multipart([storing.instance(data[0]), storing.instance(data[1][:900])]), storing.content_type())
        stow(storing.multipart([storing.instance(data[1].replace(b"1.2.", b"ZZMARK"))]), storing.content_type())
        stow(json.dumps([{"00100010": {"vr": "PN", "Value": [MARK]}}]).encode(), "application/dicom+json")
        stow(f'[{{"00100010": {MARK}'.encode(), "application/dicom+json")
        stow(f"<x>{MARK}".encode(), "application/dicom+xml")
        for query in (
            f"PatientName={MARK}*",
            f"PatientID={MARK}-ID&includefield=all",
            f"PatientBirthDate={MARK}",
            f"StudyDate={MARK}-{MARK}",
            f"{MARK}=1",
            f"limit={MARK}",
            f"StudyInstanceUID={MARK}",
            f"PatientName={'*' * 30}{MARK}&fuzzymatching={MARK}",
        ):
            answers.append(client.get(f"/studies?{query}"))
        for path in (
            f"/studies/{study}/metadata",
            f"/studies/{study}/rendered",
            f"/studies/{study}",
            f"/studies/{MARK}",
        ):
            answers.append(client.get(path, headers={"Accept": f"application/{MARK}"}))
            answers.append(client.get(path))
        item = new_item(PatientName=MARKED["PatientName"], PatientID=MARKED["PatientID"])
        answers.append(client.post("/workitems", json=item, headers={"Content-Type": "application/dicom+json"}))
        answers.append(client.post("/workitems", json={**item, "00100010": MARK}))
        answers.append(client.post("/workitems", content=MARK.encode()))
        answers.append(client.get(f"/workitems?PatientName={MARK}*"))
        answers.append(client.get(f"/workitems?ScheduledProcedureStepStartDateTime={MARK}"))
        answers.append(client.post("/studies", content=b"x", headers={"Content-Type": f"multipart/{MARK}"}))
    with socket.create_connection(("127.0.0.1", server.http_port)) as raw:
        raw.sendall(f"GET /{MARK} {MARK}\r\n\r\n".encode())
        raw.settimeout(5)
        with contextlib.suppress(OSError):
            raw.recv(1000)
    assert not [one for one in answers if one.status_code >= 500]
    return [one for one in answers if one.status_code >= 400]


@pytest.fixture
def peer() -> Iterator[RecordingPeer]:
    with RecordingPeer(answer=lambda _: 0xA900) as peer:
        yield peer


def test_marked_names_are_found_nowhere_but_in_their_place(
    tmp_path: Path, redis_server: RedisServer, peer: RecordingPeer
) -> None:
    queue = Queue(redis_server.port)
    environment = {"IMAGING_AI_BROKER_URL": redis_server.url}
    with Server(tmp_path / "server", SETTINGS.format(peer=peer.port), environment) as server:
        threshold_bundle(server.models / "threshold")
        threshold_bundle(server.models / "broken")
        (server.models / "broken" / "models" / "model.pt").write_bytes(b"no weights")
        server.serve()
        comments = through_dimse(server, tmp_path / "sent")
        errors = through_http(server, tmp_path / "sent")
        jobs = server.wait_jobs(3)
        assert {JobState.COMPLETED, JobState.CANCELED} == {job.state for job in jobs}
        dead = "SELECT state FROM delivery"
        wait_until(lambda: (found := server.rows(dead)) and {row.state for row in found} == {"DEAD"}, 60, what="dead")
        metrics = server.get("/metrics").text
        exports = "".join(server.cli("audit", "export", "--format", kind).stdout for kind in ("jsonl", "fhir", "dicom"))
        lists = "".join(server.cli(*words).stdout for words in (("jobs", "list"), ("jobs", "list", "--json")))
        tables = rows_elsewhere(server)
    queue.close()

    assert len(errors) > 10, "failures were among it"
    assert len(queue.said) > 500, "the queue was listened to"
    assert traces((server.folder / "data" / "imaging-ai.db").read_bytes()), "their place knows them"
    assert "runs as process" in (server.folder / "serve.log").read_text(), "logs were looked through"
    found = {"metrics": traces(metrics), "queue": traces(queue.said), "audit": traces(exports)}
    found |= {"command line": traces(lists), "comments": traces("\n".join(comments))}
    found |= {f"answer to {one.request.method} {one.request.url.path}": traces(one.content) for one in errors}
    found |= {f"table {name}": traces(text) for name, text in tables.items()}
    found |= dict(files_elsewhere(server.folder))
    assert {place: what for place, what in found.items() if what} == {}


def rows_elsewhere(server: Server) -> dict[str, str]:
    """Every table but those that patient data belongs in, as text."""
    with server.database.read() as session:
        connection = session.connection()
        return {
            name: "\n".join(str(tuple(row)) for row in connection.execute(select(table)))
            for name, table in SQLModel.metadata.tables.items()
            if name not in THEIR_TABLES
        }


def files_elsewhere(folder: Path) -> Iterator[tuple[str, Any]]:
    """Names of all files, and what is in those that are not storage or database."""
    for path in folder.rglob("*"):
        yield f"name of {path}", traces(str(path.relative_to(folder)))
        inside = path.relative_to(folder).parts
        theirs = inside[:2] == ("data", "objects") or path.name.startswith("imaging-ai.db") or path.suffix == ".toml"
        if path.is_file() and not theirs:
            yield str(path), traces(path.read_bytes())
