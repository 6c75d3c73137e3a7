"""Searching an archive on both databases: the index, documents, levels, pages, and what comes at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence
from sqlmodel import SQLModel

import phantoms
from imaging_ai.archive import gate
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.blobs import FolderStore
from imaging_ai.archive.deletion import delete_instances
from imaging_ai.archive.describer import Describer
from imaging_ai.archive.query import BASE, Page, Search
from imaging_ai.archive.query_attributes import COLUMNS, Level, path_of
from imaging_ai.archive.query_documents import grow, holds
from imaging_ai.archive.query_values import Empty, FuzzyName, Matching, criterion_of
from imaging_ai.core.identity import derive_uid
from imaging_ai.db.engine import Database
from imaging_ai.errors import BadParameterError, TooLarge
from imaging_ai.serve.dicomweb.qido_request import query_of

STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
STUDIES = frozenset({Level.STUDY})
LEVELS = {"patients": Level.PATIENT, "studies": Level.STUDY, "series": Level.SERIES, "instances": Level.INSTANCE}


class Collection:
    """An archive, and searches of it as a client writes them."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.archive = Archive(database, FolderStore(folder / "store", min_free_bytes=0, segment_bytes=4 << 20))
        self.describer = Describer(database, self.archive.store)
        self.search = Search(database, self.describer, examined=20_000)
        self.datasets: list[Dataset] = []

    def keep(self, *datasets: Dataset) -> None:
        for ds in datasets:
            data = phantoms.to_bytes(ds)
            writer = self.archive.begin()
            writer.write(data)
            header = gate.scan(data)
            self.archive.keep(header, writer, source="TEST", origin_address="", door="test")
            self.datasets.append(ds)

    def page(self, resource: str, within: dict[str, str] | None = None, **parameters: str) -> Page:
        level = LEVELS[resource]
        query = query_of(parameters.items(), level, within or {}, frozenset({level}), 1_000)
        return self.search.run(query)

    def find(self, resource: str, within: dict[str, str] | None = None, **parameters: str) -> list[dict[str, Any]]:
        return [json.loads(match.replace(BASE, b"")) for match in self.page(resource, within, **parameters).matches]

    def studies(self, **parameters: str) -> list[str]:
        """The Study IDs of what is found, in its order."""
        return [match["00200010"]["Value"][0] for match in self.find("studies", **parameters)]


def study(number: int, **attributes: Any) -> list[Dataset]:
    """Two CT slices of a study of its own."""
    datasets = phantoms.series(np.zeros((2, 4, 4), np.float32), name=f"query {number}")
    for ds in datasets:
        ds.StudyID = str(number)
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
    return datasets


def another_series(of: list[Dataset], modality: str, number: int, **attributes: Any) -> list[Dataset]:
    """One instance of another series in a study."""
    ds = phantoms.series(np.zeros((1, 4, 4), np.float32), name=f"{of[0].StudyInstanceUID} {number}")[0]
    for keyword in (
        "StudyInstanceUID",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "PatientName",
        "PatientID",
        "AccessionNumber",
    ):
        setattr(ds, keyword, of[0].get(keyword))
    ds.StudyDescription = of[0].StudyDescription
    ds.Modality, ds.SeriesNumber = modality, number
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return [ds]


def request(procedure: str, step: str) -> Dataset:
    ds = Dataset()
    ds.RequestedProcedureID, ds.ScheduledProcedureStepID = procedure, step
    return ds


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)], scope="module")
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('query')}/index.db"
    else:
        url = request.getfixturevalue("postgres_server").new_database()
    opened = Database(url)
    SQLModel.metadata.create_all(opened.engine)
    yield opened
    opened.dispose()


