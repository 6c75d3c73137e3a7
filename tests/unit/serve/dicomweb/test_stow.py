"""STOW-RS: what is stored, what is refused, and what the answer says of each instance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from sqlalchemy import select
from sqlmodel import SQLModel

import phantoms
import storing
from imaging_ai.archive.find import SERIES
from imaging_ai.core.identity import new_uid
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AuditEventRow
from imaging_ai.errors import DatabaseUnavailable, StorageUnavailable
from imaging_ai.serve.dicomweb.native import from_xml
from imaging_ai.serve.dicomweb.parts import Limits, Parts
from storing import content_type, ct, instance, post, reasons, uids

FAILED, REFERENCED, OTHER, URL = "00081198", "00081199", "0008119A", "00081190"
AUDIT = AuditEventRow.metadata.tables["audit_event"]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'index.db'}")
    SQLModel.metadata.create_all(opened.engine)
    yield opened
    opened.dispose()


@pytest.fixture
def parts(database: Database, tmp_path: Path) -> Iterator[Parts]:
    made = storing.make_parts(database, tmp_path)
    yield made
    made.archive.close()


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient[Litestar]]:
    with storing.web(parts) as client:
        yield client


def stored(parts: Parts) -> dict[str, bytes]:
    """Everything that is stored, by SOP Instance UID."""
    with parts.database.read() as session:
        series = session.connection().scalars(select(SERIES.c.series_instance_uid)).all()
    return {one.sop_instance_uid: parts.archive.read(one) for uid in series for one in parts.archive.instances(uid)}


def live_bytes(parts: Parts) -> int:
    """Bytes in the storage that are not erased: what a row names, and what was left behind."""
    from imaging_ai.archive.log import records

    root = parts.archive.store.root  # type: ignore[attr-defined]
    logs = sum(one.length for path in (root / "logs").rglob("*.log") for one in records(path))
    return logs + sum(path.stat().st_size for path in (root / "objects").rglob("*.dcm"))


def files(count: int = 1, name: str = "stow") -> dict[str, bytes]:
    return {ds.SOPInstanceUID: phantoms.to_bytes(ds) for ds in ct(count, name)}


# -- success


def test_all_good_is_200_with_an_item_for_each_instance(client: TestClient[Litestar], parts: Parts) -> None:
    sent = files(3)
    answer = post(client, map(instance, sent.values()))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert uids(answer, REFERENCED) == list(sent)
    assert FAILED not in answer.json() and OTHER not in answer.json()
    assert stored(parts) == sent, "what is stored are the very bytes that came: nothing was coerced"


def test_the_urls_of_the_answer_lead_to_study_and_instances(client: TestClient[Litestar]) -> None:
    (ds,) = ct()
    answer = post(client, [instance(phantoms.to_bytes(ds))]).json()
    study = f"http://server.local:8080/dicom-web/studies/{ds.StudyInstanceUID}"
    assert answer[URL] == {"vr": "UR", "Value": [study]}
    (item,) = answer[REFERENCED]["Value"]
    assert item[URL]["Value"] == [f"{study}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"]
    assert item["00081150"]["Value"] == [ds.SOPClassUID]


def test_the_urls_are_those_that_clients_see(parts: Parts) -> None:
    with storing.web(parts, public_url="https://pacs.example/imaging") as client:
        answer = post(client, map(instance, files().values())).json()
    assert answer[URL]["Value"][0].startswith("https://pacs.example/imaging/dicom-web/studies/")


def test_several_studies_have_no_url_in_common(client: TestClient[Litestar]) -> None:
    answer = post(client, map(instance, (files(1, "one") | files(1, "two")).values()))
    assert answer.status_code == 200
    assert answer.json()[URL] == {"vr": "UR"}


def test_a_single_part_is_an_instance(client: TestClient[Litestar], parts: Parts) -> None:
    ((uid, data),) = files().items()
    answer = client.post("/dicom-web/studies", content=data, headers={"Content-Type": "application/dicom"})
    assert (answer.status_code, uids(answer, REFERENCED)) == (200, [uid])
    assert stored(parts) == {uid: data}


@pytest.mark.parametrize(
    "said",
    [
        f"multipart/related; type=application/dicom; boundary={storing.BOUNDARY}",
        f'multipart/related; boundary="{storing.BOUNDARY}"; type="application/dicom"; transfer-syntax=*',
        f"Multipart/Related; boundary={storing.BOUNDARY}",
    ],
)
def test_the_content_type_may_be_written_in_any_way(client: TestClient[Litestar], said: str) -> None:
    body = storing.multipart(map(instance, files().values()))
    assert client.post("/dicom-web/studies", content=body, headers={"Content-Type": said}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/dicom", "Content-Length": "12", "Content-Disposition": "attachment"},
        {"Content-Type": "application/octet-stream"},
        {"content-type": 'application/dicom; transfer-syntax="1.2.840.10008.1.2.1"', "Content-ID": "<1>"},
    ],
)
def test_parts_may_have_any_headers_or_none(client: TestClient[Litestar], headers: dict[str, str]) -> None:
    ((uid, data),) = files().items()
    assert uids(post(client, [(headers, data)]), REFERENCED) == [uid]


def test_a_body_of_unknown_length_is_stored(client: TestClient[Litestar], parts: Parts) -> None:
    sent = files(4)
    body = storing.multipart(map(instance, sent.values()))
    pieces = (body[start : start + 1_000] for start in range(0, len(body), 1_000))
    answer = client.post("/dicom-web/studies", content=pieces, headers={"Content-Type": content_type()})
    assert answer.status_code == 200
    assert stored(parts) == sent


def test_the_answer_can_be_xml(client: TestClient[Litestar]) -> None:
    ((uid, data),) = files().items()
    answer = post(client, [instance(data)], Accept="application/dicom+xml")
    assert answer.headers["content-type"] == "application/dicom+xml"
    (item,) = from_xml(answer.content)[REFERENCED]["Value"]
    assert item["00081155"]["Value"] == [uid]


def test_the_same_request_twice_is_one_copy(client: TestClient[Litestar], parts: Parts) -> None:
    sent = files(3)
    first, second = (post(client, map(instance, sent.values())) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.json() == first.json()
    assert stored(parts) == sent
    assert live_bytes(parts) == sum(map(len, sent.values()))


def test_the_same_instance_twice_in_one_request_is_one_copy(client: TestClient[Litestar], parts: Parts) -> None:
    ((uid, data),) = files().items()
    answer = post(client, [instance(data), instance(data)])
    assert (answer.status_code, uids(answer, REFERENCED)) == (200, [uid, uid])
    assert live_bytes(parts) == len(data)


def test_a_large_instance_is_stored_too(client: TestClient[Litestar], parts: Parts) -> None:
    (ds,) = ct()
    ds.add_new(0x7FE10010, "LO", "a private block")
    ds.add_new(0x7FE11001, "OB", bytes(3 << 20))
    data = phantoms.to_bytes(ds)
    assert post(client, [instance(data)]).status_code == 200
    assert stored(parts) == {ds.SOPInstanceUID: data}


# -- some fail


def test_an_instance_of_another_study_is_not_stored_and_listed_with_its_reason(
    client: TestClient[Litestar], parts: Parts
) -> None:
    ours, others = files(1, "ours"), files(1, "others")
    study = ct(1, "ours")[0].StudyInstanceUID
    answer = post(client, map(instance, (ours | others).values()), study)
    assert answer.status_code == 202
    assert (uids(answer, REFERENCED), uids(answer, FAILED)) == (list(ours), list(others))
    assert reasons(answer) == [0xA900]
    assert stored(parts) == ours


def test_good_parts_beside_one_that_cannot_be_understood_are_stored(client: TestClient[Litestar], parts: Parts) -> None:
    sent = files(2)
    noise = [b"no instance" * 100, b"", b"\0" * 128 + b"DICM" + b"\xff" * 64]
    answer = post(client, [*map(instance, noise), *map(instance, sent.values())])
    assert (answer.status_code, uids(answer, REFERENCED)) == (202, list(sent))
    assert reasons(answer, OTHER) == [0xC000, 0xC000, 0xC000]
    assert FAILED not in answer.json()
    assert stored(parts) == sent


def test_an_unknown_sop_class_fails_alone(client: TestClient[Litestar], parts: Parts) -> None:
    first, second = ct(2)
    second.SOPClassUID = second.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.1"
    answer = post(client, [instance(phantoms.to_bytes(ds)) for ds in (first, second)])
    assert (answer.status_code, uids(answer, FAILED), reasons(answer)) == (202, [second.SOPInstanceUID], [0x0122])
    assert list(stored(parts)) == [first.SOPInstanceUID]


def test_an_unknown_transfer_syntax_fails_alone(client: TestClient[Litestar]) -> None:
    (ds,) = ct()
    data = phantoms.to_bytes(ds).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0")
    answer = post(client, [instance(data)])
    assert (answer.status_code, reasons(answer)) == (409, [0xC122])


def test_other_content_under_a_known_uid_is_refused_and_the_first_stays(
    client: TestClient[Litestar], parts: Parts
) -> None:
    (ds,) = ct()
    data = phantoms.to_bytes(ds)
    post(client, [instance(data)])
    ds.PatientComments = "changed"
    answer = post(client, [instance(phantoms.to_bytes(ds))])
    assert (answer.status_code, uids(answer, FAILED), reasons(answer)) == (409, [ds.SOPInstanceUID], [0x0111])
    assert stored(parts) == {ds.SOPInstanceUID: data}


def test_other_content_replaces_the_first_where_the_policy_says_so(database: Database, tmp_path: Path) -> None:
    parts = storing.make_parts(database, tmp_path, conflict="replace")
    (ds,) = ct()
    with storing.web(parts) as client:
        post(client, [instance(phantoms.to_bytes(ds))])
        ds.PatientComments = "changed"
        answer = post(client, [instance(phantoms.to_bytes(ds))])
    assert (answer.status_code, uids(answer, REFERENCED)) == (200, [ds.SOPInstanceUID])
    assert stored(parts) == {ds.SOPInstanceUID: phantoms.to_bytes(ds)}
    parts.archive.close()


def test_none_stored_is_409_with_the_reasons(client: TestClient[Litestar], parts: Parts) -> None:
    answer = post(client, map(instance, files(2).values()), new_uid())
    assert (answer.status_code, reasons(answer)) == (409, [0xA900, 0xA900])
    assert (stored(parts), live_bytes(parts)) == ({}, 0)


# -- requests that are refused as a whole


@pytest.mark.parametrize("said", ["text/plain", "", "multipart/form-data; boundary=b", "image/jpeg", "nonsense"])
def test_other_bodies_are_415(client: TestClient[Litestar], said: str) -> None:
    answer = client.post("/dicom-web/studies", content=b"x", headers={"Content-Type": said} if said else {})
    assert answer.status_code == (400 if said == "nonsense" else 415)


def test_a_multipart_of_other_things_is_415(client: TestClient[Litestar]) -> None:
    assert post(client, [({}, b"x")], of_type="text/plain").status_code == 415


def test_a_compressed_body_is_415(client: TestClient[Litestar]) -> None:
    assert post(client, map(instance, files().values()), Content_Encoding="gzip").status_code == 415


def test_an_answer_that_cannot_be_given_is_406_before_anything_is_stored(
    client: TestClient[Litestar], parts: Parts
) -> None:
    answer = post(client, map(instance, files().values()), Accept="image/tiff")
    assert answer.status_code == 406
    assert "application/dicom+json" in answer.json()["detail"]
    assert stored(parts) == {}


def test_a_study_that_is_no_uid_is_400(client: TestClient[Litestar]) -> None:
    answer = post(client, map(instance, files().values()), "1.2.x")
    assert (answer.status_code, answer.json()["parameters"][0]["parameter"]) == (400, "study")


@pytest.mark.parametrize("body", [b"", f"--{storing.BOUNDARY}--".encode()])
def test_an_empty_body_is_400(client: TestClient[Litestar], body: bytes) -> None:
    answer = client.post("/dicom-web/studies", content=body, headers={"Content-Type": content_type()})
    assert answer.status_code == 400
    answer = client.post("/dicom-web/studies", content=b"", headers={"Content-Type": "application/dicom"})
    assert answer.status_code == 400


def test_of_a_malformed_body_nothing_is_stored(client: TestClient[Litestar], parts: Parts) -> None:
    """Not even the instances that were whole before the break."""
    body = storing.multipart(map(instance, files(3).values()))
    for broken in (body[:-20], body[: len(body) // 2], body.replace(b"Content-Type:", b"Content-Type"), b"x" * 100):
        answer = client.post("/dicom-web/studies", content=broken, headers={"Content-Type": content_type()})
        assert answer.status_code == 400
        assert (stored(parts), live_bytes(parts)) == ({}, 0)


def test_no_boundary_is_400(client: TestClient[Litestar]) -> None:
    body = storing.multipart(map(instance, files().values()))
    said = 'multipart/related; type="application/dicom"'
    answer = client.post("/dicom-web/studies", content=body, headers={"Content-Type": said})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-multipart")


@pytest.mark.parametrize(
    "limits",
    [Limits(request_bytes=1_000), Limits(object_bytes=1_000), Limits(request_parts=2), Limits(metadata_bytes=9)],
)
@pytest.mark.parametrize("chunked", [True, False])
def test_what_is_over_a_limit_is_413_and_nothing_is_stored(
    database: Database, tmp_path: Path, limits: Limits, chunked: bool
) -> None:
    parts = storing.make_parts(database, tmp_path, limits=limits)
    metadata = ({"Content-Type": "application/dicom+json"}, json.dumps([{"00080018": {"vr": "UI"}}]).encode())
    body = storing.multipart([*map(instance, files(2).values()), metadata])
    content = (body[start : start + 512] for start in range(0, len(body), 512)) if chunked else body
    with storing.web(parts) as client:
        answer = client.post("/dicom-web/studies", content=content, headers={"Content-Type": content_type()})
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
    assert (stored(parts), live_bytes(parts)) == ({}, 0)
    parts.archive.close()


# -- when the server cannot


def test_a_full_storage_is_503_and_says_when_to_try_again(
    client: TestClient[Litestar], parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(size_hint: int | None = None) -> None:
        raise StorageUnavailable("the storage folder is full")

    monkeypatch.setattr(parts.archive.store, "begin", full)
    answer = post(client, map(instance, files().values()))
    assert (answer.status_code, answer.json()["code"]) == (503, "storage-unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_a_database_that_is_away_is_503_and_nothing_stays(
    client: TestClient[Litestar], parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_arrivals: object) -> None:
        raise DatabaseUnavailable("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(parts.archive._index, "insert", away)
        answer = post(client, map(instance, files(3).values()))
    assert answer.status_code == 503 and "retry-after" in answer.headers
    assert live_bytes(parts) == 0
    assert post(client, map(instance, files(3).values())).status_code == 200


def test_one_instance_that_cannot_be_indexed_does_not_fail_the_others(
    client: TestClient[Litestar], parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = files(3)
    bad = list(sent)[1]
    insert = parts.archive._index.insert

    def picky(arrivals: list[object]) -> None:
        if any(one.header.sop_instance_uid == bad for one in arrivals):  # type: ignore[attr-defined]
            raise ValueError("cannot be indexed")
        insert(arrivals)  # type: ignore[arg-type]

    monkeypatch.setattr(parts.archive._index, "insert", picky)
    answer = post(client, map(instance, sent.values()))
    assert (answer.status_code, uids(answer, FAILED), reasons(answer)) == (202, [bad], [0x0110])
    assert sorted(stored(parts)) == sorted(set(sent) - {bad})


# -- what happens in the house


def test_the_series_of_a_request_settle_as_after_an_association(client: TestClient[Litestar], parts: Parts) -> None:
    rung: list[str] = []
    parts.doorbell.ring = rung.append  # type: ignore[method-assign]
    post(client, map(instance, files(2).values()))
    with parts.database.read() as session:
        (series,) = session.connection().execute(select(SERIES)).all()
        audit = [(row.action, row.detail) for row in session.connection().execute(select(AUDIT).order_by(AUDIT.c.id))]
    assert (series.state, series.instance_count) == ("RECEIVING", 2)
    assert series.settle_at - series.last_received_at < 5, "the quiet time, not the silence"
    assert rung == ["route"]
    assert audit == [("begin-transferring-instances", "stow"), ("instances-transferred", "stow: 2 instances")]


def test_what_only_failed_wakes_nobody(client: TestClient[Litestar], parts: Parts) -> None:
    rung: list[str] = []
    parts.doorbell.ring = rung.append  # type: ignore[method-assign]
    post(client, [instance(b"nothing")])
    assert rung == []


def test_one_request_is_one_transaction(client: TestClient[Litestar], parts: Parts) -> None:
    batches: list[int] = []
    commit = parts.archive._group._commit

    def counted(arrivals: list[object]) -> None:
        batches.append(len(arrivals))
        commit(arrivals)  # type: ignore[arg-type]

    parts.archive._group._commit = counted  # type: ignore[assignment]
    post(client, map(instance, files(50).values()))
    assert batches == [50]
