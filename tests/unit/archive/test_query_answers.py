"""Matches: what columns say as DICOM JSON, whatever they say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ai.archive.query_answers import BASE, Layout, layout_of
from imaging_ai.archive.query_attributes import COLUMNS, DEFAULTS, Level

MORE = {("00081030",), ("00080062",), ("00100021",)}
LAYOUTS = {level: layout_of(level, frozenset({(tag,) for tag in DEFAULTS[level]} | MORE)) for level in Level}
#: What the lists and numbers of a row are: read later, or written as they are.
READY = st.sampled_from(['"CT"', '"CT","SR"', "", "1", "0"])
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "A^B=C=D", "a\\b", 'say "x"', "100%", "%s %(3)s", "{0}", "\0", "é\ud7ff", "  ", "0"]),
)


#: Addresses are made of them, so nothing else is taken for one when it is stored.
UIDS = st.sampled_from(["1.2.840.10008.1", "2.25.7"])


def rows(level: Level) -> st.SearchStrategy[tuple[Any, ...]]:
    """Rows of a layout: two ids, the columns, and what is read later, which is less than eight values."""
    layout = LAYOUTS[level]
    names = layout.columns.split(", ")
    values = [
        READY if place in layout.ready else UIDS if names[place : place + 1] and "_uid" in names[place] else TEXTS
        for place in range(2, len(names) + 8)
    ]
    return st.tuples(st.just(1), st.just(1), *values)


def told(layout: Layout, row: tuple[Any, ...]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(layout.fragment(row).replace(BASE, b"http://server"))
    return loaded


@pytest.mark.parametrize("level", Level)
@given(data=st.data())
def test_a_match_is_the_same_at_one_stroke_and_element_by_element(level: Level, data: st.DataObject) -> None:
    layout = LAYOUTS[level]
    row = data.draw(rows(level))
    slowly = json.loads(layout.merged(row, {}).replace(BASE, b"http://server"))
    assert told(layout, row) == slowly
    assert list(slowly) == sorted(slowly)


def test_values_of_every_kind_are_told() -> None:
    layout = layout_of(Level.STUDY, frozenset({("00100010",), ("00100020",), ("00081030",), ("00201206",)}))
    names = [name.partition(".")[2] for name in layout.columns.split(", ")[2:]]
    values = {
        "patient_name": "Yamada^Tarou=山田^太郎",
        "patient_id": 'P "1" 100%',
        "study_description": "",
        "study_instance_uid": "1.2",
    }
    row = (7, 7, *(values[name] for name in names), '"CT","SR"', 2, 30, "")
    found = told(layout, row)
    assert found["00100010"]["Value"] == [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]
    assert found["00100020"]["Value"] == ['P "1" 100%']
    assert found["00201206"] == {"vr": "IS", "Value": [2]}
    assert "00081030" not in found and COLUMNS["00081030"].level is Level.STUDY