@pytest.fixture(scope="module")
def held(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    collection = Collection(database, tmp_path_factory.mktemp("archive"))
    one = study(
        1,
        PatientName="Doe^John",
        PatientID="P1",
        StudyDate="20240301",
        StudyTime="101500",
        AccessionNumber="A1",
        StudyDescription="Thorax 100%",
        StudyComments="first look",
        TimezoneOffsetFromUTC="+0100",
        RequestAttributesSequence=DicomSequence([request("RP1", "S1"), request("RP2", "S2")]),
        PerformedProcedureStepStartDate="20240301",
    )
    one[0].private_block(0x0099, "ACME", create=True).add_new(1, "LO", "secret of the first")
    one[0].AcquisitionDateTime = "20240301101500+0100"
    collection.keep(*one)
    collection.keep(*another_series(one, "MR", 2, SeriesDescription="t1_post", NumberOfFrames=1))
    collection.keep(*study(2, PatientName="Müller^Änne", PatientID="P2", StudyDate="20240315", StudyTime="2359"))
    collection.keep(*study(3, PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", PatientID="P3", StudyDate="20240401"))
    collection.keep(*study(4, PatientName="Doe^Jane", PatientID="P1", StudyDate="20230101", AccessionNumber=""))
    collection.keep(*study(5, PatientName="", PatientID="P_5", StudyDate="", StudyTime="", StudyDescription="a*b[c]"))
    collection.describer.describe_pending()
    yield collection
    collection.archive.close()


NEWEST_FIRST = ["3", "2", "1", "4", "5"]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, NEWEST_FIRST),
        ({"PatientID": "P1"}, ["1", "4"]),
        ({"00100020": "P1"}, ["1", "4"]),
        ({"PatientID": "p1"}, []),
        ({"PatientID": "P*"}, NEWEST_FIRST),
        ({"PatientID": "P?"}, ["3", "2", "1", "4"]),
        ({"PatientID": "P_5"}, ["5"]),
        ({"PatientID": "P__"}, []),
        ({"PatientID": "*_5"}, ["5"]),
        ({"StudyDescription": "*100%"}, ["1"]),
        ({"StudyDescription": "%"}, []),
        ({"StudyDescription": "*%*"}, ["1"]),
        ({"StudyDescription": "*b[[c]*"}, []),
        ({"StudyDescription": "*b[c]"}, ["5"]),
        ({"StudyDescription": "Thor*100?"}, ["1"]),
        ({"StudyDescription": "' OR 1=1 --"}, []),
        ({"StudyDescription": '*"*'}, []),
        ({"StudyDescription": '*") OR patient_id : ("P*'}, []),
        ({"PatientName": "doe*"}, ["1", "4"]),
        ({"PatientName": "Doe^John"}, ["1"]),
        ({"PatientName": "Doe"}, []),
        ({"PatientName": "*oe^j?n*"}, ["4"]),
        ({"PatientName": "d*n"}, ["1"]),
        ({"PatientName": "MULLER*"}, ["2"]),
        ({"PatientName": "müller^anne"}, ["2"]),
        ({"PatientName": "*n*"}, ["2", "1", "4"]),
        ({"PatientName": "山田*"}, ["3"]),
        ({"PatientName": "=山*"}, ["3"]),
        ({"PatientName": "john doe", "fuzzymatching": "true"}, ["1"]),
        ({"PatientName": "mueller", "fuzzymatching": "true"}, ["2"]),
        ({"PatientName": "j", "fuzzymatching": "true"}, ["1", "4"]),
        ({"PatientName": '""', "emptyvaluematching": "true"}, ["5"]),
        ({"AccessionNumber": '""', "emptyvaluematching": "true"}, ["4"]),
        ({"StudyDate": "20240301-20240331"}, ["2", "1"]),
        ({"StudyDate": "20240315-"}, ["3", "2"]),
        ({"StudyDate": "-20240301"}, ["1", "4"]),
        ({"StudyDate": "20240301"}, ["1"]),
        ({"StudyDate": '""', "emptyvaluematching": "true"}, ["5"]),
        ({"StudyTime": "1000-1100"}, ["1"]),
        ({"StudyTime": "2359"}, ["2"]),
        ({"StudyDate": "20240301-20240315", "StudyTime": "1100-2300"}, []),
        ({"StudyDate": "20240301-20240401", "StudyTime": "1100-1000"}, None),
        ({"StudyDate": "20240301-20240401", "StudyTime": "1016-1200"}, ["3", "2"]),
        ({"ModalitiesInStudy": "MR"}, ["1"]),
        ({"ModalitiesInStudy": "M*"}, ["1"]),
        ({"ModalitiesInStudy": "CT", "StudyDate": "2024*"}, None),
        ({"ModalitiesInStudy": "CT", "StudyDate": "20240301-20240331"}, ["2", "1"]),
        ({"ModalitiesInStudy": "CT", "PatientName": "*doe*"}, ["1", "4"]),
        ({"ModalitiesInStudy": "CT\\MR", "multiplevaluematching": "true"}, ["1"]),
        ({"ModalitiesInStudy": "MR,PT"}, ["1"]),
        ({"Modality": "MR"}, ["1"]),
        ({"Modality": "CT", "SeriesDescription": "t1*"}, []),
        ({"Modality": "MR", "SeriesDescription": "t1*"}, ["1"]),
        ({"SOPClassesInStudy": "1.2.840.10008.5.1.4.1.1.2"}, NEWEST_FIRST),
        ({"NumberOfStudyRelatedInstances": "3"}, ["1"]),
        ({"NumberOfStudyRelatedSeries": "1"}, ["3", "2", "4", "5"]),
        ({"StudyComments": "*look"}, ["1"]),
        ({"StudyComments": "*look", "PatientID": "P2"}, []),
        ({"00991001": "secret*", "00990010": "ACME"}, ["1"]),
        ({"00991001": "secret*", "00990010": "OTHER"}, []),
        ({"limit": "2"}, ["3", "2"]),
        ({"limit": "2", "offset": "2"}, ["1", "4"]),
        ({"limit": "2", "offset": "7"}, []),
        ({"limit": "0"}, []),
        ({"unknown": "x", "Nonsense": "y"}, NEWEST_FIRST),
    ],
)
def test_studies_are_found(held: Collection, parameters: dict[str, str], expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(BadParameterError):
            held.studies(**parameters)
    else:
        assert held.studies(**parameters) == expected


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("PatientName", "d*"),
        ("PatientName", "*a^t*"),
        ("PatientID", "P?"),
        ("PatientBirthDate", "19700101-"),
        ("PatientSex", "O"),
        ("StudyDate", "20240301-20240315"),
        ("StudyTime", "10-23"),
        ("AccessionNumber", "A*"),
        ("StudyDescription", "*a*"),
        ("StudyInstanceUID", derive_uid("phantom", "query 2", "study")),
        ("Modality", "CT"),
        ("SeriesNumber", "02"),
        ("SeriesDescription", "*phantom"),
        ("BodyPartExamined", "AB*"),
        ("PerformedProcedureStepStartDate", "-20240301"),
        ("ImageType", "PRIMARY"),
        ("ImageType", "ORIG*"),
        ("InstanceNumber", "2"),
        ("Rows", "4"),
        ("NumberOfFrames", "1"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"),
    ],
)
@pytest.mark.parametrize("matching", [Matching(), Matching(fuzzy=True, empty_values=True, multiple_values=True)])
def test_the_index_and_documents_agree_on_what_matches(
    held: Collection, key: str, text: str, matching: Matching
) -> None:
    modes = {"fuzzymatching": "true", "emptyvaluematching": "true", "multiplevaluematching": "true"}
    switches = modes if matching.fuzzy else {}
    (tag,) = path_of(key) or ()
    criterion = criterion_of(key, COLUMNS[tag].vr, text, matching)
    assert criterion is not None
    tree = grow([((tag,), criterion)], ())
    expected = {ds.SOPInstanceUID for ds in held.datasets if holds(tree, ds.to_json_dict(lambda _: ""), {})}
    found = held.find("instances", limit="1000", **{key: text}, **switches)
    assert {match[INSTANCE]["Value"][0] for match in found} == expected
    if not isinstance(criterion, Empty | FuzzyName):
        assert len(expected) > 0


