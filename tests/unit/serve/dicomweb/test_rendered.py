"""WADO-RS rendered resources and thumbnails, asked of a whole application."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageSequence
from pydicom import Dataset, dcmread
from sqlmodel import select

import encoded
import phantoms
from imaging_ai.archive.deletion import delete_instances
from imaging_ai.db.tables import AuditEventRow
from imaging_ai.errors import ImagingAiError
from rendering import Web, open_web, path_of, pixels

CT = phantoms.series(phantoms.ball((5, 40, 48)), name="rendered")
ENHANCED = phantoms.enhanced(phantoms.ball((4, 20, 24)), name="rendered-enhanced")
MULTIPART = 'multipart/related; type="image/png"'


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with open_web(tmp_path_factory.mktemp("web")) as opened:
        opened.keep(*CT, ENHANCED, *of_other_kinds().values())
        yield opened


def of_other_kinds() -> dict[str, Dataset]:
    """Make instances that are no images, in studies of their own."""
    made = {}
    for number, kind in enumerate(("report", "pdf", "script", "raw"), 1):
        ds = copy.deepcopy(CT[0])
        for keyword in ("PixelData", "Rows", "Columns"):
            del ds[keyword]
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.{number}", f"1.2.{number}.1"
        ds.SOPInstanceUID, ds.Modality = f"1.2.{number}.1.1", "OT"
        made[kind] = ds
    report, pdf, script, raw = made.values()
    report.SOPClassUID, report.Modality = "1.2.840.10008.5.1.4.1.1.88.11", "SR"
    name, item = Dataset(), Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "1", "99X", "Findings"
    item.ValueType, item.TextValue, item.ConceptNameCodeSequence = "TEXT", "<b>nothing</b>", [name]
    report.ValueType, report.ConceptNameCodeSequence, report.ContentSequence = "CONTAINER", [name], [item]
    for ds, media_type in ((pdf, "application/pdf"), (script, "text/html")):
        ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"
        ds.EncapsulatedDocument = b"%PDF-1.4" + bytes(5000) + b"\n"
        ds.EncapsulatedDocumentLength, ds.MIMETypeOfEncapsulatedDocument = 5009, media_type
    raw.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66"
    return made


OTHERS = of_other_kinds()


def parts_of(answer: Any) -> list[tuple[str, str, bytes]]:
    """Return content type, location and body of each part."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(head + answer.content)
    return [
        (part.get_content_type(), part.get("Content-Location", ""), part.get_payload(decode=True))  # type: ignore[misc]
        for part in message.get_payload()
    ]


# -- images


