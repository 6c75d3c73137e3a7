"""Matching keys against values: wildcards, names, numbers, and every form of date, time and range."""

from __future__ import annotations

from typing import Any

import pytest

from imaging_ai.errors import BadParameterError
from imaging_ai.queue.workitem_elements import elements
from imaging_ai.queue.workitem_match import attribute_path, parse_key

STARTS, BIRTH, TIME = "ScheduledProcedureStepStartDateTime", "PatientBirthDate", "PatientBirthTime"


def holds(name: str, text: str, value: Any) -> bool:
    key = parse_key(name, text)
    assert key is not None
    return key.holds(elements(**{name: value}))


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("20260301", "20260301080000", True),
        ("202603", "20260331235959.999999", True),
        ("202603", "20260401", False),
        ("2026", "20261231", True),
        ("20260301080000", "20260301", True),  # a day contains each of its moments
        ("20260301090000+0100", "20260301080000", True),
        ("20260301090000+0100", "20260301080001", False),
        ("20260301000000-0500", "20260301050000", True),
        ("2026030108-2026030109", "20260301093000", True),
        ("2026030108-2026030109", "20260301100000", False),
        ("20260301-", "20260301", True),
        ("20260301-", "20260228235959", False),
        ("-20260301", "20260301235959", True),
        ("-20260301", "20260302", False),
        ("20260301080000-0500-20260301140000+0000", "20260301133000", True),
        ("20260301080000-0500-20260301140000+0000", "20260301125900", False),
        ("20260301080000.5", "20260301080000.500000", True),
        ("20260301080000.5", "20260301080000.6", False),
        ("20260301", "nonsense", False),
    ],
)
def test_a_date_and_time_is_the_span_that_its_precision_gives(text: str, value: str, expected: bool) -> None:
    assert holds(STARTS, text, value) is expected


@pytest.mark.parametrize(
    ("name", "text", "value", "expected"),
    [
        (BIRTH, "19700101", "19700101", True),
        (BIRTH, "19690101-19700101", "19700101", True),
        (BIRTH, "1970.01.01", "19700101", True),
        (TIME, "0800-0900", "085959", True),
        (TIME, "0800-0900", "090030", True),
        (TIME, "0800-0900", "090100", False),
        (TIME, "08", "083000", True),
        ("ReferencedFrameNumber", "07", 7, True),
        ("ReferencedFrameNumber", "8", 7, False),
        ("WorklistLabel", "N?ght", "Night", True),
        ("WorklistLabel", "N*t", "Night", True),
        ("WorklistLabel", "Nigh", "Night", False),
        ("WorklistLabel", "a.c", "abc", False),
        ("WorklistLabel", "*", None, True),
        ("WorklistLabel", "x", None, False),
        ("PatientName", "MÜLLER^*", "Müller^Jörg", True),
        ("PatientName", "doe", "Doe^^", True),
        ("PatientName", "jane", "Doe^Jane", False),
    ],
)
def test_a_value_matches_by_the_rules_of_its_vr(name: str, text: str, value: Any, expected: bool) -> None:
    assert holds(name, text, value) is expected


def test_any_group_of_a_name_may_match() -> None:
    key = parse_key("PatientName", "山田*")
    assert key is not None
    name = {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}
    assert key.holds({"00100010": {"vr": "PN", "Value": [name]}})


@pytest.mark.parametrize(
    ("name", "text"),
    [(BIRTH, "1970"), (BIRTH, "20260230"), (STARTS, "-"), (STARTS, "20261301"), (TIME, "2500"), (TIME, "12-1x")],
)
def test_what_is_no_date_or_time_is_refused(name: str, text: str) -> None:
    with pytest.raises(BadParameterError, match=name):
        parse_key(name, text)


@pytest.mark.parametrize("name", ["Nonsense", "0074", "PatientName.Nonsense", "A" * 500, ".".join(["PatientID"] * 20)])
def test_what_is_no_attribute_is_none(name: str) -> None:
    assert attribute_path(name) is None