def test_every_level_tells_what_the_standard_asks_for(held: Collection) -> None:
    (found,) = held.find("studies", AccessionNumber="A1", PatientID="P1")
    assert found["00080061"]["Value"] == ["CT", "MR"] and found["00080056"]["Value"] == ["ONLINE"]
    assert found["00201206"]["Value"] == [2] and found["00201208"]["Value"] == [3]
    assert found["00080201"]["Value"] == ["+0100"] and found["00080005"]["Value"] == ["ISO_IR 192"]
    assert found["00081190"]["Value"] == [f"/studies/{found[STUDY]['Value'][0]}"]
    assert found["00080090"] == {"vr": "PN"} and "00081030" not in found
    assert list(found) == sorted(found)
    ct, mr = held.find("series", {"StudyInstanceUID": found[STUDY]["Value"][0]})
    assert (ct["00200011"]["Value"], mr["00200011"]["Value"]) == ([1], [2])
    assert ct["00400275"]["Value"][0]["00401001"]["Value"] == ["RP1"] and "00400275" not in mr
    assert ct["00201209"]["Value"] == [2] and ct["00400244"]["Value"] == ["20240301"]
    path = {"StudyInstanceUID": found[STUDY]["Value"][0], "SeriesInstanceUID": ct[SERIES]["Value"][0]}
    first, second = held.find("instances", path)
    assert (first["00200013"]["Value"], second["00200013"]["Value"]) == ([1], [2])
    assert first["00280010"] == {"vr": "US", "Value": [4]} and "00280008" not in first
    assert first["00081190"]["Value"][0].endswith(f"/instances/{first[INSTANCE]['Value'][0]}")