def test_an_instance_is_a_jpeg_unless_another_image_is_wanted(web: Web) -> None:
    path = path_of(CT[2]) + "/rendered"
    for accept, media_type in (
        ("", "image/jpeg"),
        ("image/*", "image/jpeg"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", "image/jpeg"),
        ("image/png", "image/png"),
        ("image/gif", "image/gif"),
        ("image/jp2", "image/jp2"),
        ("image/png, image/jpeg;q=0.5", "image/png"),
        ("image/tiff, image/png;q=0.2, image/gif;q=0.1", "image/png"),
    ):
        answer = web.get(path, accept)
        assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
        assert Image.open(io.BytesIO(answer.content)).size == (48, 40)


def test_the_accept_parameter_beats_the_header(web: Web) -> None:
    answer = web.get(path_of(CT[2]) + "/rendered?accept=image/png", "image/gif")
    assert answer.headers["content-type"] == "image/png"


def test_a_type_that_cannot_be_given_is_406_and_the_answer_lists_those_that_can(web: Web) -> None:
    for path in (path_of(CT[2]), path_of(CT[2]) + "/frames/1", f"/studies/{CT[0].StudyInstanceUID}"):
        answer = web.get(path + "/rendered", "image/tiff")
        assert answer.status_code == 406
        assert "image/jpeg" in answer.json()["detail"]


def test_a_picture_shows_what_the_pixels_say(web: Web) -> None:
    shown = pixels(web.get(path_of(CT[2]) + "/rendered", "image/png", window="50,300,linear-exact").content)
    values = CT[2].pixel_array * float(CT[2].RescaleSlope) + float(CT[2].RescaleIntercept)
    assert np.abs(shown - np.clip((values - 50) / 300 + 0.5, 0, 1) * 255).max() <= 0.51


def test_a_series_is_rendered_whole_one_part_an_image_in_their_order(web: Web) -> None:
    study, series = CT[0].StudyInstanceUID, CT[0].SeriesInstanceUID
    for path in (f"/studies/{study}", f"/studies/{study}/series/{series}"):
        for accept in ("", "image/png", MULTIPART, "multipart/related"):
            answer = web.get(f"{path}/rendered", accept)
            media_type = "image/png" if "png" in accept else "image/jpeg"
            assert re.match(f'multipart/related; type="{media_type}"; boundary="', answer.headers["content-type"])
            parts = parts_of(answer)
            assert [part[0] for part in parts] == [media_type] * 5
            assert [part[1].rpartition("/dicom-web")[2] for part in parts] == [
                f"{path_of(ds)}/frames/1/rendered" for ds in CT
            ]
    assert np.array_equal(pixels(parts[2][2]), pixels(web.get(path_of(CT[2]) + "/rendered").content))


def test_frames_come_in_the_order_asked_and_one_alone_without_parts(web: Web) -> None:
    path = path_of(ENHANCED)
    single = {number: web.get(f"{path}/frames/{number}/rendered", "image/png") for number in (1, 3)}
    assert single[3].headers["content-type"] == "image/png"
    for accept in ("image/png", MULTIPART):
        parts = parts_of(web.get(f"{path}/frames/3,1,3/rendered", accept))
        assert [part[2] for part in parts] == [single[number].content for number in (3, 1, 3)]


def test_a_multi_frame_instance_is_all_its_frames_a_moving_gif_or_one_image(web: Web) -> None:
    path = path_of(ENHANCED) + "/rendered"
    assert len(parts_of(web.get(path))) == len(parts_of(web.get(path, MULTIPART))) == 4
    moving = Image.open(io.BytesIO(web.get(path, "image/gif").content))
    shown = [frame.info["duration"] for frame in ImageSequence.Iterator(moving)]
    assert len(shown) > 1 and sum(shown) == 400  # equal frames are one that is shown longer
    first = web.get(path_of(ENHANCED) + "/frames/1/rendered", "image/png")
    assert web.get(path, "image/png").content == first.content


def test_a_moving_image_of_too_many_pixels_is_refused(web: Web) -> None:
    answer = web.get(path_of(ENHANCED) + "/rendered", "image/gif", viewport="5700,5700")
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("frames", "status"),
    [
        *[(text, 400) for text in ("0", "-1", "a", "1,", "1,,2", "1-3", "１", "9" * 30, ",".join(["1"] * 10_001))],
        *[(text, 404) for text in ("5", "1,99")],
        ("%31", 200),
    ],
)
def test_frames_that_are_none_are_400_and_those_past_the_end_404(web: Web, frames: str, status: int) -> None:
    for resource in ("rendered", "thumbnail"):
        assert web.get(f"{path_of(ENHANCED)}/frames/{frames}/{resource}").status_code == status


# -- the query


