"""What no client of DICOMweb should do, through the whole server: no 5xx, nothing half stored, no process gone.

`IMAGING_AI_TEST_MUTANTS` is how many damaged instances go in (1,000 take about five minutes).
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import phantoms
import storing
from e2e.hostile import connected, many, raw, status_of, websocket
from e2e.server import Server
from e2e.watching import Watch, WellBehaved, asks
from mutants import load, mutant
from services import wait_until
from services.worklist import new_item

pytestmark = [pytest.mark.service, pytest.mark.slow]

ROOT = "/dicom-web"
HOST = b"Host: localhost\r\n"
BODY = b"POST /dicom-web/studies HTTP/1.1\r\n" + HOST + b"Content-Type: application/dicom\r\n"
JSON = {"Content-Type": "application/dicom+json"}
KEPT = {"megabytes": 150, "threads": 120}  # of two processes, with what they rendered last
MUTANTS = int(os.environ.get("IMAGING_AI_TEST_MUTANTS", "40"))
TRANSFER_SYNTAXES = ("1.2.1", "1.2.1.99", "1.2.5", *(f"1.2.4.{end}" for end in (50, 80, 81, 90, 91, 201)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("hostile"), "[http]\nprocesses = 2\n") as server:
        server.start("web")
        server.start("describe")
        wait_until(lambda: answers(server), 60, what="the web server answers")
        yield server


def answers(server: Server) -> bool:
    try:
        return server.get("/health/live").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def place(server: Server) -> str:
    """The path of an instance of a series of three."""
    parts = [storing.instance(phantoms.to_bytes(ds)) for ds in storing.ct(3, "good")]
    stored = post(server, storing.multipart(parts), storing.content_type())
    return path_of(stored.json()["00081199"]["Value"][0]["00081190"]["Value"][0])


@pytest.fixture(scope="module")
def good(server: Server, place: str) -> Iterator[WellBehaved]:
    series = place.partition("/instances")[0]
    study = place.split("/")[3]
    with httpx.Client(base_url=f"http://127.0.0.1:{server.http_port}", timeout=30) as client:
        works = {
            "search": asks(client, f"{ROOT}/studies?StudyInstanceUID={study}", "application/dicom+json"),
            "metadata": asks(client, f"{series}/metadata", "application/dicom+json"),
            "frame": asks(client, f"{place}/frames/1"),
            "rendered": asks(client, f"{place}/rendered", "image/png"),
        }
        with WellBehaved(works, every=0.05) as one:
            yield one


@pytest.fixture(scope="module")
def watch(server: Server) -> Watch:
    return Watch(server, "web")


def path_of(url: str) -> str:
    return url[url.index(ROOT) :]


def post(server: Server, body: bytes, content_type: str, path: str = f"{ROOT}/studies") -> httpx.Response:
    url = f"http://127.0.0.1:{server.http_port}{path}"
    return httpx.post(url, content=body, headers={"Content-Type": content_type}, timeout=120)


def instances(server: Server) -> int:
    return int(server.rows("SELECT count(*) AS n FROM instance")[0].n)


# -- HTTP itself


def get(path: str, *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", *lines, "", ""]).encode("latin-1")


def refused(*statuses: int) -> Callable[[int], bool]:
    return lambda status: status in statuses


REQUESTS: dict[str, tuple[bytes, Callable[[int], bool]]] = {
    "no HTTP": (bytes(range(256)) * 8, refused(0, 400)),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00" + bytes(500), refused(0, 400)),
    "HTTP/0.9": (b"GET /dicom-web/studies\r\n", refused(0, 400)),
    "HTTP/1.0 without Host": (get("/dicom-web/studies", version="1.0"), refused(421)),
    "two hosts": (get("/dicom-web/studies", "Host: localhost", "Host: evil.example"), refused(400)),
    "a host of another name": (get("/dicom-web/studies", "Host: evil.example"), refused(421)),
    "a port that is none": (get("/dicom-web/studies", "Host: localhost:99999999"), refused(400)),
    "a host after the bracket": (get("/dicom-web/studies", "Host: [::1]evil.example"), refused(400)),
    "a host with a user": (get("/dicom-web/studies", "Host: localhost@evil.example"), refused(400)),
    "a host in Latin-1": (get("/dicom-web/studies", "Host: \xff\xfe"), refused(400)),
    "TRACE": (b"TRACE /dicom-web/studies HTTP/1.1\r\n" + HOST + b"\r\n", refused(405)),
    "CONNECT": (b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", refused(400, 404, 405)),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", refused(404)),
    "a method that is none": (b"FOO /dicom-web/studies HTTP/1.1\r\n" + HOST + b"\r\n", refused(405)),
    "an absolute URI of another host": (
        get("http://localhost/dicom-web/studies", "Host: evil.example"),
        refused(400, 421),
    ),
    "2,000 headers": (get("/dicom-web/studies", "Host: localhost", *["X: y"] * 2000), refused(431)),
    "a header of a megabyte": (get("/dicom-web/studies", "Host: localhost", "X: " + "y" * (1 << 20)), refused(0, 431)),
    "a folded header": (get("/dicom-web/studies", "Host: localhost", "Accept: a", " b"), refused(400)),
    "a URL of 100 kB": (get("/dicom-web/studies?PatientName=" + "a" * 100_000, "Host: localhost"), refused(414)),
    "10,000 keys": (
        get("/dicom-web/studies?" + "&".join(f"{n:08X}=1" for n in range(10_000)), "Host: localhost"),
        refused(400, 414),
    ),
    "a header after a line break": (
        get("/dicom-web/studies?limit=1%0d%0aSet-Cookie:%20a=b", "Host: localhost"),
        refused(400),
    ),
    "two lengths": (BODY + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", refused(400)),
    "a length below zero": (BODY + b"Content-Length: -5\r\n\r\n", refused(400)),
    "a length of 23 digits": (BODY + b"Content-Length: " + b"9" * 23 + b"\r\n\r\n", refused(400)),
    "a length and chunks": (
        BODY + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
        refused(400),
    ),
    "another transfer coding": (BODY + b"Transfer-Encoding: x\r\n\r\n", refused(400, 501)),
    "chunks of no length": (BODY + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nxx\r\n0\r\n\r\n", refused(400)),
    "a chunk of 2^72": (BODY + b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 18 + b"\r\nxx\r\n", refused(400)),
    "10,000 trailers": (
        BODY + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
        refused(400),
    ),
    "bytes beyond ASCII everywhere": (
        get("/dicom-web/studies", "Host: localhost", "Accept: \xe9/\xff", "Range: \xff", "If-None-Match: \xff"),
        refused(406),
    ),
    "a WebSocket of nobody": (get(f"{ROOT}/ws/subscribers/A", "Host: localhost", "Upgrade: websocket"), refused(405)),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_no_request_is_refused(server: Server, name: str) -> None:
    data, fits = REQUESTS[name]
    answer = raw(server, data)
    assert fits(status_of(answer)), answer[:300]
    assert b"Set-Cookie" not in answer
    assert b"set-cookie" not in answer


def test_fifty_requests_at_once_on_one_connection_are_answered_in_order(server: Server, place: str) -> None:
    requests = [get(f"{place}/frames/{n % 3}", "Host: localhost") for n in range(50)]
    with connected(server) as sock:
        sock.settimeout(30)
        sock.sendall(b"".join(requests) + get("/", "Host: localhost", "Connection: close"))
        answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    said = [int(piece[:3]) for piece in answer.split(b"HTTP/1.1 ")[1:]]
    assert said == [[404, 200, 404][n % 3] for n in range(50)] + [404]


# -- bodies


def test_bodies_that_stall_break_off_or_never_end_leave_nothing(server: Server, watch: Watch) -> None:
    before = instances(server)
    (data,) = (phantoms.to_bytes(ds) for ds in storing.ct(1, "never whole"))
    whole = storing.multipart([storing.instance(data)])
    multipart = BODY.replace(b"application/dicom", storing.content_type().encode())
    chunked = multipart + b"Transfer-Encoding: chunked\r\n\r\n"
    ways = [
        multipart + b"Content-Length: 1000000\r\n\r\n" + whole,
        chunked + b"%x\r\n" % len(whole) + whole + b"\r\n",
        chunked + b"%x\r\n" % (len(whole) + 1) + whole,
        BODY + b"Content-Length: %d\r\n\r\n" % (len(data) + 1) + data,
        BODY + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n",
        BODY.replace(b"studies", b"workitems") + b"Content-Length: 1000\r\n\r\n[",
        BODY[:40],
    ]
    held = watch.total().descriptors
    with many([socket.create_connection(("127.0.0.1", server.http_port)) for _ in range(20 * len(ways))]) as socks:
        for number, sock in enumerate(socks):
            sock.sendall(ways[number % len(ways)])
        time.sleep(2.0)
    wait_until(lambda: watch.total().descriptors < held + 40, 60, what="connections are given up")
    assert instances(server) == before


def test_a_body_without_end_is_taken_in_flat_memory(server: Server, watch: Watch) -> None:
    before, stored = watch.total().own, instances(server)
    piece = b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n"
    multipart = BODY.replace(b"application/dicom", storing.content_type().encode())
    most = 0.0
    with connected(server) as sock:
        sock.sendall(multipart + b"Transfer-Encoding: chunked\r\n\r\n")
        head = storing.multipart([storing.instance(bytes(128) + b"DICM")]).partition(b"\r\n--")[0]
        sock.sendall(b"%x\r\n" % len(head) + head + b"\r\n")
        for _ in range(150):
            sock.sendall(piece)
            most = max(most, watch.total().own)
    assert most < before + 80
    assert instances(server) == stored


@pytest.mark.parametrize(
    ("parts", "statuses"),
    [
        ([], {400}),
        ([({"Content-Type": "application/dicom"}, b"")] * 10_000, {409}),
        ([({"Content-Type": "application/dicom+json"}, b"[{}]")] * 10_000, {409}),
        ([({"Content-Type": "application/dicom"}, b"")] * 20_001, {413}),
        ([({"X": "y" * 100_000}, b"")], {400}),
        ([({"Content-Type": storing.content_type()}, storing.multipart([({}, b"")]))], {400, 409}),
    ],
    ids=["none", "10,000", "10,000 of metadata", "20,001", "a header of 100 kB", "nested"],
)
def test_parts_without_measure(server: Server, parts: list[storing.Part], statuses: set[int]) -> None:
    before = instances(server)
    of_type = "application/dicom+json" if "json" in str(parts[:1]) else storing.DICOM
    assert post(server, storing.multipart(parts), storing.content_type(of_type)).status_code in statuses
    assert instances(server) == before


# -- instances


def test_what_is_stored_may_be_damaged_in_any_way(server: Server, real_data: Path) -> None:
    """Whoever reads it gets it as it is, or is told that it cannot be given otherwise."""
    files = load(real_data / "syntaxes", 300_000)
    accepts = [f"application/dicom; transfer-syntax=1.2.840.10008.{end}" for end in TRANSFER_SYNTAXES]
    asked = [("", one) for one in accepts] + [
        ("/metadata", "application/dicom+json"),
        ("/metadata", 'multipart/related; type="application/dicom+xml"'),
        ("/frames/1", "*/*"),
        ("/frames/1", 'multipart/related; type="image/jp2"; transfer-syntax=1.2.840.10008.1.2.4.90'),
        ("/frames/2,1", "application/octet-stream; transfer-syntax=*"),
        ("/rendered", "image/jpeg"),
        ("/rendered", "image/gif"),
        ("/thumbnail", "image/png"),
        ("/bulkdata", "*/*"),
        ("/pixeldata", 'multipart/related; type="image/*"; transfer-syntax=*'),
        ("/bulkdata/7FE00010", "application/octet-stream"),
    ]
    first, stored = instances(server), 0
    with httpx.Client(base_url=f"http://127.0.0.1:{server.http_port}", timeout=120) as client:
        for seed in range(MUTANTS):
            name, data = mutant(files, seed)
            answer = client.post(f"{ROOT}/studies", content=data, headers={"Content-Type": "application/dicom"})
            assert answer.status_code in (200, 409), name
            if answer.status_code == 409:
                continue
            stored += 1
            path = path_of(answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0])
            for end, accept in asked:
                said = client.get(path + end, headers={"Accept": accept}).status_code
                assert said in (200, 404, 406, 413), (name, end, accept, said)
    assert instances(server) == first + stored
    assert stored > MUTANTS / 5


# -- readers


def test_many_slow_readers_of_a_large_study_take_no_memory(server: Server, watch: Watch) -> None:
    """And what is cut off by them stops being read."""
    frames = np.zeros((160, 512, 512), np.float32)
    ds = phantoms.enhanced(frames, name="large")
    assert post(server, phantoms.to_bytes(ds), storing.DICOM).status_code == 200
    before, held = watch.total().own, watch.total().descriptors
    request = get(f"{ROOT}/studies/{ds.StudyInstanceUID}", "Host: localhost", "Accept: */*; transfer-syntax=*")
    opened = [socket.create_connection(("127.0.0.1", server.http_port)) for _ in range(24)]
    with many(opened) as socks:
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(request)
        for _ in range(4):
            time.sleep(0.5)
            assert all(sock.recv(1) for sock in socks)
        most = watch.total().own
    assert most < before + 24 * 6
    wait_until(lambda: watch.total().descriptors < held + 12, 60, what="their files are closed")


# -- WebSockets


def frame(data: bytes, opcode: int = 1) -> bytes:
    """A frame of a client, masked with zeros (RFC 6455 5.2)."""
    length = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack(">BQ", 0xFF, len(data))
    return bytes([0x80 | opcode]) + length + bytes(4) + data


def test_two_hundred_websockets_that_never_read_or_talk_nonsense(server: Server, watch: Watch) -> None:
    nonsense = [
        frame(b"x" * 70_000),
        frame(b"[" * 4_000),
        frame(b"\xff\xfe"),
        frame(b'{"00000120":{"vr":"US","Value":[1e99]}}'),
        frame(b"\0" * 100, opcode=2),
        frame(b"", opcode=9) * 1_000,
        frame(b"\xff" * 50, opcode=8),
        b"\xff" * 1_000,
        struct.pack(">BBQ", 0x81, 0xFF, 1 << 62) + bytes(100),
    ]
    url = f"http://127.0.0.1:{server.http_port}{ROOT}"
    held = watch.total().descriptors
    with httpx.Client(timeout=60) as client:
        for number in range(200):
            client.post(f"{url}/workitems/1.2.840.10008.5.1.4.34.5/subscribers/SILENT{number}").raise_for_status()
        opened = [websocket(server, f"{ROOT}/ws/subscribers/SILENT{number}") for number in range(200)]
        with many(opened) as socks:
            for number in range(40):
                body = json.dumps(new_item(ProcedureStepLabel=f"{number} " + "x" * 60)).encode()
                assert client.post(f"{url}/workitems", content=body, headers=JSON).status_code == 201
            for number, sock in enumerate(socks[::2]):
                sock.sendall(nonsense[number % len(nonsense)])
            time.sleep(2.0)
        for number in range(200):
            client.delete(f"{url}/workitems/1.2.840.10008.5.1.4.34.5/subscribers/SILENT{number}").raise_for_status()
    wait_until(lambda: watch.total().descriptors < held + 40, 60, what="connections are given up")


# -- searches


def test_what_nobody_would_ask_is_answered_and_asking_it_again_takes_no_memory(
    server: Server, place: str, watch: Watch
) -> None:
    def storm(seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(base_url=f"http://127.0.0.1:{server.http_port}", timeout=60) as client:
            for _ in range(300):
                answer = client.get(rng.choice((place, ROOT + "/studies", ROOT + "/workitems")) + any_query(rng))
                assert answer.status_code < 500, answer.url

    storm(1)
    before = watch.total().own
    storm(2)
    wait_until(lambda: watch.total().own < before + 20, 60, what="memory comes back")


def any_query(rng: random.Random) -> str:
    names = ("PatientName", "StudyDate", "limit", "offset", "includefield", "fuzzymatching", "00100020", "window", "x")
    values = (
        "",
        "*",
        "%00",
        "%27;--",
        "-1",
        "9" * 30,
        "*" * 999,
        "NaN",
        "20250231-",
        "all",
        "maybe",
        "%ff",
        "1,2,linear",
    )
    picked: list[Any] = [(rng.choice(names), rng.choice(values)) for _ in range(rng.randint(1, 4))]
    return (
        rng.choice(("", "/rendered", "/frames/0", "/metadata", "/%2e%2e"))
        + "?"
        + "&".join("=".join(one) for one in picked)
    )
