"""OPTIONS tells what there is, made of the routes themselves."""

from __future__ import annotations

from xml.etree import ElementTree

from litestar import Litestar, get, post
from litestar.testing import TestClient

from imaging_ai.serve.dicomweb.capabilities import WADL, capabilities_handlers, resources_of
from imaging_ai.serve.problem import respond


@get("/studies", sync_to_thread=False)
def search() -> str:
    return ""


@post("/studies", sync_to_thread=False)
def store() -> str:
    return ""


@get("/studies/{study:str}/metadata", sync_to_thread=False)
def metadata(study: str) -> str:
    return study


HANDLERS = [search, store, metadata]


def client() -> TestClient[Litestar]:
    from litestar import Router

    router = Router("/dicom-web", route_handlers=[*capabilities_handlers(HANDLERS), *HANDLERS])
    return TestClient(Litestar([router], exception_handlers={Exception: respond}, logging_config=None))


def test_the_root_describes_every_resource_as_wadl() -> None:
    with client() as asked:
        answer = asked.options("/dicom-web/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, WADL)
    space = "{http://wadl.dev.java.net/2009/02}"
    found = {
        one.get("path"): [m.get("name") for m in one]
        for one in ElementTree.fromstring(answer.content).iter(f"{space}resource")
    }
    assert found == {"studies": ["GET", "POST"], "studies/{study}/metadata": ["GET"]}


def test_a_resource_describes_itself_and_what_is_below_it() -> None:
    with client() as asked:
        answer = asked.options("/dicom-web/studies/1.2.3/metadata", headers={"accept": "application/json"})
    assert [one["path"] for one in answer.json()["resources"]] == ["studies/{study}/metadata"]
    assert answer.headers["allow"] == "GET, OPTIONS"


def test_a_wrong_method_is_405_and_tells_the_right_ones() -> None:
    with client() as asked:
        answer = asked.delete("/dicom-web/studies")
    assert answer.status_code == 405
    assert {"GET", "POST"} <= set(answer.headers["allow"].replace(",", " ").split())


def test_types_that_it_has_not_are_406() -> None:
    with client() as asked:
        answer = asked.options("/dicom-web/", headers={"accept": "image/tiff"})
    assert answer.status_code == 406
    assert WADL in answer.json()["detail"]


def test_every_resource_has_each_method_once() -> None:
    assert [(one.path, len(one.methods)) for one in resources_of(HANDLERS)] == [
        ("studies", 2),
        ("studies/{study}/metadata", 1),
    ]