def test_the_query_is_honoured(web: Web) -> None:
    path = path_of(CT[2]) + "/rendered"
    plain = web.get(path, "image/png").content
    for query in (
        {"window": "0,1,linear"},
        {"window": "0,400,sigmoid"},
        {"viewport": "64,64"},
        {"viewport": "48,40,8,8,-16,16"},
        {"viewport": "512,512,,,10,"},
        {"annotation": "patient,technique", "viewport": "256,256"},
        {"iccprofile": "srgb"},
    ):
        answer = web.get(path, "image/png", **query)
        assert answer.status_code == 200 and answer.content != plain, query
    offset = {"viewport": "40,32,8,8"}
    assert web.get(path, "image/png", viewport="40,32,-8,-8").content == web.get(path, "image/png", **offset).content
    for ignored in ({"iccprofile": "no"}, {"quality": "5"}, {"unheard-of": "1"}):
        assert web.get(path, "image/png", **ignored).content == plain
    assert len(web.get(path, "image/jpeg", quality="5").content) < len(web.get(path, "image/jpeg").content)
    for profile in ("yes", "srgb", "adobergb", "rommrgb"):
        assert b"ICC_PROFILE" in web.get(path, "image/jpeg", iccprofile=profile).content
        assert web.get(path, "image/gif", iccprofile=profile).status_code == 400


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("window", "|40|40,400|40,400,|a,b,linear|40,0,linear|40,0.5,linear|40,400,cubic|nan,1,linear|inf,1,linear"),
        ("window", "1e999,1,linear|40,400,linear,1|4١,400,linear|" + "9" * 400 + ",1,linear"),
        ("viewport", "|0,0|-1,5|5|5,|many,more|1.5,2|1,2,3,4,5,6,7|1,2,x|1,2,0,0,0,0|1,2,500,500|1000000000,2"),
        ("viewport", "60000,60000|1,2,1e300|1,2,,,1e-300,"),
        ("quality", "|0|101|-1|best|5.5|1e2|９"),
        ("annotation", "|everything|patient,|patient,nothing"),
        ("iccprofile", "|purple|yes,no|SRGB"),
    ],
)
def test_a_value_that_cannot_be_taken_is_400_and_names_its_parameter(web: Web, name: str, values: str) -> None:
    for value in values.split("|"):
        answer = web.get(path_of(CT[2]) + "/rendered", "image/png", **{name: value})
        if value == "1,2,,,1e-300,":  # so little is still one pixel
            assert answer.status_code == 200
            continue
        assert answer.status_code == 400, value
        assert answer.json()["parameters"][0]["parameter"] == name


def test_a_parameter_that_is_there_twice_is_400(web: Web) -> None:
    answer = web.client.get(f"/dicom-web{path_of(CT[2])}/rendered?quality=1&quality=2")
    assert answer.status_code == 400


def test_malformed_uids_are_400_and_unknown_ones_404(web: Web) -> None:
    for resource in ("rendered", "thumbnail"):
        for path in ("/studies/abc", "/studies/1.2/series/x", "/studies/1.2/series/1.3/instances/1..2"):
            assert web.get(f"{path}/{resource}").status_code == 400
        for path in ("/studies/9.9", "/studies/9.9/series/9", f"/studies/{CT[0].StudyInstanceUID}/series/9"):
            assert web.get(f"{path}/{resource}").status_code == 404


# -- reports and documents


def test_a_report_is_a_page_text_or_xml(web: Web) -> None:
    path = path_of(OTHERS["report"]) + "/rendered"
    browser = web.get(path, "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8")
    assert browser.headers["content-type"] == web.get(path).headers["content-type"] == "text/html; charset=utf-8"
    assert "&lt;b&gt;nothing" in browser.text and "<b>nothing" not in browser.text
    assert "sandbox" in browser.headers["content-security-policy"]
    plain = web.get(path, "text/plain")
    assert plain.headers["content-type"] == "text/plain; charset=utf-8" and "- Findings: <b>nothing</b>" in plain.text
    native = web.get(path, "text/xml")
    assert ElementTree.fromstring(native.content).tag.endswith("NativeDicomModel")
    assert web.get(path, "image/jpeg").status_code == 406


