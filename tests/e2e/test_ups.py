"""The worklist of the whole server: a pushed study seen over a WebSocket, and a model run because a work item asks.

On PostgreSQL with Redis two web processes answer, so a subscription, a change and a connection are rarely in the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pydicom
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from e2e.server import Server, push, renamed
from imaging_ai.core.identity import new_uid
from imaging_ai.queue.workitem_elements import Elements, elements, first, items, said
from phantoms import ball, series, threshold_bundle, write
from services import wait_until
from services.worklist import JSON, model_item

pytestmark = pytest.mark.service

GLOBAL = "1.2.840.10008.5.1.4.34.5"
NUMBER = "00771001"
WORKITEM_CODE = "00404018"

SETTINGS = """
[[rules]]
name = "bright things"
when = { Modality = "CT", instances = ">= 4" }
run = ["threshold"]

[routing]
quiet_seconds = 0.5
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, back_ends: dict[str, str]) -> Iterator[Server]:
    processes = {"IMAGING_AI_HTTP_PROCESSES": "2"} if back_ends else {}
    server = Server(tmp_path_factory.mktemp("ups"), SETTINGS, {**back_ends, **processes})
    threshold_bundle(server.models / "threshold")
    server.serve()
    yield server
    server.stop()


def ask(server: Server, method: str, path: str, body: object = None) -> httpx.Response:
    """Send a request on a connection of its own, so that any web process may get it."""
    content = None if body is None else json.dumps(body).encode()
    url = f"http://127.0.0.1:{server.http_port}/dicom-web{path}"
    return httpx.request(method, url, content=content, headers=JSON, timeout=30)


def item(server: Server, uid: str) -> Elements:
    (dataset,) = ask(server, "GET", f"/workitems/{uid}").json()
    return dict(dataset)


def socket_of(answer: httpx.Response, query: str = "") -> ClientConnection:
    """Open the connection that a subscription told of."""
    return connect(answer.headers["content-location"] + query)


class Heard:
    """The reports that a subscriber has had, by event number, over any number of connections."""

    def __init__(self) -> None:
        self.reports: dict[int, Elements] = {}

    def take(self, socket: ClientConnection) -> Elements:
        report: dict[str, Any] = json.loads(socket.recv(timeout=60))
        number = report[NUMBER]["Value"][0]
        assert number in self.reports or number > max(self.reports, default=0)
        assert self.reports.setdefault(number, report) == report
        return report

    def until(self, socket: ClientConnection, uid: str, state: str) -> None:
        while not (said(report := self.take(socket), "ProcedureStepState") == state and about(report) == uid):
            continue

    def states(self, uid: str) -> list[str]:
        told = [report for _, report in sorted(self.reports.items()) if about(report) == uid]
        return [said(report, "ProcedureStepState") for report in told if first(report, "EventTypeID") == 1]


def about(report: Elements) -> str:
    return said(report, "AffectedSOPInstanceUID")


def phantom(folder: Path) -> list[Path]:
    return list(renamed(write(series(ball((12, 48, 40))), folder / "made"), folder / "fresh"))


def study_of(files: list[Path]) -> pydicom.Dataset:
    return pydicom.dcmread(files[0], stop_before_pixels=True)


@pytest.mark.parametrize("answers", [False, True], ids=["silent", "confirming"])
def test_a_pushed_study_is_followed_to_its_end_across_a_broken_connection(
    server: Server, tmp_path: Path, answers: bool
) -> None:
    ae_title = "CONFIRMS" if answers else "SILENT"
    subscribed = ask(server, "POST", f"/workitems/{GLOBAL}/subscribers/{ae_title}")
    assert subscribed.status_code == 201, subscribed.text
    files = phantom(tmp_path)
    study = str(study_of(files).StudyInstanceUID)
    heard = Heard()
    with socket_of(subscribed) as socket:
        push(server.dicom_port, *files)
        scheduled = heard.take(socket)
        while said(scheduled, "ProcedureStepState") != "SCHEDULED":
            scheduled = heard.take(socket)
        if answers:
            socket.send(json.dumps(elements(MessageIDBeingRespondedTo=first(scheduled, "MessageID"))))
        socket.socket.shutdown(2)  # as when a cable is pulled: no goodbye
    (job,) = server.wait_jobs(1, study)
    with socket_of(subscribed) as again:
        heard.until(again, job.job_uid, "COMPLETED")
    assert heard.states(job.job_uid) == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    kinds = [first(report, "EventTypeID") for report in heard.reports.values() if about(report) == job.job_uid]
    assert 3 in kinds  # how far it was


