"""The messages of events, and what a client's answer to them confirms."""

from __future__ import annotations

import json

import pytest

from imaging_ai.queue.events import assigned, message, number_of, state_report
from imaging_ai.queue.workitem_elements import code, elements, first, said

NUMBER = "00771001"


def answer(key: str, value: object) -> dict[str, object]:
    return {key: {"vr": "US", "Value": [value]}}


def test_a_message_is_one_data_set_in_the_order_of_tags_with_a_number_of_16_bits_and_the_whole_one() -> None:
    payload = json.dumps(state_report("SCHEDULED", "READY"))
    told = json.loads(message(70_000, "1.2.3", 1, payload))
    assert list(told) == sorted(told)
    assert first(told, "MessageID") == 70_000 - 65_536
    assert told[NUMBER] == {"vr": "UV", "Value": [70_000]}
    assert said(told, "AffectedSOPInstanceUID") == "1.2.3"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (answer(NUMBER, 70_000), 70_000),
        (answer("00000120", 70_000 - 65_536), 70_000),
        (answer("00000120", 5), 5),  # the oldest that has it: 65,541 has it too
        (answer(NUMBER, 65_541), 65_541),
        (answer("00000120", 9), None),
        (answer(NUMBER, "5"), None),
        (answer("00000110", 5), None),
        ({}, None),
        ([5], None),
        (5, None),
    ],
)
def test_an_answer_confirms_the_oldest_report_that_it_may_mean(given: object, expected: int | None) -> None:
    assert number_of(given, [5, 6, 65_541, 70_000]) == expected


def test_an_assignment_names_stations_and_humans_and_is_none_without_any() -> None:
    human = elements(HumanPerformerCodeSequence=[code("7", "99TEST", "Dr Roe")], HumanPerformerName="Roe")
    told = assigned(elements(ScheduledHumanPerformersSequence=[human]))
    assert told is not None
    assert said(told["00404009"]["Value"][0], "CodeMeaning") == "Dr Roe"
    assert assigned(elements(ScheduledHumanPerformersSequence=None)) is None


def test_a_long_code_value_is_one() -> None:
    assert said(code("a-model-with-a-long-name", "99IMAGINGAI", "x"), "LongCodeValue") == "a-model-with-a-long-name"
