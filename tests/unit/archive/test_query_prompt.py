"""Which searches are answered where they come in, because a thread would wake no sooner than they are done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from imaging_ai.archive import query
from imaging_ai.archive.query import Prepared, Search
from imaging_ai.archive.query_attributes import Level
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import StudyRow
from imaging_ai.serve.dicomweb.qido_request import query_of


class Clock:
    """A clock on which every search takes `seconds`."""

    def __init__(self) -> None:
        self.seconds, self._now = 0.0, 0.0

    def __call__(self) -> float:
        self._now += self.seconds
        return self._now


class Searches:
    """Searches of an empty archive, which take as long as one likes."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._search, self._clock = Search(database, cast("Any", None), examined=10), clock

    def prepared(self, keys: dict[str, str], level: Level = Level.STUDY) -> Prepared:
        return self._search.prepare(query_of(keys.items(), level, {}, frozenset([level]), 1_000))

    def is_prompt(self, level: Level = Level.STUDY, /, **keys: str) -> bool:
        return self._search.is_prompt(self.prepared(keys, level))

    def take(self, seconds: float, times: int, /, **keys: str) -> None:
        self._clock.seconds = seconds
        for _ in range(times):
            self._search.answer(self.prepared(keys))


@pytest.fixture
def searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Searches]:
    clock = Clock()
    monkeypatch.setattr(query, "perf_counter", clock)
    database = Database(f"sqlite:///{tmp_path / 'index.db'}")
    StudyRow.metadata.create_all(database.engine)
    yield Searches(database, clock)
    database.dispose()


@pytest.mark.parametrize(
    "keys", [{}, {"PatientID": "1"}, {"StudyDate": "20240101-"}, {"ModalitiesInStudy": "CT", "limit": "101"}]
)
def test_what_an_index_gives_in_its_order_is_prompt(searches: Searches, keys: dict[str, str]) -> None:
    assert searches.is_prompt(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"limit": "102"},
        {"offset": "102"},
        {"includefield": "all"},
        {"includefield": "PatientComments"},
        {"PatientComments": "x"},
        {"StudyDescription": "a*"},
        {"PatientName": "*mit*", "StudyDescription": "a*"},
    ],
)
def test_what_may_read_more_than_its_rows_is_not(searches: Searches, keys: dict[str, str]) -> None:
    searches.take(0.0001, 50, PatientName="*mit*")
    assert not searches.is_prompt(**keys)


def test_other_levels_are_not(searches: Searches) -> None:
    assert not searches.is_prompt(Level.SERIES, PatientID="1")


def test_pieces_of_text_are_prompt_in_an_archive_where_they_were_found_quickly(searches: Searches) -> None:
    assert not searches.is_prompt(PatientName="*mit*"), "nothing is known yet"
    searches.take(0.0001, 50, PatientName="Smith*")
    assert searches.is_prompt(PatientName="*mit*")
    searches.take(0.01, 1, PatientName="*son*")
    assert not searches.is_prompt(PatientName="*mit*"), "the archive has grown"
    searches.take(0.0001, 3, PatientName="Smith*")
    assert not searches.is_prompt(PatientName="*mit*"), "a few quick ones say little"
    searches.take(0.0001, 50, PatientName="Smith*")
    assert searches.is_prompt(PatientName="*mit*")


def test_other_searches_say_nothing_of_pieces_of_text(searches: Searches) -> None:
    searches.take(0.0001, 50, PatientID="1")
    assert not searches.is_prompt(PatientName="*mit*")
