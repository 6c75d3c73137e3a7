"""STOW-RS through the whole server: clients that break off, stall or send without end, and jobs that start from it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import phantoms
import storing
from e2e.server import Server
from imaging_ai.archive.log import records
from services import wait_until
from storing import ct, instance

HEAD = "POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\n"
RULE = """
[[rules]]
name = "all CT"
when = { Modality = "CT" }
run = ["threshold"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = "[dicom]\nmax_object_mb = 1\n"
    with Server(tmp_path_factory.mktemp("stow"), settings) as server:
        server.start("web")
        wait_until(lambda: _answers(server), 60, what="the web server answers")
        yield server


def _answers(server: Server) -> bool:
    try:
        return server.get("/health/live").status_code == 200
    except httpx.HTTPError:
        return False


def send(server: Server, parts: list[storing.Part], **options: Any) -> httpx.Response:
    return httpx.post(
        f"http://127.0.0.1:{server.http_port}/dicom-web/studies",
        content=storing.multipart(parts),
        headers={"Content-Type": storing.content_type()},
        timeout=60,
        **options,
    )


def connect(server: Server, *lines: str, content_type: str = "") -> socket.socket:
    """Begin a request by hand."""
    sock = socket.create_connection(("127.0.0.1", server.http_port), timeout=60)
    head = HEAD.format(content_type or storing.content_type()) + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    sock.sendall(head.encode())
    return sock


def answer_of(sock: socket.socket) -> str:
    with sock, sock.makefile("rb") as stream:
        return stream.readline().decode().strip()


def indexed(server: Server) -> int:
    return int(server.rows("SELECT count(*) AS n FROM instance")[0].n)


def left_behind(server: Server) -> int:
    """Bytes in the storage that no row names."""
    root = server.folder / "data" / "objects"
    logs = sum(one.length for path in (root / "logs").rglob("*.log") for one in records(path))
    whole = sum(path.stat().st_size for path in (root / "objects").rglob("*.dcm"))
    unfinished = sum(path.stat().st_size for path in (root / "owners").rglob("*.part"))
    (row,) = server.rows("SELECT coalesce(sum(blob_length), 0) AS n FROM instance")
    return int(logs + whole + unfinished - row.n)


def test_what_is_stored_can_be_found_at_once_and_deleted(server: Server) -> None:
    files = [phantoms.to_bytes(ds) for ds in ct(3, "e2e")]
    response = send(server, [instance(data) for data in files])
    assert response.status_code == 200
    url = response.json()["00081190"]["Value"][0]
    assert indexed(server) >= 3
    assert httpx.delete(url).status_code == 204
    assert httpx.delete(url).status_code == 410
    assert left_behind(server) == 0


@pytest.mark.parametrize("kind", ["chunked", "with its length"])
@pytest.mark.parametrize("single", [True, False])
def test_a_client_that_breaks_off_leaves_nothing(server: Server, kind: str, single: bool) -> None:
    """Even where what came is whole: without its end a body says nothing of its sender's intent."""
    before = indexed(server)
    (ds,) = ct(1, "broken off")
    data = phantoms.to_bytes(ds)
    body = data if single else storing.multipart([instance(data)])
    said = "application/dicom" if single else ""
    if kind == "chunked":
        sock = connect(server, "Transfer-Encoding: chunked", content_type=said)
        sock.sendall(b"%x\r\n" % len(body) + body + b"\r\n")
    else:
        sock = connect(server, f"Content-Length: {len(body) + 1}", content_type=said)
        sock.sendall(body)
    sock.close()
    after = [instance(phantoms.to_bytes(one)) for one in ct(1, "after")]
    assert send(server, after).status_code == 200
    wait_until(lambda: left_behind(server) == 0, 10, what="nothing is left behind")
    assert server.rows("SELECT 1 FROM instance WHERE sop_instance_uid = :uid", uid=str(ds.SOPInstanceUID)) == []
    assert indexed(server) <= before + 1


def test_a_body_over_the_limit_is_answered_although_the_client_is_still_sending(server: Server) -> None:
    before = indexed(server)
    good = storing.multipart([instance(phantoms.to_bytes(ds)) for ds in ct(2, "before a large one")])
    endless = storing.multipart([instance(bytes(128) + b"DICM" + bytes(8 << 20))])
    body = good.removesuffix(f"--{storing.BOUNDARY}--\r\n".encode()) + endless
    with connect(server, "Transfer-Encoding: chunked") as sock:
        for start in range(0, len(body), 1 << 16):
            chunk = body[start : start + (1 << 16)]
            sock.sendall(b"%x\r\n" % len(chunk) + chunk + b"\r\n")
        sock.sendall(b"0\r\n\r\n")
        assert answer_of(sock) == "HTTP/1.1 413 Payload Too Large"
    assert (indexed(server), left_behind(server)) == (before, 0)


def test_a_length_over_the_limit_is_refused_before_the_body(server: Server) -> None:
    sock = connect(server, f"Content-Length: {1 << 40}", "Expect: 100-continue")
    assert answer_of(sock) == "HTTP/1.1 413 Payload Too Large"


def test_requests_at_once_are_stored_all(server: Server) -> None:
    bodies = [[instance(phantoms.to_bytes(ds)) for ds in ct(5, f"at once {number}")] for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda parts: send(server, parts), bodies))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert sum(len(answer.json()["00081199"]["Value"]) for answer in answers) == 30


@pytest.mark.slow
def test_jobs_start_from_stow_as_from_c_store(tmp_path: Path) -> None:
    """And a real client's answer names what was stored; deleted, the study is gone with its results."""
    with Server(tmp_path, RULE + "[routing]\nquiet_seconds = 0.2\n") as server:
        phantoms.threshold_bundle(server.models / "threshold")
        server.start("web")
        server.start("work")
        wait_until(lambda: _answers(server), 60)
        series = phantoms.series(phantoms.ball((12, 48, 40)))
        study = str(series[0].StudyInstanceUID)
        response = send(server, [instance(phantoms.to_bytes(ds)) for ds in series])
        assert response.status_code == 200, response.text
        (job,) = server.wait_jobs(1, study)
        assert job.state == "COMPLETED", job.failure
        assert server.instance_count(study) > len(series)
        assert httpx.delete(response.json()["00081190"]["Value"][0]).status_code == 204
        assert server.instance_count(study) == 0
        assert left_behind(server) == 0
