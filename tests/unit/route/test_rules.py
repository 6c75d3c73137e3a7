"""Rules as they are written in the settings."""

from __future__ import annotations

from typing import Any

import pytest

from imaging_ai.core.job import Priority
from imaging_ai.errors import ConfigError
from imaging_ai.route.rules import Rule, parse_rules

FULL: dict[str, Any] = {
    "name": "brain MR",
    "when": {"Modality": "MR", "instances": ">= 20"},
    "run": ["brain"],
    "send": ["pacs", "research"],
    "priority": "HIGH",
    "select": "largest",
    "inputs": {"brain": {"t1": {"SeriesDescription": "*T1*"}}},
    "parameters": {"threshold": 0.5},
}


def test_a_rule_reads_as_it_is_written() -> None:
    rule = Rule.parse(FULL, "imaging-ai.toml")
    assert (rule.name, rule.run, rule.send) == ("brain MR", ("brain",), ("pacs", "research"))
    assert (rule.priority, rule.select, dict(rule.parameters)) == (Priority.HIGH, "largest", {"threshold": 0.5})
    assert rule.when.mismatches({"Modality": "MR"}, 20) == []
    assert rule.inputs["brain"]["t1"].mismatches({"SeriesDescription": "ax T1"}, 1) == []


def test_a_short_rule_takes_everything_at_medium_priority() -> None:
    rule = Rule.parse({"name": "all", "run": ["m"]}, "here")
    assert (rule.priority, rule.select, rule.send) == (Priority.MEDIUM, "all", ())
    assert rule.when.mismatches({}, 0) == []


def test_a_name_given_twice_in_a_list_counts_once() -> None:
    assert Rule.parse({"name": "a", "run": ["m", "m"], "send": ["p", "p"]}, "here").run == ("m",)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": None}, "here: name is missing"),
        ({"name": "  "}, "here: name is missing"),
        ({"modles": ["x"]}, "rule 'brain MR': modles is no key of a rule"),
        ({"priorty": "LOW"}, "did you mean priority?"),
        ({"run": []}, "run names no model"),
        ({"run": "brain"}, "run must be a list of names"),
        ({"send": [1]}, "send must be a list of names"),
        ({"priority": "STAT"}, "priority is 'STAT'; choose LOW, MEDIUM, HIGH"),
        ({"priority": ["HIGH"]}, "choose LOW, MEDIUM, HIGH"),
        ({"select": "first"}, "choose all, largest, newest"),
        ({"when": "MR"}, "when must be a table"),
        ({"when": {"Modlity": "MR"}}, "rule 'brain MR': when: Modlity is no DICOM keyword; did you mean Modality?"),
        ({"inputs": {"brain": "t1"}}, "inputs.brain must be a table of channels"),
        ({"inputs": {"brain": {"t1": {"Modality": []}}}}, "inputs.brain.t1: Modality: the list is empty"),
    ],
)
def test_what_is_wrong_in_a_rule_is_told_with_place_and_remedy(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Rule.parse(FULL | change, "here")
    assert refusal.value.message.startswith("here: ")
    assert told in refusal.value.message


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ([FULL, FULL], "two rules are called 'brain MR'"),
        ([FULL | {"run": ["lung"], "inputs": {}}], "run: 'lung' is no model; known are brain"),
        ([FULL | {"send": ["pcas"]}], "send: 'pcas' is no destination; known are pacs, research"),
        ([FULL | {"inputs": {"lung": {}}}], "inputs: lung is not in run"),
    ],
)
def test_rules_are_checked_against_each_other_and_what_is_there(tables: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_rules(tables, "imaging-ai.toml", models=["brain"], destinations=["pacs", "research"])
    assert told in refusal.value.message


def test_models_are_not_checked_when_they_are_not_known() -> None:
    (rule,) = parse_rules([FULL], "imaging-ai.toml")
    assert rule.run == ("brain",)


def test_a_destination_when_there_is_none_is_told_so() -> None:
    with pytest.raises(ConfigError, match="there is no destination at all"):
        parse_rules([FULL], "imaging-ai.toml", destinations=[])
