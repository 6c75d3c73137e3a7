"""What the value of a match key asks for."""

from __future__ import annotations

import time
from typing import Any

import pytest

from imaging_ai.archive.query_values import Empty, Matching, criterion_of, like
from imaging_ai.errors import BadParameterError

PLAIN, EVERY = Matching(), Matching(multiple_values=True)


def holds(vr: str, key: str, *values: Any, matching: Matching = PLAIN) -> bool:
    criterion = criterion_of("Key", vr, key, matching)
    assert criterion is not None
    return criterion.holds(values)


@pytest.mark.parametrize(
    ("vr", "key", "values"),
    [
        ("LO", "Head", ["Head"]),
        ("LO", "H*d", ["Head"]),
        ("LO", "H??d", ["Head"]),
        ("LO", "*", ["Head"]),
        ("LO", "He*", ["Brain", None, "Head"]),
        ("LO", "a.b[c]", ["a.b[c]"]),
        ("LO", "*(?)*", ["x(1)y"]),
        ("LO", "*\u5c71?", ["x\u5c71\u7530"]),
        ("LO", "Brain\\Head", ["Head"]),
        ("LO", "Smith, John", ["Smith, John"]),
        ("LT", "a\\b", ["a\\b"]),
        ("ST", "*line*", ["first\nline two"]),
        ("CS", "CT,MR", ["MR"]),
        ("CS", "CT\\MR", ["MR"]),
        ("IS", "007", [7]),
        ("IS", "7", ["7"]),
        ("DS", "1.50", [1.5]),
        ("DS", "-1e1", [-10]),
        ("DS", "1\\2", [2.0]),
        ("US", "512", [512]),
        ("FD", "0.1", [0.1]),
        ("UI", "1.2.3,1.2.4", ["1.2.4"]),
        ("UI", "1.2.3\\1.2.4", ["1.2.3"]),
        ("UI", "1.2.3, 1.2.4 ,", ["1.2.4"]),
        ("PN", "doe^j*", [{"Alphabetic": "Doe^Jane"}]),
        ("PN", "山*", [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]),
        ("DA", "20240101-", ["20240102"]),
        ("UN", "12", [12]),
    ],
)
def test_a_value_meets_a_key(vr: str, key: str, values: list[Any]) -> None:
    if key == "*":
        assert criterion_of("Key", vr, key, PLAIN) is None
    else:
        assert holds(vr, key, *values)


@pytest.mark.parametrize(
    ("vr", "key", "values"),
    [
        ("LO", "head", ["Head"]),
        ("LO", "Head", ["Head 1"]),
        ("LO", "H?d", ["Head"]),
        ("LO", "Head", []),
        ("LO", "H*", [None]),
        ("CS", "CT", ["MR"]),
        ("IS", "7", [70]),
        ("IS", "7", ["seven"]),
        ("UI", "1.2.3", ["1.2.30"]),
        ("PN", "doe", [{"Alphabetic": "Doe^Jane"}]),
        ("PN", "doe*", []),
    ],
)
def test_a_value_does_not_meet_a_key(vr: str, key: str, values: list[Any]) -> None:
    assert not holds(vr, key, *values)


@pytest.mark.parametrize(
    ("vr", "key"),
    [
        ("UI", "not-a-uid"),
        ("UI", "1.2.*"),
        ("UI", "1." * 40),
        ("IS", "seven"),
        ("DS", "nan"),
        ("US", "1_0x"),
        ("SQ", "anything"),
        ("OB", "00"),
        ("LO", "x" * 1025),
        ("LO", "a\0b"),
        ("LO", "\ud800"),
        ("LO", "*a" * 40),
        ("LO", "a\\" * 70),
        ("PN", "a\\" * 70),
        ("UI", ",".join(f"1.{number}" for number in range(2001))),
    ],
)
def test_a_value_that_cannot_be_of_its_vr_is_refused_by_name(vr: str, key: str) -> None:
    with pytest.raises(BadParameterError, match=r"^Key: "):
        criterion_of("Key", vr, key, PLAIN)


@pytest.mark.parametrize("key", ["", " ", "*", "***"])
def test_an_empty_key_matches_everything(key: str) -> None:
    assert criterion_of("Key", "LO", key, PLAIN) is criterion_of("Key", "SQ", key, PLAIN) is None


def test_a_pair_of_quotes_is_the_empty_value_where_that_is_asked_for() -> None:
    assert criterion_of("Key", "LO", '""', Matching(empty_values=True)) == Empty()
    assert Empty().holds([]) and Empty().holds([None, ""]) and not Empty().holds(["", "x"])
    assert holds("LO", '""', '""')


def test_of_several_values_all_are_wanted_where_that_is_asked_for() -> None:
    assert holds("CS", "CT\\PT", "PT", "MR", "CT", matching=EVERY)
    assert not holds("CS", "CT\\PT", "CT", matching=EVERY)
    assert holds("CS", "CT\\PT", "CT")


def test_fuzzy_words_begin_words_of_a_name_in_any_order_and_group() -> None:
    fuzzy = Matching(fuzzy=True)
    doe = {"Alphabetic": "DOE^JOHN^PETER", "Ideographic": "山田^太郎"}
    for key in ("john doe", "Doe, Jo", "pet d", "太郎 john", "DOE^JOHN"):
        assert holds("PN", key, doe, matching=fuzzy), key
    for key in ("ohn doe", "john doe smith"):
        assert not holds("PN", key, doe, matching=fuzzy), key
    for key, name in (("mueller", "Müller^A"), ("müller", "Mueller^A"), ("Müller", "Muller^A")):
        assert holds("PN", key, {"Alphabetic": name}, matching=fuzzy), key


def test_a_pattern_made_to_hurt_costs_no_more_than_another() -> None:
    began = time.monotonic()
    assert not like("a" * 100_000, "*a" * 32 + "*b")
    assert time.monotonic() - began < 5
