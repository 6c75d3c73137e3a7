"""Items 83 to 88: rendered images and thumbnails, and the URI service (PS3.18 sections 8.3.5, 9.5 and 10.4.1)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO

import httpx
import pydicom
import pytest
import related
from peer import DICOM, Peer, path_of
from studies import Collection

MAGIC = {"image/jpeg": b"\xff\xd8\xff", "image/png": b"\x89PNG", "image/gif": b"GIF8"}


def is_image(body: bytes, media_type: str) -> bool:
    essence = media_type.partition(";")[0].strip()
    return essence in MAGIC and body.startswith(MAGIC[essence])


def size(png: bytes) -> tuple[int, int]:
    """Columns and rows of a PNG."""
    columns, rows = struct.unpack_from(">II", png, 16)
    return columns, rows


def rendered(peer: Peer, path: str, accept: str = "image/png", **query: str) -> bytes:
    response = peer.get(f"{path}/rendered", accept, **query)
    assert response.status_code == 200, f"{response.request.url}: {response.status_code} {response.text[:300]}"
    assert is_image(response.content, response.headers["content-type"])
    return response.content


def test_item_83_an_instance_is_rendered_as_jpeg_and_as_png_and_gif(peer: Peer, held: Collection) -> None:
    """8.7.4, Table 8.7.4-1; 10.4.1.1.3."""
    for ds in (held.ct[0], held.colour, held.compressed):
        response = peer.get(f"{path_of(ds)}/rendered")
        assert response.status_code == 200 and response.headers["content-type"].startswith("image/jpeg")
        assert is_image(response.content, "image/jpeg")
        for media_type in MAGIC:
            assert is_image(rendered(peer, path_of(ds), media_type), media_type), media_type
    for media_type in MAGIC:
        response = peer.get(f"{path_of(held.multi_frame)}/frames/2/rendered", media_type)
        assert response.status_code == 200 and is_image(response.content, media_type), media_type


def test_item_84_the_best_of_several_image_types_comes(peer: Peer, held: Collection) -> None:
    """8.7.8."""
    for accept, best in (
        ("image/png, image/jpeg;q=0.5", "image/png"),
        ("image/png;q=0.5, image/jpeg", "image/jpeg"),
        ("image/*", ""),
        ("text/html, application/xhtml+xml, */*;q=0.8", ""),
    ):
        response = peer.get(f"{path_of(held.ct[0])}/rendered", accept)
        assert response.status_code == 200, f"{accept}: {response.status_code}"
        assert response.headers["content-type"].startswith(best)
        assert is_image(response.content, response.headers["content-type"])


def test_item_85_a_study_or_series_is_rendered_whole(peer: Peer, held: Collection) -> None:
    """10.4.1.1.3, 10.4.4."""
    ct = held.ct[0]
    for path, expected in ((f"/studies/{held.study}", 4), (f"/studies/{held.study}/series/{ct.SeriesInstanceUID}", 3)):
        response = peer.get(f"{path}/rendered", 'multipart/related; type="image/jpeg"')
        assert response.status_code == 200, f"{path}: {response.status_code}"
        images = [part for part in related.read(response) if is_image(part.body, part.content_type)]
        assert len(images) == expected, path


def test_item_86_windows_viewports_quality_annotation_and_profiles_are_honoured(peer: Peer, held: Collection) -> None:
    """8.3.5.1."""
    ct, colour = path_of(held.ct[0]), path_of(held.colour)
    plain = rendered(peer, ct)
    assert size(plain) == (32, 32)
    narrow, wide = (rendered(peer, ct, window=window) for window in ("0,1,linear", "0,4000,linear"))
    assert plain != narrow != wide, "window is ignored"
    assert rendered(peer, ct, window="40,400,linear") == plain, "the window of the data is not the default"
    assert rendered(peer, ct, window="0,400,sigmoid") != rendered(peer, ct, window="0,400,linear")
    assert size(rendered(peer, ct, viewport="64,64")) == (64, 64)
    assert size(rendered(peer, ct, viewport="16,16")) == (16, 16)
    assert rendered(peer, ct, viewport="32,32,0,0,8,8") != plain, "the region of the source is ignored"
    bad, good = (rendered(peer, colour, "image/jpeg", quality=quality) for quality in ("1", "100"))
    assert len(bad) < len(good), "quality is ignored"
    assert rendered(peer, ct, viewport="256,256", annotation="patient,technique") != rendered(
        peer, ct, viewport="256,256"
    ), "annotation is ignored"
    with_profile = rendered(peer, colour, "image/jpeg", iccprofile="yes")
    assert b"ICC_PROFILE" in with_profile, "iccprofile is ignored"
    assert b"ICC_PROFILE" not in rendered(peer, colour, "image/jpeg", iccprofile="no")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("window", "40"),
        ("window", "a,b,linear"),
        ("window", "40,0,linear"),
        ("window", "40,400,cubic"),
        ("viewport", "0,0"),
        ("viewport", "many,more"),
        ("viewport", "1,2,3"),
        ("quality", "101"),
        ("quality", "best"),
        ("annotation", "everything"),
        ("iccprofile", "purple"),
    ],
)
def test_item_86_a_bad_rendering_parameter_is_400(peer: Peer, held: Collection, name: str, text: str) -> None:
    """8.3.5.1, 8.5."""
    assert peer.get(f"{path_of(held.ct[0])}/rendered", "image/png", **{name: text}).status_code == 400


def test_item_87_thumbnails_come_at_every_level(peer: Peer, held: Collection) -> None:
    """10.4.1.1.7, 10.4.4."""
    ct = held.ct[0]
    study, series, instance = (
        f"/studies/{held.study}",
        f"/series/{ct.SeriesInstanceUID}",
        f"/instances/{ct.SOPInstanceUID}",
    )
    paths = [study, study + series, study + series + instance, f"{path_of(held.multi_frame)}/frames/2"]
    for path in paths:
        for accept in ("", "image/jpeg"):
            response = peer.get(f"{path}/thumbnail", accept)
            assert response.status_code == 200, f"{path}/thumbnail: {response.status_code}"
            assert is_image(response.content, response.headers["content-type"])


@pytest.fixture
def uri(peer: Peer, held: Collection, pytestconfig: pytest.Config) -> Callable[..., httpx.Response]:
    """Ask the URI service for the first CT slice; parameters may be changed or left out (None)."""
    address = pytestconfig.getoption("--wado-uri") or peer.url
    ct = held.ct[0]

    def ask(of: pydicom.Dataset = ct, **changed: str | None) -> httpx.Response:
        query: dict[str, str | None] = {
            "requestType": "WADO",
            "studyUID": of.StudyInstanceUID,
            "seriesUID": of.SeriesInstanceUID,
            "objectUID": of.SOPInstanceUID,
            **changed,
        }
        return peer.get(address, **{name: text for name, text in query.items() if text is not None})

    return ask


def test_item_88_the_uri_service_gives_jpeg_dicom_and_what_its_parameters_say(
    peer: Peer, held: Collection, uri: Callable[..., httpx.Response]
) -> None:
    """9.1, 9.5."""
    response = uri()
    assert response.status_code == 200 and response.headers["content-type"].startswith("image/jpeg")
    assert is_image(response.content, "image/jpeg")
    response = uri(contentType="application/dicom")
    assert response.status_code == 200 and response.headers["content-type"].startswith(DICOM)
    assert pydicom.dcmread(BytesIO(response.content)).SOPInstanceUID == held.ct[0].SOPInstanceUID
    png = {"contentType": "image/png"}
    assert size(uri(**png, rows="16", columns="16").content) == (16, 16)
    assert uri(**png, windowCenter="0", windowWidth="50").content != uri(**png).content
    assert uri(**png, region="0.0,0.0,0.5,0.5").content != uri(**png).content
    frames = [uri(held.multi_frame, **png, frameNumber=number) for number in ("1", "4")]
    assert [response.status_code for response in frames] == [200, 200] and frames[0].content != frames[1].content


@pytest.mark.parametrize(
    "wrong",
    [
        {"requestType": None},
        {"studyUID": None},
        {"seriesUID": None},
        {"objectUID": None},
        {"frameNumber": "0"},
        {"frameNumber": "99"},
        {"frameNumber": "one"},
        {"rows": "-1"},
        {"windowCenter": "40"},
        {"region": "0,0,2,2"},
    ],
    ids=lambda wrong: next(f"{name}={text}" for name, text in wrong.items()),
)
def test_item_88_a_missing_or_bad_parameter_of_the_uri_service_is_400(
    uri: Callable[..., httpx.Response], wrong: dict[str, str | None]
) -> None:
    """9.1.2, 9.5.2."""
    assert uri(**wrong).status_code == 400
