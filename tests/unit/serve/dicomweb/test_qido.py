"""QIDO-RS over HTTP: resources, parameters, warnings, media types, and what makes no sense."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.testing import TestClient
from pydicom import Dataset
from sqlalchemy import select
from sqlmodel import SQLModel

import phantoms
import storing
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AuditEventRow
from imaging_ai.serve.dicomweb.native import from_xml
from imaging_ai.serve.dicomweb.parts import Limits, Parts
from imaging_ai.serve.dicomweb.qido import qido_handlers
from imaging_ai.serve.problem import respond
from shelf import keep

AUDIT = AuditEventRow.metadata.tables["audit_event"]
STUDY = "0020000D"
JSON, XML = "application/dicom+json", 'multipart/related; type="application/dicom+xml"'


@dataclass(frozen=True)
class Server:
    """An archive of some studies, and searches of it."""

    client: TestClient[Litestar]
    parts: Parts

    def keep(self, ds: Dataset) -> None:
        keep(self.parts.archive, phantoms.to_bytes(ds))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(f"/dicom-web{path}", **options)


@contextmanager
def serve(folder: Path, limits: Limits | None = None) -> Iterator[Server]:
    """A server with nothing on it yet."""
    database = Database(f"sqlite:///{folder / 'index.db'}")
    SQLModel.metadata.create_all(database.engine)
    parts = replace(storing.make_parts(database, folder), limits=limits or Limits())
    app = Litestar(
        [Router("/dicom-web", route_handlers=qido_handlers(parts))],
        state=State({"public_url": ""}),
        exception_handlers={Exception: respond},
        openapi_config=None,
    )
    with TestClient(app, base_url="http://server.local:8080", raise_server_exceptions=False) as client:
        yield Server(client, parts)
    parts.accesses.flush()
    parts.archive.close()
    database.dispose()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("qido")) as opened:
        for number in range(6):
            datasets = phantoms.series(np.zeros((2, 4, 4), np.float32), name=f"qido {number}")
            for ds in datasets:
                ds.StudyDate, ds.PatientID, ds.StudyID = f"2024010{number + 1}", f"Q{number // 3}", str(number)
                ds.PatientName = f"Quick^{'abcdef'[number]}"
                opened.keep(ds)
        yield opened


def found(server: Server, path: str, **parameters: Any) -> list[dict[str, Any]]:
    response = server.get(path, params=parameters)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == JSON
    matches: list[dict[str, Any]] = response.json()
    return matches


def test_studies_come_with_addresses_that_work(server: Server) -> None:
    matches = found(server, "/studies", limit=2)
    assert [match["00200010"]["Value"] for match in matches] == [["5"], ["4"]]
    (url,) = matches[0]["00081190"]["Value"]
    assert url.startswith("http://") and url.endswith(f"/dicom-web/studies/{matches[0][STUDY]['Value'][0]}")


def test_every_resource_of_the_standard_answers(server: Server) -> None:
    study = found(server, "/studies", limit=1)[0][STUDY]["Value"][0]
    (series,) = found(server, f"/studies/{study}/series")
    assert "00100010" not in series and series["00201209"]["Value"] == [2]
    uid = series["0020000E"]["Value"][0]
    assert len(found(server, f"/studies/{study}/instances")) == 2
    assert len(found(server, f"/studies/{study}/series/{uid}/instances")) == 2
    assert found(server, "/series", limit=1)[0][STUDY]["Value"] == [study]
    (instance, *_) = found(server, "/instances", limit=1)
    assert {STUDY, "0020000E", "00080060", "00100010", "00201206", "00201209", "00080018"} <= set(instance)
    assert [match["00100020"]["Value"] for match in found(server, "/patients")] == [["Q0"], ["Q1"]]


def test_what_is_asked_for_below_a_path_stays_below_it(server: Server) -> None:
    one, other = (match[STUDY]["Value"][0] for match in found(server, "/studies", limit=2))
    assert found(server, f"/studies/{one}/series", StudyInstanceUID=other) == []
    assert len(found(server, f"/studies/{one}/series", StudyInstanceUID=f"{one},{other}")) == 1
    assert found(server, "/studies/1.2.3/series") == []


def test_more_than_a_page_is_told_in_a_warning(server: Server) -> None:
    response = server.get("/studies", params={"limit": 4})
    assert response.headers["warning"] == '299 imaging-ai "There are 2 additional results that can be requested"'
    assert response.headers["x-total-count"] == "6"
    response = server.get("/studies", params={"limit": 4, "offset": 4})
    assert "warning" not in response.headers and len(response.json()) == 2


def test_keys_that_cannot_count_are_told_in_a_warning(server: Server) -> None:
    response = server.get("/studies", params={"KVP": "120", "limit": 1})
    assert response.headers["warning"].endswith(
        "There are 5 additional results that can be requested. "
        'These keys are not of the level of the search and were not matched: KVP"'
    )


def test_the_limit_of_a_page_holds(tmp_path: Path) -> None:
    with serve(tmp_path, Limits(results=1)) as small:
        for number in range(2):
            small.keep(phantoms.series(np.zeros((1, 4, 4), np.float32), name=f"small {number}")[0])
        response = small.get("/studies", params={"limit": 1_000_000})
    assert len(response.json()) == 1 and "There are 1 additional results" in response.headers["warning"]


def test_a_search_that_looks_into_too_much_is_413_and_says_what_to_do(tmp_path: Path) -> None:
    with serve(tmp_path, Limits(examined=1)) as small:
        for number in range(2):
            small.keep(phantoms.series(np.zeros((1, 4, 4), np.float32), name=f"broad {number}")[0])
        response = small.get("/instances", params={"KVP": "1"})
    assert response.status_code == 413 and "narrow the search by StudyDate" in response.json()["detail"]


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "text/html, */*;q=0.1"])
def test_json_comes_unless_xml_is_wanted(server: Server, accept: str | None) -> None:
    response = server.get("/studies", headers={"Accept": accept} if accept else {})
    assert response.headers["content-type"] == ("application/json" if accept == "application/json" else JSON)


def test_xml_comes_as_a_part_for_each_match(server: Server) -> None:
    response = server.get("/studies", params={"limit": 2}, headers={"Accept": XML})
    assert "There are 4 additional" in response.headers["warning"]
    boundary = response.headers["content-type"].partition('boundary="')[2].rstrip('"')
    parts = response.content.split(f"--{boundary}".encode())[1:-1]
    matches = [from_xml(part.partition(b"\r\n\r\n")[2].strip()) for part in parts]
    assert [match["00100020"]["Value"] for match in matches] == [["Q1"], ["Q1"]]


def test_what_cannot_be_given_is_406(server: Server) -> None:
    response = server.get("/studies", headers={"Accept": "image/tiff"})
    assert response.status_code == 406 and JSON in response.json()["detail"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("StudyDate=abc", "StudyDate"),
        ("00080020=20241332", "00080020"),
        ("StudyTime=2500", "StudyTime"),
        ("StudyInstanceUID=1.2.x", "StudyInstanceUID"),
        ("limit=-1", "limit"),
        ("limit=1e3", "limit"),
        ("limit=", "limit"),
        ("limit=" + "9" * 19, "limit"),
        ("offset=-1", "offset"),
        ("offset=%D9%A1", "offset"),
        ("fuzzymatching=perhaps", "fuzzymatching"),
        ("emptyvaluematching=1", "emptyvaluematching"),
        ("multiplevaluematching=", "multiplevaluematching"),
        ("NumberOfStudyRelatedInstances=many", "NumberOfStudyRelatedInstances"),
        ("PatientName=a&PatientName=b", "PatientName"),
        ("PatientID=a%00b", "PatientID"),
        ("PatientID=" + "x" * 1_025, "PatientID"),
        ("ReferencedStudySequence=1", "ReferencedStudySequence"),
        ("includefield=" + ",".join(["PatientID"] * 513), "includefield"),
        ("StudyDescription=" + "*a" * 40, "StudyDescription"),
    ],
)
def test_a_value_that_cannot_be_taken_is_400_and_named(server: Server, query: str, parameter: str) -> None:
    response = server.get(f"/studies?{query}")
    assert response.status_code == 400, response.text
    assert [bad["parameter"] for bad in response.json()["parameters"]] == [parameter]


@pytest.mark.parametrize("path", ["/studies/x/series", "/studies/1.2/series/1..2/instances", "/studies/%27/instances"])
def test_a_path_with_something_that_is_no_uid_is_400(server: Server, path: str) -> None:
    assert server.get(path).status_code == 400


HOSTILE = [
    "%",
    "%ff%fe",
    "_",
    "'",
    "' OR '1'='1",
    "'; DROP TABLE study; --",
    '"',
    '*"*',
    '*" OR "*',
    "*abc*def*ghi*",
    "\\",
    "\\\\",
    "[a-z]*",
    "*[*",
    "{}",
    "%s%s%d",
    ":p",
    "?",
    "???",
    "*?*?*?*",
    "=",
    "==",
    "*=*",
    "^",
    "^^^^^",
    "\U0001f600*",
    "%ED%A0%80",
    "%7F",
    "0" * 1_000,
    "-",
    "NaN",
]
KEYS = [
    "PatientName",
    "PatientID",
    "StudyDescription",
    "AccessionNumber",
    "ModalitiesInStudy",
    "ReferringPhysicianName",
]
OTHER_KEYS = ["StudyComments", "00091001", "RequestAttributesSequence.RequestedProcedureID", "StudyTime", "StudyDate"]


@pytest.mark.parametrize("value", HOSTILE)
def test_nothing_in_a_value_is_a_fault_of_the_server(server: Server, value: str) -> None:
    switches = ("", "&fuzzymatching=true", "&emptyvaluematching=true&multiplevaluematching=true")
    for key, switch in itertools.product([*KEYS, *OTHER_KEYS], switches):
        response = server.get(f"/studies?{key}={value}{switch}")
        assert response.status_code in (200, 400), f"{key}={value}: {response.text}"
    assert len(found(server, "/studies")) == 6


@pytest.mark.parametrize(
    "name", ["%00", "'", "00100020'", "PatientID--", "study.id", "0010002", "é", "PatientID%00", "."]
)
def test_a_name_that_is_no_attribute_is_ignored(server: Server, name: str) -> None:
    assert len(found(server, f"/studies?{name}=x&includefield={name}")) == 6


def test_an_attribute_by_keyword_and_by_tag_is_400(server: Server) -> None:
    assert server.get("/studies?PatientID=a&00100020=b").status_code == 400


@pytest.mark.parametrize(
    "query",
    [
        "PatientName=" + "+".join(f"word{number}" for number in range(64)) + "&fuzzymatching=true",
        "PatientName=" + "+".join(["mueller"] * 60) + "&fuzzymatching=true",
        "PatientName=" + "%5C".join(f"{chr(97 + number % 26)}{number}*" for number in range(64)),
        "ModalitiesInStudy=" + "%5C".join(f"M{number}" for number in range(64)) + "&multiplevaluematching=true",
        "StudyInstanceUID=" + ",".join(f"1.{number}" for number in range(2_000)),
        "StudyDescription=" + "*abc" * 32,
        "StudyDescription=" + "?" * 1_000,
        "PatientID=" + '"' * 1_000 + "*",
        "ModalitiesInStudy=,&StudyInstanceUID=,&PatientName=%5C&PatientSex=%5C,",
    ],
)
def test_the_most_of_everything_is_answered(server: Server, query: str) -> None:
    for path in ("/patients", "/studies", "/series", "/instances"):
        response = server.get(f"{path}?{query}")
        assert response.status_code == 200, response.text


def test_ten_thousand_keys_are_refused(server: Server) -> None:
    many = "&".join(f"0009{number:04X}=x" for number in range(0x1001, 0x1001 + 1_500))
    response = server.get(f"/studies?{many}")
    assert response.status_code == 400 and "more than 64 match keys" in response.json()["detail"]
    assert len(found(server, "/studies?" + "&".join(f"x{number}=1" for number in range(5_000)))) == 6


def test_absurd_pages_are_empty(server: Server) -> None:
    for path in ("/patients", "/studies", "/series", "/instances"):
        assert found(server, path, offset="9" * 18) == []
        assert found(server, path, limit="0") == []
    assert found(server, "/studies", offset="9" * 18, StudyComments="x") == []


def test_a_search_leaves_an_audit_event_without_what_was_searched_for(server: Server) -> None:
    found(server, "/studies", PatientName="Secret^Person")
    server.parts.accesses.flush()
    with server.parts.database.read() as session:
        events = session.connection().execute(select(AUDIT).where(AUDIT.c.action == "search-studies")).all()
    assert events and not any("Secret" in json.dumps(tuple(event), default=str) for event in events)
