"""STOW-RS to services that want credentials, that fail with a reason, and that say 200 and keep nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from imaging_ai.errors import DeliveryRefused
from imaging_ai.send.answers import Answer, Verdict
from imaging_ai.send.destinations import Destination
from imaging_ai.send.folder import send_folder
from imaging_ai.send.peer import connect, echo
from services.orthanc import OrthancFactory
from services.peers import SEG, read, small_object, stored

UID = "1.2.3.1"


class Service:
    """An HTTP server that answers every POST and GET as told, and remembers the requests."""

    def __init__(self) -> None:
        self.store: tuple[int, Any] = (200, {})
        self.search: tuple[int, Any] = (200, [])
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                service.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(*service.store)

            def do_GET(self) -> None:
                self._answer(*service.search)

            def _answer(self, status: int, body: Any) -> None:
                service.headers.append({key.lower(): value for key, value in self.headers.items()})
                data = json.dumps(body).encode() if not isinstance(body, bytes) else body
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/dicom-web"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


def web(url: str, **settings: object) -> Destination:
    return Destination.parse({"name": "web", "url": url, "timeout": 10, **settings}, "test")


def send(destination: Destination, folder: Path) -> Answer:
    instance = stored(small_object(folder, SEG, UID))
    with connect(destination, [instance]) as peer:
        return peer.store(instance, read(instance))


def sequence(tag: str, reason_tag: str = "", reason: int = 0, uid: str = UID) -> dict[str, Any]:
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if reason_tag:
        item[reason_tag] = {"vr": "US", "Value": [reason]}
    return {tag: {"vr": "SQ", "Value": [item]}}


@pytest.mark.parametrize(
    ("status", "body", "verdict", "words"),
    [
        (200, sequence("00081199"), Verdict.STORED, ""),
        (202, sequence("00081199", "00081196", 0xB000), Verdict.STORED, "0xB000 coercion"),
        (200, [sequence("00081199")], Verdict.STORED, ""),
        (200, {}, Verdict.STORED, "without a word of the instance"),
        (200, b"<NativeDicomModel/>", Verdict.STORED, "without a word of the instance"),
        (202, sequence("00081198", "00081197", 0xA700), Verdict.PASSING, "0xA700 refused: out of resources"),
        (409, sequence("00081198", "00081197", 0xA900), Verdict.PERMANENT, "0xA900 data set does not match"),
        (409, sequence("00081198", "00081197", 0xC122), Verdict.PERMANENT, "transfer syntax not supported"),
        (409, sequence("00081198"), Verdict.DOUBTFUL, "0x0110"),
        (409, {}, Verdict.DOUBTFUL, "HTTP 409"),
        (503, b"busy", Verdict.PASSING, "HTTP 503"),
        (404, b"", Verdict.PERMANENT, "url must be the DICOMweb root"),
    ],
)
def test_what_the_service_says_of_the_instance_counts(
    service: Service, tmp_path: Path, status: int, body: Any, verdict: Verdict, words: str
) -> None:
    service.store = (status, body)

    answer = send(web(service.url), tmp_path)

    assert answer.verdict is verdict
    assert words in answer.reason


def test_the_request_says_its_length_and_carries_the_file(service: Service, tmp_path: Path) -> None:
    send(web(service.url), tmp_path)

    (headers,), (body,) = service.headers, service.bodies
    assert "transfer-encoding" not in headers
    assert headers["content-type"].startswith('multipart/related; type="application/dicom"; boundary=')
    assert (tmp_path / f"{UID}.dcm").read_bytes() in body


def test_a_service_that_says_200_and_keeps_nothing_is_found_out(service: Service, tmp_path: Path) -> None:
    service.store = (200, sequence("00081199"))
    path = small_object(tmp_path, SEG, UID)

    report = send_folder(tmp_path, web(service.url))

    assert report.failed == [(path, "it says success, but a query does not show it")]


def test_a_service_without_search_cannot_confirm(service: Service, tmp_path: Path) -> None:
    service.store, service.search = (200, sequence("00081199")), (501, {})
    small_object(tmp_path, SEG, UID)

    report = send_folder(tmp_path, web(service.url))

    assert (report.sent, report.confirmed) == (1, 0)


def test_a_token_goes_with_every_request(service: Service, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc\n")

    send(web(service.url, token_file=str(token)), tmp_path)

    assert [headers["authorization"] for headers in service.headers] == ["Bearer abc"]


@pytest.mark.service
def test_orthanc_wants_its_password(orthanc_factory: OrthancFactory, tmp_path: Path) -> None:
    orthanc = orthanc_factory(AuthenticationEnabled=True, RegisteredUsers={"ai": "right"}, auth=("ai", "right"))
    url = orthanc.web_url
    (tmp_path / "password").write_text("right")

    anonymous = send(web(url), tmp_path)
    known = send(web(url, username="ai", password_file=str(tmp_path / "password")), tmp_path)

    assert anonymous.verdict is Verdict.PERMANENT
    assert "set username and password_file" in anonymous.reason
    assert known.verdict is Verdict.STORED
    with pytest.raises(DeliveryRefused, match="HTTP 401"):
        echo(web(url))
