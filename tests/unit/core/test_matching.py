"""Conditions: each kind of condition, what is refused, and what a refusal may tell."""

from __future__ import annotations

import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ai.core.matching import Conditions
from imaging_ai.errors import ConfigError


def matches(value: object, text: str, keyword: str = "SeriesDescription") -> bool:
    return not Conditions.parse({keyword: value}, "here").mismatches({keyword: text}, 1)


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        ("MR", "MR", True),
        ("mr", "MR", True),
        ("MR", "MRA", False),
        ("*t1*", "AX T1 POST", True),
        ("T?", "T1", True),
        ("T?", "T10", False),
        ("a.b", "aXb", False),
        ("[x]*", "[x] y", True),
        (["CT", "MR"], "MR", True),
        (["CT", "MR"], "PT", False),
        ("!CT", "MR", True),
        ("!CT", "CT", False),
        ("!CT", "", True),
        (["ORIGINAL", "!LOCALIZER"], "ORIGINAL\\PRIMARY\\AXIAL", True),
        (["ORIGINAL", "!LOCALIZER"], "ORIGINAL\\PRIMARY\\LOCALIZER", False),
        (["!CT", "!MR"], "MR", False),
        (["!CT", "!MR"], "PT", True),
        ("present", "x", True),
        ("present", "", False),
        ("present", "  ", False),
        ("absent", "", True),
        ("absent", "x", False),
        ("/t1.*post/", "ax T1 tse POST gd", True),
        ("/^t1$/", "ax T1", False),
        ("!/scout|survey/", "Survey", False),
        ("*", "", False),
    ],
)
def test_text_matches_as_written(value: object, text: str, expected: bool) -> None:
    assert matches(value, text) is expected


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        ("< 1.5", "1.5", False),
        ("<= 1.5", "1.50", True),
        ("> 1.5", "1.6", True),
        (">= 1.5", "1.5", True),
        ("= 3", "3.0", True),
        (3, "3.0", True),
        (1.25, "1.250000", True),
        ("2..5", "2", True),
        ("2..5", "5.0", True),
        ("2..5", "5.01", False),
        ("-1.5..1", "-1", True),
        ("!2..5", "3", False),
        ("> 1", "not a number", False),
        ("> 1", "", False),
        ("> 1", "0.5\\0.5\\2", True),
        ("> 1", "inf", False),
        (["< 1", "> 9"], "10", True),
    ],
)
def test_numbers_compare_however_they_are_written(value: object, text: str, expected: bool) -> None:
    assert matches(value, text, "SliceThickness") is expected


@pytest.mark.parametrize(
    ("value", "text", "expected"), [(">= 18", "018Y", True), (">= 18", "017Y", False), ("< 1", "011M", True)]
)
def test_ages_compare_in_years(value: object, text: str, expected: bool) -> None:
    assert matches(value, text, "PatientAge") is expected


def test_a_backslash_in_a_single_valued_text_is_text() -> None:
    assert matches("a\\b", "a\\b", "ImageComments")
    assert not matches("a", "a\\b", "ImageComments")


def test_the_number_of_instances_is_a_condition() -> None:
    conditions = Conditions.parse({"instances": ">= 20"}, "here")
    assert conditions.mismatches({}, 20) == []
    assert conditions.mismatches({}, 19) == ["19 instances, wanted >= 20"]


def test_all_conditions_must_hold_and_each_that_does_not_is_told() -> None:
    conditions = Conditions.parse({"Modality": ["MR", "PT"], "BodyPartExamined": "HEAD", "EchoTime": "> 5"}, "here")
    told = conditions.mismatches({"Modality": "CT", "EchoTime": "3"}, 1)
    assert told == [
        "Modality is CT, wanted MR or PT",
        "BodyPartExamined is absent, wanted HEAD",
        "EchoTime is 3, wanted > 5",
    ]


def test_no_conditions_accept_everything() -> None:
    assert Conditions.parse({}, "here").mismatches({}, 0) == []


@pytest.mark.parametrize(
    "keyword",
    [
        "PatientName",
        "PatientID",
        "PatientSex",
        "PatientBirthDate",
        "AccessionNumber",
        "ReferringPhysicianName",
        "AdmissionID",
    ],
)
def test_a_sentence_says_nothing_of_what_identifies_the_patient(keyword: str) -> None:
    (sentence,) = Conditions.parse({keyword: "WANTED"}, "here").mismatches({keyword: "FOUND"}, 1)
    assert sentence == f"{keyword} is not as wanted"


