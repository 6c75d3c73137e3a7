"""Addresses that others write are never connected to: a socket listens at each of them, and must hear nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from sqlmodel import SQLModel

import ledgers
import storing
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import StoredInstance
from imaging_ai.db.engine import Database
from imaging_ai.errors import DeliveryRefused
from imaging_ai.queue.workitem_elements import elements, said
from imaging_ai.send import stow
from imaging_ai.send.answers import Verdict
from imaging_ai.send.destinations import Destination, WebDestination
from imaging_ai.serve.dicomweb.native import to_xml
from imaging_ai.serve.dicomweb.parts import Parts
from services.worklist import make_parts, new_item, open_worklist
from storing import ct, post

JSON, XML = "application/dicom+json", "application/dicom+xml"


@dataclass(frozen=True)
class Elsewhere:
    """An address that nobody configured."""

    listener: socket.socket

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def url(self, path: str) -> str:
        return f"http://{self.address}/{path}"

    def heard(self) -> bool:
        """Whether anybody connected, even if only for a moment."""
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield Elsewhere(listener)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    database = Database(f"sqlite:///{tmp_path / 'index.db'}")
    SQLModel.metadata.create_all(database.engine)
    made = storing.make_parts(database, tmp_path)
    yield made
    made.archive.close()
    database.dispose()


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient[Litestar]]:
    with storing.web(parts) as client:
        yield client


def metadata_pointing(elsewhere: Elsewhere) -> dict[str, Any]:
    """The metadata of an image whose bulk data is said to be elsewhere, at every depth."""
    (ds,) = ct()
    found = ds.to_json_dict(
        bulk_data_threshold=1, bulk_data_element_handler=lambda one: elsewhere.url(f"bulk/{one.tag:08X}")
    )
    found["00420011"] = {"vr": "OB", "BulkDataURI": elsewhere.url("document")}
    found["54000100"] = {"vr": "SQ", "Value": [{"54001010": {"vr": "OW", "BulkDataURI": elsewhere.url("wave")}}]}
    found["00081190"] = {"vr": "UR", "Value": [elsewhere.url("study")]}
    return {tag: value for tag, value in found.items() if not tag.startswith("0002")}


def test_the_listener_would_hear(elsewhere: Elsewhere) -> None:
    assert not elsewhere.heard()
    socket.create_connection(elsewhere.listener.getsockname()).close()
    assert elsewhere.heard()


@pytest.mark.parametrize("of_type", [JSON, XML])
def test_bulk_data_by_uri_is_taken_from_the_request_only(
    client: TestClient[Litestar], elsewhere: Elsewhere, of_type: str
) -> None:
    pointing = metadata_pointing(elsewhere)
    body = json.dumps([pointing]).encode() if of_type == JSON else to_xml(pointing)
    answer = post(client, [({"Content-Type": of_type}, body)], of_type=of_type)
    assert answer.status_code == 409, "it is missing, and nobody goes to fetch it"
    assert not elsewhere.heard()


@pytest.mark.parametrize(
    "document",
    [
        '<!DOCTYPE a SYSTEM "{url}"><NativeDicomModel/>',
        '<!DOCTYPE a [<!ENTITY e SYSTEM "{url}">]><NativeDicomModel>&e;</NativeDicomModel>',
        '<!DOCTYPE a [<!ENTITY % e SYSTEM "{url}">%e;]><NativeDicomModel/>',
        '<?xml-stylesheet href="{url}"?><NativeDicomModel/>',
        '<NativeDicomModel xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="{url}"/></NativeDicomModel>',
        '<NativeDicomModel xmlns:s="http://www.w3.org/2001/XMLSchema-instance" s:schemaLocation="x {url}"/>',
    ],
)
def test_xml_brings_nothing_from_elsewhere(client: TestClient[Litestar], elsewhere: Elsewhere, document: str) -> None:
    body = document.replace("{url}", elsewhere.url("entity")).encode()
    answer = post(client, [({"Content-Type": XML}, body)], of_type=XML)
    assert 400 <= answer.status_code < 500
    assert not elsewhere.heard()


def test_a_work_item_that_says_where_its_inputs_are_is_believed_only_about_what_is_here(
    tmp_path: Path, elsewhere: Elsewhere
) -> None:
    url = elsewhere.url("studies/1.2.3")
    retrieval = {
        "RetrieveURL": url,
        "RetrieveAETitle": "ELSEWHERE",
        "DICOMRetrievalSequence": [elements(RetrieveAETitle="ELSEWHERE")],
        "WADORetrievalSequence": [elements(RetrieveURI=url)],
        "WADORSRetrievalSequence": [elements(RetrieveURL=url)],
    }
    inputs = elements(TypeOfInstances="DICOM", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4", **retrieval)
    item = new_item(InputInformationSequence=[inputs])
    database = ledgers.open_database(ledgers.sqlite_url(tmp_path))
    with open_worklist(make_parts(database, tmp_path)) as worklist:
        answer = worklist.send("POST", "/workitems?2.25.7", item)
        assert answer.status_code == 201, answer.text
        assert said(worklist.get("2.25.7"), "ProcedureStepState") == "SCHEDULED"
    database.dispose()
    assert not elsewhere.heard()


# -- destinations


@pytest.fixture
def redirecting(elsewhere: Elsewhere) -> Iterator[str]:
    """A DICOMweb service that sends everybody elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            self.send_response(307)
            self.send_header("Location", elsewhere.url("dicom-web/studies"))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/dicom-web"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_destination_that_sends_us_elsewhere_is_not_followed(redirecting: str, elsewhere: Elsewhere) -> None:
    destination = Destination.parse({"name": "web", "url": redirecting}, "test")
    assert isinstance(destination, WebDestination)
    instance = StoredInstance("1.2.3.1", "1.2", "1.2.840.10008.1.2.1", "1.2.3", "1.2.3.4", None, BlobRef("x", 0, 4))
    with stow.connect(destination) as service:
        answer = service.store(instance, b"DICM")
        assert service.holds([instance]) is None
    assert (answer.verdict, "redirection" in answer.reason) == (Verdict.PERMANENT, True)
    with pytest.raises(DeliveryRefused, match="redirection"):
        stow.echo(destination)
    assert not elsewhere.heard()
