"""Dates, times and date-times as match keys."""

from __future__ import annotations

import pytest

from imaging_ai.archive.query_times import combined, moments_of
from imaging_ai.errors import BadParameterError


@pytest.mark.parametrize(
    ("vr", "key", "value"),
    [
        ("DA", "20240229", "20240229"),
        ("DA", "20240229", "2024.02.29"),
        ("DA", "20240101-20240131", "20240101"),
        ("DA", "20240101-20240131", "20240131"),
        ("DA", "20240101 - 20240131", "20240115"),
        ("DA", "-20240131", "19991231"),
        ("DA", "20240101-", "20990101"),
        ("TM", "1030", "103059.999"),
        ("TM", "1030", "10:30"),
        ("TM", "10-11", "115959"),
        ("TM", "-1030", "000000"),
        ("TM", "103000.5-", "103000.500001"),
        ("DT", "2024", "20241231235959"),
        ("DT", "20240101-20240131", "202401311200"),
        ("DT", "20240101120000+0100", "20240101110000+0000"),
        ("DT", "20240101000000+0100", "20231231230000-0000"),
        ("DT", "20240301003000+0100-20240301013000+0100", "20240229233000+0000"),
        ("DT", "20240131120000-0500", "20240131170000+0000"),
        ("DT", "-20240131120000-0500", "20240131165959+0000"),
    ],
)
def test_a_key_holds(vr: str, key: str, value: str) -> None:
    assert moments_of("Key", vr, key).holds([value])


@pytest.mark.parametrize(
    ("vr", "key", "value"),
    [
        ("DA", "20240229", "20240301"),
        ("DA", "20240101-20240131", "20240201"),
        ("DA", "20240101-", "20231231"),
        ("DA", "20240101-", ""),
        ("DA", "-20240131", "unknown"),
        ("TM", "1030", "1031"),
        ("TM", "-1030", "103100"),
        ("DT", "20240101120000+0100", "20240101120000+0000"),
    ],
)
def test_a_key_does_not_hold(vr: str, key: str, value: str) -> None:
    assert not moments_of("Key", vr, key).holds([value])


@pytest.mark.parametrize(
    ("vr", "key"),
    [
        ("DA", "abc"),
        ("DA", "-"),
        ("DA", "20241301"),
        ("DA", "20240132"),
        ("DA", "2024"),
        ("DA", "20240131-20240101"),
        ("DA", "20240101-20240131-"),
        ("DA", "٢٠٢٤٠١٠١"),
        ("TM", "noon"),
        ("TM", "2400"),
        ("TM", "2300-0200"),
        ("DT", "20240101250000"),
        ("DT", "--"),
    ],
)
def test_what_is_no_date_or_time_is_refused_by_name(vr: str, key: str) -> None:
    with pytest.raises(BadParameterError, match=r"^StudyDate: is "):
        moments_of("StudyDate", vr, key)


def test_a_range_of_dates_and_one_of_times_are_one_range_together() -> None:
    date, time = moments_of("StudyDate", "DA", "20060705-20060707"), moments_of("StudyTime", "TM", "1000-1800")
    both = combined(date, time)
    assert both.holds(["20060705100000"]) and both.holds(["20060706235959"]) and both.holds(["20060707180059"])
    assert not both.holds(["20060705095959"]) and not both.holds(["20060707180100"])