@pytest.mark.parametrize(
    ("keyword", "text"), [("SeriesDescription", "DOE JANE T1"), ("Modality", "Doe, Jane"), ("EchoTime", "Doe\\3")]
)
def test_a_sentence_repeats_no_free_text(keyword: str, text: str) -> None:
    (sentence,) = Conditions.parse({keyword: 7}, "here").mismatches({keyword: text}, 1)
    assert sentence == f"{keyword} is other, wanted 7"


@pytest.mark.parametrize(
    ("mapping", "remedy"),
    [
        ({"Modlity": "CT"}, "rule 'a': Modlity is no DICOM keyword; did you mean Modality?"),
        ({"instance": 3}, "did you mean instances?"),
        ({"qqqq": 3}, "use a keyword of PS3.6"),
        ({"PixelData": "x"}, "use another attribute"),
        ({"Modality": []}, "the list is empty"),
        ({"Modality": True}, "neither text nor a number"),
        ({"Modality": {"a": 1}}, "neither text nor a number"),
        ({"Modality": ""}, "neither text nor a number"),
        ({"Modality": "!"}, "neither text nor a number"),
        ({"EchoTime": ">= many"}, "'many' is no number"),
        ({"EchoTime": ">="}, "is no number"),
        ({"EchoTime": ">> 3"}, "is no comparison"),
        ({"EchoTime": "5..2"}, "write the smaller number first"),
        ({"EchoTime": float("nan")}, "'nan' is no number"),
        ({"SeriesDescription": "/open"}, "end it with /"),
        ({"SeriesDescription": "/(/"}, "missing )"),
        ({"SeriesDescription": r"/(a)\1/"}, "RE2 syntax"),
        ({"SeriesDescription": "/(?=a)b/"}, "RE2 syntax"),
        ({"instances": "many"}, "is a number"),
        ({"instances": "present"}, "is a number"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place_and_remedy(mapping: dict[str, object], remedy: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Conditions.parse(mapping, "rule 'a'")
    assert refusal.value.message.startswith("rule 'a': ")
    assert remedy in refusal.value.message


def test_an_expression_that_ruins_a_backtracking_engine_answers_at_once() -> None:
    started = time.thread_time()
    assert not matches("/^(a|a)*(a+)+$/", "a" * 20_000 + "!")
    assert time.thread_time() - started < 5  # a backtracking engine takes longer than the universe has


def test_a_value_asked_for_by_name_is_told_from_one_that_slips_through() -> None:
    def names(value: object) -> bool:
        return Conditions.parse({"Modality": value}, "here").names("Modality", "SEG")

    assert names("SEG") and names(["CT", "seg"])
    assert not names("*") and not names("!CT") and not names("/SEG/") and not names("present")


def test_conditions_travel_between_processes() -> None:
    conditions = Conditions.parse({"SeriesDescription": ["/t1/", "*t2*"]}, "here")
    assert pickle.loads(pickle.dumps(conditions)) == conditions


values = st.text(max_size=40)


@given(st.text(min_size=1, max_size=20), values)
def test_any_text_either_parses_or_is_refused_and_never_breaks_matching(condition: str, value: str) -> None:
    try:
        conditions = Conditions.parse({"SeriesDescription": condition}, "here")
    except ConfigError:
        return
    assert len(conditions.mismatches({"SeriesDescription": value}, 1)) <= 1


@given(values)
def test_present_and_absent_are_opposites(value: str) -> None:
    assert matches("present", value) is not matches("absent", value)


@given(st.sampled_from(["MR", "*1*", "/a+/", "2..5", ">= 3", "present"]), values)
def test_not_is_the_opposite(condition: str, value: str) -> None:
    assert matches(condition, value) is not matches(f"!{condition}", value)


@given(
    st.text(alphabet="ab*?.[]\\()/ ", min_size=1, max_size=8).filter(lambda text: text.strip() and text[0] not in "/!")
)
def test_text_without_wildcards_matches_itself(text: str) -> None:
    stripped = text.strip()
    if not set(stripped) & set("*?\\"):
        assert matches(stripped, stripped)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_an_interval_is_its_two_comparisons(low: float, high: float, value: float) -> None:
    low, high = sorted((round(low, 3), round(high, 3)))
    text = f"{value:.6f}"
    both = matches(f">= {low:f}", text, "EchoTime") and matches(f"<= {high:f}", text, "EchoTime")
    assert matches(f"{low:f}..{high:f}", text, "EchoTime") is both


@given(st.lists(st.sampled_from(["CT", "MR", "PT"]), min_size=1), st.sampled_from(["CT", "MR", "PT", "US"]))
def test_a_list_is_any_of_its_items(items: list[str], value: str) -> None:
    assert matches(items, value, "Modality") is any(matches(item, value, "Modality") for item in items)