def test_names_keep_their_groups(held: Collection) -> None:
    (found,) = held.find("studies", PatientID="P3")
    assert found["00100010"]["Value"] == [
        {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}
    ]


def test_what_is_asked_for_is_returned_and_nothing_of_a_lower_level(held: Collection) -> None:
    (found,) = held.find("studies", PatientID="P2", includefield="StudyDescription,00080060,StudyComments,KVP")
    assert found["00081030"]["Value"] == ["Phantom"] and not {"00080060", "00324000", "00180060"} & set(found)
    (found,) = held.find("studies", StudyDate="20240301", StudyComments="", includefield="00991001")
    assert found["00324000"]["Value"] == ["first look"]
    assert found["00991001"]["Value"] == ["secret of the first"] and found["00990010"]["Value"] == ["ACME"]
    (found, _) = held.find("series", PatientID="P1", StudyDate="20240301", includefield="StudyDescription,PatientName")
    assert found["00081030"]["Value"] == ["Thorax 100%"] and found["00100010"]["Value"] == [{"Alphabetic": "Doe^John"}]
    (found,) = held.find("instances", AcquisitionDateTime="20240301091500+0000", includefield="00180060")
    assert found["00180060"]["Value"] == [120] and found["0008002A"]["Value"] == ["20240301101500+0100"]


def test_all_is_everything_known_at_the_level(held: Collection) -> None:
    (found,) = held.find("studies", StudyDate="20240301", includefield="all")
    assert {"00081030", "00324000", "00080062", "00201200", "00100021"} - {"00100021"} <= set(found)
    assert "00080060" not in found and "00991001" not in found and "00180060" not in found
    found = held.find("instances", SOPInstanceUID=held.datasets[0].SOPInstanceUID, includefield="all")[0]
    assert {"00180060", "00991001", "00400275", "00280030"} <= set(found)
    uri = found["7FE00010"]["BulkDataURI"]
    assert uri == (
        f"/studies/{found[STUDY]['Value'][0]}/series/{found[SERIES]['Value'][0]}"
        f"/instances/{found[INSTANCE]['Value'][0]}/bulkdata/7FE00010"
    )