def test_what_a_job_read_and_made_can_be_retrieved_from_where_its_work_item_says(
    server: Server, tmp_path: Path
) -> None:
    files = phantom(tmp_path)
    push(server.dicom_port, *files)
    (job,) = server.wait_jobs(1, str(study_of(files).StudyInstanceUID))
    dataset = item(server, job.job_uid)
    assert said(dataset, "PatientID") == study_of(files).PatientID
    (inputs,) = items(dataset, "InputInformationSequence")
    (performed,) = items(dataset, "UnifiedProcedureStepPerformedProcedureSequence")
    outputs = items(performed, "OutputInformationSequence")
    assert len(items(inputs, "ReferencedSOPSequence")) == len(files)
    assert len(outputs) == 2
    for each in (inputs, *outputs):
        (retrieval,) = items(each, "WADORSRetrievalSequence")
        metadata = httpx.get(f"{said(retrieval, 'RetrieveURL')}/metadata", timeout=30)
        assert metadata.status_code == 200
        assert len(metadata.json()) == len(items(each, "ReferencedSOPSequence"))


def test_a_work_item_runs_a_model_on_a_study_that_comes_later(server: Server, tmp_path: Path) -> None:
    files = phantom(tmp_path)
    known = study_of(files)
    uid = new_uid()
    body = model_item("threshold", str(known.StudyInstanceUID), str(known.SeriesInstanceUID))
    assert ask(server, "POST", f"/workitems?{uid}", body).status_code == 201
    subscribed = ask(server, "POST", f"/workitems/{uid}/subscribers/ORDERER")
    heard = Heard()
    with socket_of(subscribed) as socket:
        push(server.dicom_port, *files)
        heard.until(socket, uid, "COMPLETED")
    assert heard.states(uid) == ["SCHEDULED", "SCHEDULED", "IN PROGRESS", "COMPLETED"]
    readiness = [said(one, "InputReadinessState") for one in heard.reports.values() if first(one, "EventTypeID") == 1]
    assert readiness[:2] == ["UNAVAILABLE", "READY"]
    (performed,) = items(item(server, uid), "UnifiedProcedureStepPerformedProcedureSequence")
    assert len(items(performed, "OutputInformationSequence")) == 2
    wait_until(lambda: len(server.jobs(study=str(known.StudyInstanceUID))) == 2)  # the rule ran it as well


def test_a_request_to_cancel_reaches_the_performer_of_a_plain_work_item(server: Server) -> None:
    uid, transaction = new_uid(), new_uid()
    body = model_item("threshold", "1.2", "1.2.1")
    body.pop(WORKITEM_CODE)
    assert ask(server, "POST", f"/workitems?{uid}", body).status_code == 201
    subscribed = ask(server, "POST", f"/workitems/{uid}/subscribers/PERFORMER")
    heard = Heard()
    with socket_of(subscribed) as socket:
        claim = elements(ProcedureStepState="IN PROGRESS", TransactionUID=transaction)
        assert ask(server, "PUT", f"/workitems/{uid}/state", claim).status_code == 200
        heard.until(socket, uid, "IN PROGRESS")
        wanted = elements(ReasonForCancellation="changed our minds", RequestingAE="DESK")
        assert ask(server, "POST", f"/workitems/{uid}/cancelrequest", wanted).status_code == 202
        report = heard.take(socket)
        assert (first(report, "EventTypeID"), said(report, "RequestingAE")) == (2, "DESK")
        stop = elements(ProcedureStepState="CANCELED", TransactionUID=transaction)
        assert ask(server, "PUT", f"/workitems/{uid}/state", stop).status_code == 200
        heard.until(socket, uid, "CANCELED")


def test_the_newest_connection_takes_over_whichever_process_holds_it(server: Server) -> None:
    subscribed = ask(server, "POST", f"/workitems/{GLOBAL}/subscribers/TWICE")
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket_of(subscribed)) for _ in range(4)]
        for older in sockets[:-1]:
            wait_until(lambda older=older: has_ended(older))
            assert older.close_code == 4000
        assert not has_ended(sockets[-1])


def has_ended(socket: ClientConnection) -> bool:
    try:
        socket.recv(timeout=0.05)
    except ConnectionClosed:
        return True
    except TimeoutError:
        return False
    return False


def test_a_restart_of_the_web_server_is_told_and_loses_nothing(server: Server) -> None:
    subscribed = ask(server, "POST", f"/workitems/{GLOBAL}/subscribers/STAYS")
    uid = new_uid()
    body = model_item("threshold", "1.2", "1.2.1")
    body.pop(WORKITEM_CODE)
    with socket_of(subscribed) as socket:
        assert ask(server, "POST", f"/workitems?{uid}", body).status_code == 201
        (web,) = (one for one in psutil.Process(server.processes["serve"].pid).children() if "web" in one.cmdline())
        for process in (*web.children(recursive=True), web):
            process.kill()
        wait_until(lambda: has_ended(socket))
    server.wait_ready()
    heard = Heard()
    with socket_of(subscribed) as socket:
        heard.until(socket, uid, "SCHEDULED")
        while first(report := heard.take(socket), "EventTypeID") != 4:
            continue
    assert said(report, "SCPStatus") == "RESTARTED"
    assert about(report) == GLOBAL