def test_our_own_report_is_readable(web: Web) -> None:
    report = encoded.encode(encoded.phantom_volume())["SR"]
    web.keep(report.data)
    assert "Imaging Measurement Report" in web.get(path_of(encoded.read(report)) + "/rendered", "text/html").text


def test_a_document_comes_as_it_was_put_in(web: Web) -> None:
    path = path_of(OTHERS["pdf"]) + "/rendered"
    for accept in ("", "application/pdf", "text/html,application/xhtml+xml,*/*;q=0.8"):
        answer = web.get(path, accept)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pdf")
        assert answer.content == bytes(OTHERS["pdf"].EncapsulatedDocument)[:5009]
        assert answer.headers["content-length"] == "5009"
    assert web.get(path, "image/png").status_code == 406


def test_a_document_that_a_browser_would_run_and_what_is_nothing_to_see_are_406(web: Web) -> None:
    for kind in ("script", "raw"):
        answer = web.get(path_of(OTHERS[kind]) + "/rendered")
        assert answer.status_code == 406 and len(answer.json()["detail"]) > 30
        assert web.get(f"/studies/{OTHERS[kind].StudyInstanceUID}/rendered").status_code == 406


def test_rendering_parameters_do_not_hinder_what_is_no_image(web: Web) -> None:
    assert web.get(path_of(OTHERS["report"]) + "/rendered", window="40,400,linear").status_code == 200


def test_a_study_of_images_and_reports_gives_each_as_it_is_wanted(tmp_path: Path) -> None:
    report = of_other_kinds()["report"]
    report.StudyInstanceUID = CT[0].StudyInstanceUID
    broken = phantoms.series(np.zeros((1, 8, 8), np.float32), name="rendered-broken")[0]
    broken.StudyInstanceUID, broken.PixelData = CT[0].StudyInstanceUID, b"\0\0"
    with open_web(tmp_path) as web:
        web.keep(CT[0], report, broken)
        path = f"/studies/{CT[0].StudyInstanceUID}/rendered"
        assert [part[0] for part in parts_of(web.get(path, "image/png"))].count("image/png") == 1
        assert {"image/jpeg", "text/html"} <= {part[0] for part in parts_of(web.get(path))}
        assert [part[0] for part in parts_of(web.get(path, "text/plain"))] == ["text/plain"]


def test_a_frame_that_cannot_be_decoded_is_told_in_its_part(tmp_path: Path) -> None:
    ds = phantoms.enhanced(phantoms.ball((3, 16, 16)), name="rendered-damaged")
    ds.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    data = phantoms.to_bytes(ds)
    second = (
        data.index(b"\xfe\xff\x00\xe0", data.index(b"\xfe\xff\x00\xe0", data.index(b"\xe0\x7f\x10\x00") + 20) + 8) + 8
    )
    with open_web(tmp_path) as web:
        web.keep(data[: second + 8] + b"\xff" * 16 + data[second + 24 :])
        types = [part[0] for part in parts_of(web.get(path_of(ds) + "/rendered"))]
    assert sorted(types) == ["application/problem+json", "image/jpeg", "image/jpeg"]


# -- thumbnails


def test_thumbnails_are_small_images_on_every_level(web: Web) -> None:
    study, series = CT[0].StudyInstanceUID, CT[0].SeriesInstanceUID
    middle = web.get(path_of(CT[2]) + "/thumbnail", "image/png")
    for path in (f"/studies/{study}", f"/studies/{study}/series/{series}"):
        assert web.get(f"{path}/thumbnail", "image/png").content == middle.content
    for path in (f"/studies/{study}", path_of(ENHANCED), path_of(ENHANCED) + "/frames/2"):
        for accept, media_type in (("", "image/jpeg"), ("image/png", "image/png"), ("image/gif", "image/gif")):
            answer = web.get(f"{path}/thumbnail", accept)
            assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
            assert max(Image.open(io.BytesIO(answer.content)).size) == 128
    assert pixels(web.get(path_of(CT[0]) + "/thumbnail", viewport="20,300").content).shape[1] == 20