def test_keys_in_a_sequence_are_those_of_one_item(held: Collection) -> None:
    sequence = "RequestAttributesSequence"
    procedure, step = f"{sequence}.RequestedProcedureID", f"{sequence}.ScheduledProcedureStepID"
    assert len(held.find("series", **{procedure: "RP2", step: "S2"})) == 1
    assert held.find("series", **{procedure: "RP2", step: "S1"}) == []
    assert len(held.find("instances", **{procedure: "RP1"})) == 2


def test_patients_are_told_once_with_what_they_have(held: Collection) -> None:
    found = {match["00100020"]["Value"][0]: match for match in held.find("patients")}
    assert list(found) == ["P1", "P2", "P3", "P_5"]
    one = found["P1"]
    assert [one[tag]["Value"][0] for tag in ("00201200", "00201202", "00201204")] == [2, 3, 5]
    assert one["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}], "as the newest study tells it"
    assert [match["00100020"]["Value"][0] for match in held.find("patients", PatientName="*ül*")] == ["P2"]
    assert [match["00100020"]["Value"][0] for match in held.find("patients", limit="1", offset="1")] == ["P2"]


def test_more_matches_than_a_page_are_counted(held: Collection) -> None:
    for parameters in ({}, {"ModalitiesInStudy": "CT"}, {"PatientID": "P*"}, {"StudyDate": "-20991231"}):
        total = len(held.studies(**parameters))
        page = held.page("studies", limit="1", **parameters)
        assert (page.remaining, page.more_remain, page.total) == (total - 1, False, total), parameters
        page = held.page("studies", limit="0", **parameters)
        assert (page.matches, page.remaining, page.total) == ([], total, total)
    page = held.page("studies", PatientName="*doe*", limit="1")
    assert (page.remaining, page.total) == (1, 2)
    page = held.page("studies", offset="9")
    assert (page.matches, page.remaining, page.total) == ([], 0, None)


def test_pages_are_disjoint_and_the_same_again(held: Collection) -> None:
    for resource in LEVELS:
        whole = held.page(resource, limit="100").matches
        pages = [held.page(resource, limit="2", offset=str(offset)).matches for offset in range(0, len(whole) + 2, 2)]
        assert [match for page in pages for match in page] == list(whole)


def test_a_search_looks_into_a_bounded_number_of_documents(held: Collection, database: Database) -> None:
    narrow = Search(database, held.describer, examined=2)
    query = query_of([("StudyComments", "nothing")], Level.STUDY, {}, frozenset({Level.STUDY}), 1_000)
    with pytest.raises(TooLarge, match="more than 2 data sets would have to be looked into to match StudyComments"):
        narrow.run(query)
    query = query_of([("StudyComments", "nothing"), ("PatientID", "P2")], Level.STUDY, {}, frozenset(), 1_000)
    assert narrow.run(query).matches == []


def test_keys_that_are_not_of_the_level_are_told(held: Collection) -> None:
    page = held.page("studies", SliceThickness="2")
    assert page.ignored == ("SliceThickness",) and len(page.matches) == 5


@pytest.mark.parametrize(
    "value",
    [
        "%",
        "_",
        "\\",
        "\\%",
        "'",
        '"',
        '*"*',
        "[",
        "[^a]*",
        "*[*",
        "{}",
        "%s",
        "%(x)s",
        ":x",
        "?",
        "=",
        "*=*",
        "^^",
        "\U0001f600*",
        "*" + "ab*" * 15,
        "?" * 900,
        "\\".join(f"{number}*" for number in range(30)),
        "\x01\x7f",
    ],
)
def test_no_value_is_a_fault(held: Collection, value: str) -> None:
    names = ["PatientName", "PatientID", "StudyDescription", "ModalitiesInStudy", "SeriesDescription", "StudyComments"]
    for resource in LEVELS:
        for switch in ({}, {"fuzzymatching": "true"}, {"multiplevaluematching": "true", "emptyvaluematching": "true"}):
            for name in [*names, "ImageType", "00991001"]:
                held.page(resource, **{name: value}, **switch)


def test_what_is_stored_is_found_at_once_and_what_changes_with_it(database: Database, tmp_path: Path) -> None:
    collection = Collection(database, tmp_path)
    first, second = study(
        77, PatientID="NOW", PatientName="Early^Bird", StudyDate="20250101", PatientComments="as made"
    )
    collection.keep(first)
    replica = Search(database, collection.describer, examined=100)
    mine = frozenset({Level.STUDY})
    query = query_of([("PatientID", "NOW"), ("PatientComments", "as*")], Level.STUDY, {}, mine, 100)
    (found,) = map(json.loads, replica.run(query).matches[0].replace(BASE, b"").splitlines())
    assert found["00104000"]["Value"] == ["as made"] and found["00201208"]["Value"] == [1]
    second.PatientName, second.StudyDate = "Late^Worm", "20250202"
    collection.keep(second)
    assert collection.studies(PatientName="early*") == []
    assert collection.studies(PatientName="*worm*", StudyDate="20250202", ModalitiesInStudy="CT") == ["77"]
    assert collection.studies(ModalitiesInStudy="CT", StudyDate="20250101") == []
    (found,) = collection.find("studies", PatientID="NOW")
    assert found["00201208"]["Value"] == [2]
    collection.archive.close()
    of_study = "study_id = (SELECT id FROM study WHERE patient_id = 'NOW')"
    with database.write() as session:
        for table in ("instance_document", "instance"):
            in_study = f"series_id IN (SELECT id FROM series WHERE {of_study})"
            session.connection().exec_driver_sql(f"DELETE FROM {table} WHERE {in_study}")
        session.connection().exec_driver_sql(f"DELETE FROM series WHERE {of_study}")
        session.connection().exec_driver_sql("DELETE FROM study WHERE patient_id = 'NOW'")
    assert collection.studies(PatientName="*worm*") == collection.studies(PatientID="NOW") == []


def test_an_answer_that_was_given_before_shows_every_change_at_once_in_every_replica(
    database: Database, tmp_path: Path
) -> None:
    collection = Collection(database, tmp_path)
    replicas = [Search(database, collection.describer, examined=100) for _ in range(2)]
    prepared = [
        one.prepare(
            query_of([("PatientID", "AGAIN"), ("includefield", "StudyDescription")], Level.STUDY, {}, STUDIES, 100)
        )
        for one in replicas
    ]

    def told() -> list[tuple[Any, ...]]:
        """Description, modalities, series and instances, as each replica answers; they say the same."""
        pages = [one.answer(asked).matches for one, asked in zip(replicas, prepared, strict=True)]
        assert pages[0] == pages[1]
        found = [json.loads(match.replace(BASE, b"")) for match in pages[0]]
        tags = ("00081030", "00080061", "00201206", "00201208")
        return [tuple(one.get(tag, {}).get("Value") for tag in tags) for one in found]

    first, second = study(78, PatientID="AGAIN", StudyDescription="one")
    third = another_series([first, second], "SR", 9, StudyDescription="two")[0]
    assert told() == []
    collection.keep(first)
    assert told() == [(["one"], ["CT"], [1], [1])]
    collection.keep(second)
    assert told() == [(["one"], ["CT"], [1], [2])]
    collection.keep(third)
    assert told() == [(["two"], ["CT", "SR"], [2], [3])]
    with database.write() as session:
        delete_instances(session, [third.SOPInstanceUID])
    assert told() == [(["two"], ["CT"], [1], [2])]
    with database.write() as session:
        delete_instances(session, [first.SOPInstanceUID, second.SOPInstanceUID])
    assert told() == []
    other, _ = study(79, PatientID="AGAIN", StudyDescription="another")
    collection.keep(other)  # SQLite may give it the number of the one that is gone
    assert told() == [(["another"], ["CT"], [1], [1])]
    collection.archive.close()
