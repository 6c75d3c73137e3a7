"""Values, paths and headers that no honest client sends: a 4xx that names the parameter, and never a 5xx.

Seeded, so that what fails fails again. `IMAGING_AI_TEST_REQUESTS` is how many random searches are made.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from attacked import DICOM_JSON, Attacked, attack

REQUESTS = int(os.environ.get("IMAGING_AI_TEST_REQUESTS", "400"))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with attack(tmp_path_factory.mktemp("attacked")) as attacked:
        yield attacked


@pytest.fixture(autouse=True)
def _no_mistake_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.ERROR)
    yield
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []


# -- queries and paths

NAMES = (
    *("StudyInstanceUID", "SOPInstanceUID", "PatientName", "PatientID", "StudyDate", "StudyTime", "ModalitiesInStudy"),
    *(
        "InstanceNumber",
        "00100010",
        "RequestAttributesSequence.ScheduledProcedureStepID",
        "00400275",
        "00091001",
        "Rows",
    ),
    *("PixelData", "AcquisitionDateTime", "SOPClassUID", "ProcedureStepState", "00000000", "FFFEE000"),
    *(".".join(["00400275"] * 200) + ".00400009", "." * 500, "'; DROP TABLE instance; --", "%00", "", "x" * 2_000),
)
VALUES = (
    *("", "*", "?", "%00", "';--", "' OR 1=1--", "%", "_", "*" * 5_000, "*?" * 300, "a*" * 40, "\\" * 100, "-", "--"),
    *(
        "20200101-",
        "20200101-20190101",
        "99999999",
        "20250231",
        "253000",
        "١٢",
        "1e400",
        "NaN",
        "inf",
        "0x10",
        "9" * 400,
    ),
    *(
        '""',
        "[a-z]",
        "(a|b)",
        "^^^^^",
        "====",
        "A^B^C^D^E^F^G",
        ",".join(["1.2.3"] * 2_001),
        "\r\nSet-Cookie: a",
        "\u202e",
    ),
    *("20200101120000-0500-20200101120000+0500", "😀", "x" * 3_000, "maybe", "-1", "1.5", " ", "true", "all", "1,1"),
)
CONTROLS = ("limit", "offset", "fuzzymatching", "includefield", "accept", "emptyvaluematching", "multiplevaluematching")
PLACES = ("/patients", "/studies", "/series", "/instances", "/workitems")


def test_no_search_is_a_mistake_of_the_server(attacked: Attacked) -> None:
    rng = random.Random(3)
    for _ in range(REQUESTS):
        query: list[tuple[str, Any]] = [
            (rng.choice(NAMES + CONTROLS), rng.choice(VALUES)) for _ in range(rng.randint(1, 3))
        ]
        answer = attacked.client.get(f"/dicom-web{rng.choice(PLACES)}", params=query)
        assert answer.status_code in (200, 204, 400, 406), (query, answer.text)
        if answer.status_code == 400 and "accept" not in dict(query):
            (bad,) = answer.json()["parameters"]
            assert bad["parameter"] in {name[:64] for name, _ in query}, (query, bad)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        *(("limit", value) for value in ("-1", "1.5", "1e9", "ten", "9" * 30, "", "٣")),
        *(("offset", value) for value in ("-1", "1.0", "9" * 30, "")),
    ],
)
def test_a_page_is_counted_in_whole_numbers(attacked: Attacked, place: str, parameter: str, value: str) -> None:
    answer = attacked.get(f"{place}?{parameter}={value}")
    assert (answer.status_code, answer.json()["parameters"][0]["parameter"]) == (400, parameter)


def test_the_largest_numbers_are_taken(attacked: Attacked) -> None:
    for place in PLACES:
        assert attacked.get(f"{place}?limit={'9' * 18}&offset={'9' * 18}").json() == []


EVIL = (
    *(
        "%00",
        "..%2f..%2fetc%2fpasswd",
        "%27%3B--",
        "%25",
        "_",
        "*" * 64,
        "1.2.3%0d%0aX:1",
        "%ff%fe",
        "%ed%a0%80",
    ),
    *(
        "1." * 40,
        "1.2%5C1.3",
        "1.2,1.3",
        "１.２",
        "-1",
        "NaN",
        "1..2",
        "%2e%2e",
        "a" * 9_000,
        "%20",
        "1.2.3;x=1",
        "%zz",
    ),
)


@pytest.mark.parametrize("evil", EVIL)
def test_no_path_leads_anywhere_else(attacked: Attacked, evil: str) -> None:
    for path in (
        *("/{}", "/studies/{}", "/studies/{}/metadata", "/studies/{}/series", "/studies/1.2/series/{}/thumbnail"),
        *("/studies/1.2/series/1.2/instances/{}", "/workitems/{}", "/studies/{}/rendered", "/ws/subscribers/{}"),
        *(f"{attacked.place}/{end}/{{}}" for end in ("frames", "bulkdata", "frames/1/rendered")),
    ):
        assert attacked.get(path.format(evil)).status_code in (400, 404, 405), path


@pytest.mark.parametrize(
    "frames", ["0", "-1", ",".join(["1"] * 10_001), "9" * 21, "1,", "a", "1.0", "٣", "1,0", "9" * 9]
)
def test_frames_are_counted_from_one(attacked: Attacked, frames: str) -> None:
    for end in ("", "/rendered", "/thumbnail"):
        answer = attacked.get(f"{attacked.place}/frames/{frames}{end}")
        assert answer.status_code in (400, 404)
        if answer.status_code == 400:
            assert answer.json()["parameters"][0]["parameter"] == "frames"


@pytest.mark.parametrize(
    "query",
    [
        *("0,0", "-1,-1", "1e9,1e9", "NaN,NaN", "inf,inf", "1,1,1,1,1,1,1", "65536,65536", "10,10,0,0,0,0", "1," * 999),
        *(
            "10,10,0,0,1e308,1e308",
            "10,10,1e308,1e308,1,1",
            "10,10,0,0,1e-300,1e-300",
            "10,10,,,,",
            "10,10,-5,-5,-5,-5",
        ),
    ],
)
def test_viewports_beyond_measure(attacked: Attacked, query: str) -> None:
    for end in ("rendered", "thumbnail"):
        answer = attacked.get(f"{attacked.place}/{end}?viewport={query}")
        assert answer.status_code in (200, 400)
        if answer.status_code == 400:
            assert answer.json()["parameters"][0]["parameter"] == "viewport"


@pytest.mark.parametrize("parameter", ["window", "quality", "annotation", "iccprofile"])
def test_wishes_that_are_none(attacked: Attacked, parameter: str) -> None:
    for value in (
        "",
        "NaN",
        "NaN,NaN,linear",
        "1e308,1e-300,sigmoid",
        "inf,1,linear",
        "0",
        "-1",
        "101",
        "x" * 999,
        "%00",
    ):
        answer = attacked.get(f"{attacked.place}/rendered?{parameter}={value}")
        assert answer.status_code in (200, 400)
        if answer.status_code == 400:
            assert answer.json()["parameters"][0]["parameter"] == parameter


# -- headers

ACCEPTS = (
    *(
        ",".join(f"a/b;q=0.{n}" for n in range(100)),
        f'{DICOM_JSON};x="{"a" * 8_000}',
        "*/*;q=NaN",
        "*/*;q=inf",
        "*/*;q=-1",
    ),
    *(
        "multipart/related",
        'multipart/related;type="',
        "multipart/related; type=multipart/related",
        "x",
        "*/",
        ",,,",
        '"',
    ),
    *("a/b/c", "application/dicom;transfer-syntax=" + "1." * 3_000, "*/*;q=0", "a" * 9_000, 'a/b; c="\\'),
)


@pytest.mark.parametrize("accept", ACCEPTS)
def test_no_accept_is_too_much(attacked: Attacked, accept: str) -> None:
    ends = ("", "/metadata", "/frames/1", "/rendered", "/thumbnail", "/bulkdata", "/bulkdata/7FE00010", "/pixeldata")
    for path in ("/studies", "/workitems", *(attacked.place + end for end in ends)):
        attacked.get(path, accept=accept)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        *(("bytes=-", 200), ("bytes=5-1", 200), ("bytes=9999999999-", 416), ("bytes=-0", 416), ("bytes=a-b", 200)),
        *(
            (f"bytes={','.join(f'{n}-{n}' for n in range(1_000))}", 200),
            ("bytes=0-" + "9" * 19, 206),
            ("items=0-1", 200),
        ),
        ("bytes=-" + "9" * 19, 206),
    ],
)
def test_ranges_past_the_end_or_of_no_sense(attacked: Attacked, asked: str, status: int) -> None:
    octets = attacked.get(f"{attacked.place}/bulkdata/7FE00010", accept="application/octet-stream", range=asked)
    file = attacked.get(attacked.place, accept="application/dicom; transfer-syntax=*", range=asked)
    assert {octets.status_code, file.status_code} == {status}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "FOO", "CONNECT"])
def test_methods_that_are_not_there(attacked: Attacked, method: str) -> None:
    for path in ("/studies", attacked.place, "/workitems"):
        assert attacked.ask(method, path).status_code == 405
