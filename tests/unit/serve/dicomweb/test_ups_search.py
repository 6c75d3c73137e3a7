"""Searching the worklist: matching, what is returned, pages, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ledgers
from imaging_ai.core.job import Priority
from imaging_ai.db.tables import StudyRow
from imaging_ai.queue.workitem_elements import code, elements, tag
from imaging_ai.serve.dicomweb.parts import Limits
from services.worklist import Worklist, make_parts, open_worklist


@pytest.fixture
def worklist(tmp_path: Path) -> Iterator[Worklist]:
    database = ledgers.open_database(ledgers.sqlite_url(tmp_path))
    with open_worklist(make_parts(database, tmp_path, limits=Limits(results=5, examined=100))) as worklist:
        yield worklist
    database.dispose()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worklist]:
    """Two items of clients and one job, which tests only look at."""
    folder = tmp_path_factory.mktemp("filled")
    database = ledgers.open_database(ledgers.sqlite_url(folder))
    with open_worklist(make_parts(database, folder)) as worklist:
        fill(worklist)
        yield worklist
    database.dispose()


def fill(worklist: Worklist) -> None:
    worklist.create(
        "2.25.1",
        StudyInstanceUID="1.2.1",
        ScheduledStationNameCodeSequence=[code("CT1", "99TEST", "CT 1"), code("CT2", "99TEST", "CT 2")],
        ScheduledProcedureStepStartDateTime="20260301080000",
        ScheduledProcedureStepPriority="HIGH",
    )
    worklist.create(
        "2.25.2",
        PatientName="Roe^Richard",
        PatientID="4712",
        WorklistLabel="Night",
        ScheduledProcedureStepStartDateTime="20260302230000-0100",
    )
    with worklist.parts.database.write() as session:
        session.add(
            StudyRow(
                study_instance_uid="1.2.3", patient_name="Poe^Edgar", patient_id="9", created_at=0.0, updated_at=0.0
            )
        )
    ledgers.schedule(worklist.ledger, study_instance_uid="1.2.3", model="liver", priority=Priority.LOW)


def found(worklist: Worklist, query: str) -> set[str]:
    """The last figures of the UIDs that a search finds, "job" for that of the job."""
    job = worklist.ledger.find()[0].job_uid
    return {"job" if uid == job else uid[5:] for uid in worklist.search(query)}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"1", "2", "job"}),
        ("ProcedureStepState=SCHEDULED", {"1", "2", "job"}),
        ("00741000=SCHEDULED", {"1", "2", "job"}),
        ("ProcedureStepState=COMPLETED", set()),
        ("ScheduledProcedureStepPriority=HIGH", {"1"}),
        ("ScheduledProcedureStepPriority=LOW", {"job"}),
        ("ScheduledProcedureStepPriority=URGENT", set()),
        ("SOPInstanceUID=2.25.1,2.25.2", {"1", "2"}),
        ("StudyInstanceUID=1.2.1", {"1"}),
        ("StudyInstanceUID=1.2.3", {"job"}),
        ("PatientName=doe*", {"1"}),
        ("PatientName=*OE^*", {"1", "2", "job"}),
        ("PatientName=?oe^edgar", {"job"}),
        ("PatientName=doe", set()),
        ("PatientID=4712", {"2"}),
        ("WorklistLabel=Night", {"2"}),
        ("WorklistLabel=night", set()),
        ("WorklistLabel=", {"1", "2", "job"}),
        ("ScheduledStationNameCodeSequence.CodeValue=CT2", {"1"}),
        ("00404025.00080100=CT*", {"1"}),
        ("ScheduledStationNameCodeSequence.CodeValue=IMAGINGAI", {"job"}),
        ("ScheduledWorkitemCodeSequence.CodeValue=liver", {"job"}),
        ("ScheduledProcedureStepStartDateTime=20260301", {"1"}),
        ("ScheduledProcedureStepStartDateTime=20260303", {"2"}),
        ("ScheduledProcedureStepStartDateTime=20260301-20260303", {"1", "2"}),
        ("ScheduledProcedureStepStartDateTime=-20260302", {"1"}),
        ("ScheduledProcedureStepStartDateTime=20260302-", {"2", "job"}),
        ("PatientName=doe*&ScheduledProcedureStepPriority=HIGH", {"1"}),
        ("PatientName=roe*&ScheduledProcedureStepPriority=HIGH", set()),
        ("Nonsense=1", {"1", "2", "job"}),
        ("99999999=1", {"1", "2", "job"}),
    ],
)
def test_a_search_finds_what_matches(filled: Worklist, query: str, expected: set[str]) -> None:
    assert found(filled, query) == expected


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("ScheduledProcedureStepStartDateTime=soon", "ScheduledProcedureStepStartDateTime"),
        ("ScheduledProcedureStepStartDateTime=20261340", "ScheduledProcedureStepStartDateTime"),
        ("StudyInstanceUID=1.2.x", "StudyInstanceUID"),
        ("SOPInstanceUID=' OR 1=1", "SOPInstanceUID"),
        ("ScheduledStationNameCodeSequence=CT1", "ScheduledStationNameCodeSequence"),
        ("WorklistLabel.CodeValue=x", "WorklistLabel.CodeValue"),
        ("limit=ten", "limit"),
        ("limit=-1", "limit"),
        ("offset=1e3", "offset"),
        ("limit=99999999999999999999", "limit"),
        ("PatientID=" + "x" * 2000, "PatientID"),
    ],
)
def test_a_value_that_cannot_be_taken_is_named(worklist: Worklist, query: str, parameter: str) -> None:
    answer = worklist.send("GET", f"/workitems?{query}")
    assert answer.status_code == 400
    assert answer.json()["parameters"][0]["parameter"] == parameter


def test_nothing_found_is_an_empty_list(worklist: Worklist) -> None:
    answer = worklist.send("GET", "/workitems?PatientID=nobody")
    assert (answer.status_code, answer.json()) == (200, [])


def test_pages_are_stable_disjoint_and_say_how_much_is_left(worklist: Worklist) -> None:
    made = [worklist.create() for _ in range(4)]
    for _ in range(4):
        ledgers.schedule(worklist.ledger)
    seen: list[str] = []
    for offset, left in ((0, 5), (3, 2), (6, 0)):
        answer = worklist.send("GET", f"/workitems?limit=3&offset={offset}")
        warning = answer.headers.get("warning", "")
        assert (f"There are {left} additional results that can be requested" in warning) == bool(left)
        seen += [dataset[tag("SOPInstanceUID")]["Value"][0] for dataset in answer.json()]
    assert len(seen) == len(set(seen)) == 8
    assert set(made) <= set(seen)
    assert seen == worklist.search("limit=5") + worklist.search("limit=5&offset=5")
    assert worklist.search("offset=50") == worklist.search("limit=0") == []


def test_pages_are_the_same_when_data_sets_have_to_be_looked_into(worklist: Worklist) -> None:
    made = [worklist.create(PatientID="a") for _ in range(4)]
    worklist.create(PatientID="b")
    answer = worklist.send("GET", "/workitems?PatientID=a&limit=3")
    assert "There are 1 additional results" in answer.headers["warning"]
    assert worklist.search("PatientID=a&limit=3") + worklist.search("PatientID=a&limit=3&offset=3") == made[::-1]


def test_a_limit_beyond_the_largest_gives_the_largest_and_says_so(worklist: Worklist) -> None:
    for _ in range(7):
        worklist.create()
    answer = worklist.send("GET", "/workitems?limit=1000")
    assert len(answer.json()) == 5
    assert "There are 2 additional results" in answer.headers["warning"]


def test_a_search_that_would_look_into_too_many_is_refused(worklist: Worklist) -> None:
    with worklist.ledger.database.write() as session:
        for _ in range(110):
            worklist.ledger.schedule(session, ledgers.request())
    assert worklist.send("GET", "/workitems?PatientID=x").status_code == 413
    assert worklist.send("GET", "/workitems?PatientID=x&StudyInstanceUID=1.2").status_code == 200


def test_fuzzy_matching_is_not_done_and_that_is_said(worklist: Worklist) -> None:
    answer = worklist.send("GET", "/workitems?fuzzymatching=true")
    assert "Only literal matching has been performed." in answer.headers["warning"]


def test_lists_of_instances_are_returned_when_asked_for(worklist: Worklist) -> None:
    inputs = [elements(StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1")]
    worklist.create("2.25.1", InputInformationSequence=inputs)
    (usual,) = worklist.send("GET", "/workitems").json()
    assert tag("InputInformationSequence") not in usual
    assert tag("ProcedureStepState") in usual
    for query in ("includefield=InputInformationSequence", "includefield=00741204,00404021", "includefield=all"):
        (more,) = worklist.send("GET", f"/workitems?{query}").json()
        assert more[tag("InputInformationSequence")]["Value"] == inputs


def test_results_can_be_had_as_xml_one_part_for_each(worklist: Worklist) -> None:
    worklist.create()
    worklist.create()
    kind = 'multipart/related; type="application/dicom+xml"'
    answer = worklist.send("GET", "/workitems", headers={"accept": kind})
    assert answer.headers["content-type"].startswith(kind)
    assert answer.content.count(b"<NativeDicomModel") == 2
    assert worklist.send("GET", "/workitems", headers={"accept": "image/tiff"}).status_code == 406


def test_a_pattern_made_to_take_forever_does_not(worklist: Worklist) -> None:
    worklist.create(PatientName="a" * 60)
    assert worklist.search("PatientName=" + "*a" * 300 + "b") == []
