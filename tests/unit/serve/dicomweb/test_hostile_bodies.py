"""Bodies that no honest client sends, and what readers make of instances that somebody damaged: never a 5xx.

Seeded, so that what fails fails again. `IMAGING_AI_TEST_REQUESTS` is how many random bodies are sent.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import storing
from attacked import DICOM_JSON, Attacked, attack
from imaging_ai.archive.gate import scan
from mutants import load, mutant

REQUESTS = int(os.environ.get("IMAGING_AI_TEST_REQUESTS", "400"))
XML = "application/dicom+xml"
NATIVE = '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">{}</NativeDicomModel>'
UIDS = {
    "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]},
    "00080018": {"vr": "UI", "Value": ["1.2.3.4"]},
    "0020000D": {"vr": "UI", "Value": ["1.2.3"]},
    "0020000E": {"vr": "UI", "Value": ["1.2.3.5"]},
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with attack(tmp_path_factory.mktemp("attacked")) as attacked:
        yield attacked


@pytest.fixture(autouse=True)
def _no_mistake_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.ERROR)
    yield
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []


# -- bodies

SEQUENCE = '{"00400275":{"vr":"SQ","Value":['
DOCUMENTS: dict[str, bytes] = {
    "arrays in arrays": b"[" * 100_000 + b"]" * 100_000,
    "objects in objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "an array without end": b"[" * 1_000_000,
    "sequences in sequences": (SEQUENCE * 900 + "{}" + "]}}" * 900).encode(),
    "a number of 100,000 digits": b'[{"00280010":{"vr":"US","Value":[' + b"9" * 100_000 + b"]}}]",
    "a number beyond all": b'[{"00280010":{"vr":"DS","Value":[1e400]}}]',
    "NaN": b'[{"00280010":{"vr":"FD","Value":[NaN]}}]',
    "one key twice": b'[{"00280010":{"vr":"US","Value":[1]},"00280010":{"vr":"US","Value":[2]}}]',
    "half a surrogate": b'[{"00100010":{"vr":"PN","Value":[{"Alphabetic":"\\ud800"}]}}]',
    "a NUL": b'[{"00100020":{"vr":"LO","Value":["\\u0000"]}}]',
    "no UTF-8": b'[{"\xff":1}]',
    "UTF-16": "[{}]".encode("utf-16"),
    "nothing": b"",
    "null": b"null",
    "a number": b"1",
    "arrays": b"[[]]",
    "100,000 keys": json.dumps([{str(number): number for number in range(100_000)}]).encode(),
    "a VR that is a list": b'[{"00280010":{"vr":[],"Value":[1]}}]',
}
ENTITIES = "".join(f'<!ENTITY {chr(98 + n)} "{(f"&{chr(97 + n)};") * 10}">' for n in range(9))
NESTED = '<DicomAttribute tag="00400275" vr="SQ"><Item number="1">'
FAR = "".join(f'<Value number="{number * 9_999 + 1}">x</Value>' for number in range(1, 3_000))
XMLS = {
    "a bomb of entities": f'<!DOCTYPE l [<!ENTITY a "aaaa">{ENTITIES}]>' + NATIVE.format("&j;"),
    "a file of this machine": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + NATIVE.format("&x;"),
    "a DTD from elsewhere": '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x">' + NATIVE.format(""),
    "elements in elements": "<a>" * 100_000,
    "items in items": NATIVE.partition("{}")[0] + NESTED * 5_000,
    "100,000 attributes": "<NativeDicomModel " + " ".join(f"a{n}='1'" for n in range(100_000)) + "/>",
    "numbers far apart": NATIVE.format(f'<DicomAttribute tag="00100010" vr="LO">{FAR}</DicomAttribute>'),
    "an encoding of nobody": '<?xml version="1.0" encoding="nonsense"?><a/>',
    "an encoding of many bytes": '<?xml version="1.0" encoding="shift_jis"?><a/>',
    "an encoding that is no encoding": '<?xml version="1.0" encoding="rot13"?><a/>',
    "bulk data of this machine": NATIVE.format(
        '<DicomAttribute tag="7FE00010" vr="OW"><BulkData uri="file:///etc/passwd"/></DicomAttribute>'
    ),
    "nothing": "",
}
BODIES = [(DICOM_JSON, name, data) for name, data in DOCUMENTS.items()]
BODIES += [(XML, name, text.encode()) for name, text in XMLS.items()]


@pytest.mark.parametrize(
    ("media_type", "name", "data"), BODIES, ids=[f"{kind[-4:]}-{name}" for kind, name, _ in BODIES]
)
def test_documents_that_are_no_data_sets(attacked: Attacked, media_type: str, name: str, data: bytes) -> None:
    before = attacked.instances
    parts = storing.multipart([({"Content-Type": media_type}, data)])
    for answer in (
        attacked.ask("POST", "/studies", data, content_type=media_type),
        attacked.ask("POST", "/studies", parts, content_type=storing.content_type(media_type)),
        attacked.ask("POST", "/workitems", data, content_type=media_type),
        attacked.ask("POST", "/workitems/1.2.3", data, content_type=media_type),
        attacked.ask("PUT", "/workitems/1.2.3/state", data, content_type=media_type),
        attacked.ask("POST", "/workitems/1.2.3/cancelrequest", data, content_type=media_type),
    ):
        assert 400 <= answer.status_code < 500, (name, answer.request.url)
    assert attacked.instances == before


def test_any_field_of_metadata_or_of_a_work_item_may_be_wrong(attacked: Attacked) -> None:
    rng = random.Random(5)
    before, stored = attacked.instances, set()
    for number in range(REQUESTS):
        data_set = spoiled(rng)
        body = json.dumps([data_set]).encode()
        answer = attacked.ask("POST", "/studies", body, content_type=DICOM_JSON)
        stored |= {one["00081155"]["Value"][0] for one in answer.json().get("00081199", {}).get("Value", ())}
        item = json.dumps([{key: value for key, value in data_set.items() if key not in UIDS}]).encode()
        uid = f"1.2.77.{number % 9}"
        method, path = rng.choice(
            (
                ("POST", f"/workitems?workitem={uid}"),
                ("POST", f"/workitems/{uid}?transaction-uid=1.2"),
                ("PUT", f"/workitems/{uid}/state"),
                ("POST", f"/workitems/{uid}/cancelrequest"),
            )
        )
        attacked.ask(method, path, item, content_type=DICOM_JSON)
    assert attacked.instances == before + len(stored)


KEYS = (
    *(
        *UIDS,
        "00100010",
        "00100020",
        "00280010",
        "7FE00010",
        "00400275",
        "00741000",
        "00741200",
        "00741204",
        "00404021",
    ),
    *("00081195", "00404005", "00404018", "00404041", "00081080", "00741002", "00741224", "00404025", "00741216"),
    *("00404035", "00404033", "00091001", "00090010", "FFFEE000", "00020010", "00000000", "nonsense", "", "0010,0010"),
)
VRS: tuple[Any, ...] = (
    "SQ",
    "UI",
    "PN",
    "DS",
    "IS",
    "US",
    "OB",
    "OW",
    "UN",
    "AT",
    "FD",
    "SV",
    "UR",
    "LT",
    "XX",
    "",
    None,
    1,
    [],
    {},
)
FIELDS: tuple[Any, ...] = (
    *(None, 1, -1, 1.5, 10**30, "", "x", "\0", "é", "x" * 70_000, [], {}, [None], [[]], [{}], {"Alphabetic": 1}, True),
    *("1.2.3", "NaN", 1e308, [1] * 10, {"vr": "SQ", "Value": [{}]}),
)


def spoiled(rng: random.Random) -> dict[str, Any]:
    """A data set in DICOM DICOM_JSON with up to three elements of nonsense."""
    data_set: dict[str, Any] = copy.deepcopy(UIDS) | {
        "00404041": {"vr": "CS", "Value": ["READY"]},
        "00741000": {"vr": "CS", "Value": ["SCHEDULED"]},
        "00741200": {"vr": "CS", "Value": ["MEDIUM"]},
        "00741204": {"vr": "LO", "Value": ["label"]},
        "00404005": {"vr": "DT", "Value": ["20200101"]},
    }
    for _ in range(rng.randint(1, 3)):
        key, value = rng.choice(KEYS), rng.choice(FIELDS)
        element: Any = {"vr": rng.choice(VRS)}
        element[rng.choice(("Value", "Value", "Value", "BulkDataURI", "InlineBinary"))] = rng.choice(([value], value))
        data_set[key] = rng.choice((element, element, element, element, None, 1, [], "x"))
    return data_set


# -- what is stored may be hostile too


def test_readers_of_damaged_instances_get_an_answer(attacked: Attacked, real_data: Path) -> None:
    files = load(real_data / "syntaxes", 200_000)
    taken = 0
    for seed in range(10_000, 10_000 + REQUESTS // 20):
        name, data = mutant(files, seed)
        answer = attacked.ask("POST", "/studies", data, content_type="application/dicom")
        if answer.status_code != 200:
            continue
        taken += 1
        header = scan(data)
        place = f"/studies/{header.study_instance_uid}/series/{header.series_instance_uid}"
        place += f"/instances/{header.sop_instance_uid}"
        for end in ("", "/metadata", "/frames/1", "/rendered", "/thumbnail", "/bulkdata", "/pixeldata"):
            assert attacked.get(place + end, accept="*/*").status_code in (200, 404, 406, 413), (name, end)
    assert taken