def test_a_thumbnail_of_what_is_no_image_shows_its_modality(web: Web) -> None:
    for kind in ("report", "pdf", "raw"):
        answer = web.get(path_of(OTHERS[kind]) + "/thumbnail", "image/png")
        assert answer.status_code == 200 and len(np.unique(pixels(answer.content))) > 2


def test_a_thumbnail_takes_a_size_only_and_carries_nothing_of_the_patient(web: Web) -> None:
    path = path_of(CT[2]) + "/thumbnail"
    for viewport in ("64", "64,64,0,0", "64,64,1,1,2,2", "0,64", "60000,60000"):
        assert web.get(path, viewport=viewport).status_code == 400, viewport
    assert web.get(path, annotation="patient").content == web.get(path).content


# -- over HTTP


def test_what_a_client_holds_is_not_sent_again(web: Web) -> None:
    for path in (path_of(CT[2]) + "/rendered", path_of(OTHERS["report"]) + "/rendered", path_of(CT[2]) + "/thumbnail"):
        first = web.get(path)
        again = web.client.get(f"/dicom-web{path}", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    changed = web.get(path_of(CT[2]) + "/rendered", window="1,2,linear")
    assert changed.headers["etag"] != web.get(path_of(CT[2]) + "/rendered").headers["etag"]


def test_an_image_that_was_rendered_a_moment_ago_is_gone_with_its_instance(tmp_path: Path) -> None:
    path = path_of(CT[0]) + "/rendered"
    with open_web(tmp_path) as web:
        web.keep(*CT[:2])
        assert web.get(path).content == web.get(path).content
        with web.archive.database.write() as session:
            delete_instances(session, [CT[0].SOPInstanceUID])
        assert web.get(path).status_code == 410
        elsewhere = path_of(CT[1]).replace(CT[1].StudyInstanceUID, "1.2.3") + "/rendered"
        assert web.get(path_of(CT[1]) + "/rendered").status_code == 200 and web.get(elsewhere).status_code == 404


def test_a_window_that_moves_does_not_read_the_frame_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_web(tmp_path) as web:
        web.keep(CT[0])
        first = web.get(path_of(CT[0]) + "/rendered", window="40,80,linear")
        monkeypatch.delattr(type(web.archive.store), "read")
        moved = web.get(path_of(CT[0]) + "/rendered", window="40,400,linear")
        assert moved.status_code == 200 and moved.content != first.content


def test_wrong_methods_are_405(web: Web) -> None:
    answer = web.client.post(f"/dicom-web{path_of(CT[2])}/rendered")
    assert answer.status_code == 405 and "GET" in answer.headers["allow"]


def test_readings_leave_audit_events(web: Web) -> None:
    web.get(path_of(CT[3]) + "/rendered")
    web.get(f"/studies/{CT[0].StudyInstanceUID}/thumbnail")
    web.accesses.flush()
    with web.archive.database.read() as session:
        found = {(row.action, row.object_type, row.object_uid) for row in session.exec(select(AuditEventRow))}
    assert ("read-rendered", "instance", CT[3].SOPInstanceUID) in found
    assert ("read-thumbnail", "study", CT[0].StudyInstanceUID) in found


def test_every_real_file_is_rendered_or_refused_with_a_reason(real_data: Path, tmp_path: Path) -> None:
    statuses = []
    with open_web(tmp_path) as web:
        for path in sorted((real_data / "syntaxes").glob("*.dcm")):
            try:
                web.keep(path.read_bytes())
            except ImagingAiError:
                continue
            ds = dcmread(path, stop_before_pixels=True)
            statuses.append(web.get(path_of(ds) + "/rendered", "image/png").status_code)
            assert web.get(path_of(ds) + "/thumbnail").status_code == 200
    assert statuses.count(200) >= 20 and set(statuses) <= {200, 406}
