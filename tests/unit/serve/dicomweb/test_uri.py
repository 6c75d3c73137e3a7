"""WADO-URI, asked of a whole application."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from sqlmodel import select

import phantoms
from imaging_ai.db.tables import AuditEventRow
from rendering import Web, open_web, path_of, pixels

CT = phantoms.series(phantoms.ball((2, 40, 48)), name="uri")[0]
COMPRESSED = phantoms.series(phantoms.ball((2, 16, 16)), name="uri-rle", transfer_syntax_uid="1.2.840.10008.1.2.5")[0]
ENHANCED = phantoms.enhanced(phantoms.ball((4, 20, 24)), name="uri-enhanced")
EXPLICIT, IMPLICIT, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with open_web(tmp_path_factory.mktemp("web")) as opened:
        opened.keep(CT, COMPRESSED, ENHANCED)
        yield opened


def ask(web: Web, ds: Dataset = CT, at: str = "/wado", accept: str = "", **changed: str | None) -> Any:
    query = {
        "requestType": "WADO",
        "studyUID": ds.StudyInstanceUID,
        "seriesUID": ds.SeriesInstanceUID,
        "objectUID": ds.SOPInstanceUID,
        **changed,
    }
    return web.get(at, accept, **{name: text for name, text in query.items() if text is not None})


def test_an_image_is_a_jpeg_at_both_addresses(web: Web) -> None:
    for at in ("", "/", "/wado"):
        answer = ask(web, at=at)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert Image.open(io.BytesIO(answer.content)).size == (48, 40)


def test_the_content_type_is_the_one_that_is_asked_for(web: Web) -> None:
    for content_type, given in (
        ("image/png", "image/png"),
        ("image/gif", "image/gif"),
        ("image/tiff,image/png", "image/png"),
        ("image/png;q=0.1, image/gif", "image/gif"),
    ):
        assert ask(web, contentType=content_type).headers["content-type"] == given
    assert ask(web, accept="image/png").headers["content-type"] == "image/png"
    for content_type in ("image/tiff", "text/html", "application/pdf", "video/mpeg"):
        assert ask(web, contentType=content_type).status_code == 406
    assert ask(web, contentType="nonsense").status_code == 400


def test_the_image_is_that_of_the_rendered_resource(web: Web) -> None:
    for uri, rs in (
        ({}, {}),
        ({"windowCenter": "50", "windowWidth": "300"}, {"window": "50,300,linear"}),
        ({"rows": "20", "columns": "100"}, {"viewport": "100,20"}),
        ({"region": "0.5,0.25,1.0,0.75"}, {"viewport": "24,20,24,10,24,20"}),
        (
            {"rows": "200", "columns": "200", "imageAnnotation": "patient"},
            {"viewport": "200,200", "annotation": "patient"},
        ),
        (
            {"rows": "200", "columns": "200", "annotation": "technique"},
            {"viewport": "200,200", "annotation": "technique"},
        ),
    ):
        expected = web.get(path_of(CT) + "/rendered", "image/png", **rs)
        assert ask(web, contentType="image/png", **uri).content == expected.content, uri
    assert len(ask(web, imageQuality="1").content) < len(ask(web).content)


def test_rows_or_columns_alone_keep_the_proportions(web: Web) -> None:
    assert pixels(ask(web, contentType="image/png", rows="20").content).shape == (20, 24)
    assert pixels(ask(web, contentType="image/png", columns="24").content).shape == (20, 24)


def test_frames_are_chosen_by_their_number(web: Web) -> None:
    for number in ("1", "4"):
        expected = web.get(f"{path_of(ENHANCED)}/frames/{number}/rendered", "image/png").content
        assert ask(web, ENHANCED, contentType="image/png", frameNumber=number).content == expected
    assert ask(web, frameNumber="1").status_code == 200
    moving = Image.open(io.BytesIO(ask(web, ENHANCED, contentType="image/gif").content))
    assert moving.n_frames > 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("requestType", [None, "", "RS", "wado"]),
        ("studyUID", [None, "", "abc", "1.2/../3"]),
        ("seriesUID", [None, "x" * 100]),
        ("objectUID", [None, "1..2", "' OR 1=1"]),
        ("frameNumber", ["0", "-1", "99", "one", "1.5", ""]),
        ("rows", ["0", "-1", "x", "70000", "9" * 30]),
        ("columns", ["0", ""]),
        ("windowCenter", ["x"]),
        ("windowWidth", [None, "0", "-1", "x"]),
        ("region", ["0,0,2,2", "0.5,0,0.5,1", "1,1,0,0", "0,0,1", "0,0,1,1,1", "a,b,c,d", "-0.1,0,1,1", ""]),
        ("imageQuality", ["0", "101", "x"]),
        ("imageAnnotation", ["everything"]),
        ("anonymize", ["no", "", "yes"]),
        ("presentationUID", ["1.2"]),
    ],
)
def test_what_is_missing_or_bad_is_400_and_names_its_parameter(web: Web, name: str, values: list[str | None]) -> None:
    others = {"windowWidth": {"windowCenter": "40"}, "windowCenter": {"windowWidth": "400"}}.get(name, {})
    for value in values:
        answer = ask(web, **{**others, name: value})
        assert answer.status_code == 400, value
        assert answer.json()["parameters"][0]["parameter"] == name


def test_what_is_not_here_is_404(web: Web) -> None:
    for name in ("studyUID", "seriesUID", "objectUID"):
        assert ask(web, **{name: "9.9.9"}).status_code == 404
        assert ask(web, contentType="application/dicom", **{name: "9.9.9"}).status_code == 404


def test_an_object_comes_in_explicit_little_endian_or_as_it_is_asked_for(web: Web) -> None:
    for ds in (CT, COMPRESSED):
        for asked_for, given in ((None, EXPLICIT), (EXPLICIT, EXPLICIT), ("*", ds.file_meta.TransferSyntaxUID)):
            answer = ask(web, ds, contentType="application/dicom", transferSyntax=asked_for)
            assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/dicom")
            read = dcmread(io.BytesIO(answer.content))
            assert (read.SOPInstanceUID, read.file_meta.TransferSyntaxUID) == (ds.SOPInstanceUID, given)
            assert np.array_equal(read.pixel_array, ds.pixel_array)
    compressed = dcmread(io.BytesIO(ask(web, contentType="application/dicom", transferSyntax=JPEG_2000).content))
    assert compressed.file_meta.TransferSyntaxUID == JPEG_2000
    assert np.array_equal(compressed.pixel_array, CT.pixel_array)


def test_a_transfer_syntax_that_is_not_given_is_406_and_one_that_is_none_400(web: Web) -> None:
    for syntax, status in ((IMPLICIT, 406), ("1.2.840.10008.1.2.2", 406), ("1.2.3", 406), ("abc", 400), ("", 400)):
        answer = ask(web, contentType="application/dicom", transferSyntax=syntax)
        assert answer.status_code == status, syntax


def test_parameters_of_rendering_are_refused_for_an_object(web: Web) -> None:
    for name in ("rows", "frameNumber", "windowCenter", "region", "imageQuality", "annotation"):
        answer = ask(web, contentType="application/dicom", **{name: "1"})
        assert answer.status_code == 400
        assert answer.json()["parameters"][0]["parameter"] == name


def test_parameters_that_nobody_knows_are_ignored(web: Web) -> None:
    assert ask(web, charset="UTF-8", unheard="1").content == ask(web).content


def test_what_a_client_holds_is_not_sent_again(web: Web) -> None:
    first = ask(web, contentType="image/png")
    again = web.client.get(first.request.url, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_readings_leave_audit_events(web: Web) -> None:
    ask(web), ask(web, contentType="application/dicom")
    web.accesses.flush()
    with web.archive.database.read() as session:
        found = {(row.action, row.object_uid) for row in session.exec(select(AuditEventRow))}
    assert {("read-rendered", CT.SOPInstanceUID), ("read-instances", CT.SOPInstanceUID)} <= found
