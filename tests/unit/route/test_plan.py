"""What is decided on a study, as tables of series, rules and models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imaging_ai.catalog import Catalog
from imaging_ai.core.instance import SeriesSummary
from imaging_ai.core.job import Priority
from imaging_ai.route.plan import Decision, Run, Skip, looks_around, plan
from imaging_ai.route.rules import Rule, parse_rules

BRATS = """
[inputs.t1]
SeriesDescription = "*t1*"
[inputs.flair]
SeriesDescription = "*flair*"
"""


def series(uid: str, modality: str = "MR", instances: int = 20, **attributes: str) -> SeriesSummary:
    return SeriesSummary("1.2", uid, modality, instances, 1, {"Modality": modality, **attributes})


def rules(*tables: dict[str, Any]) -> tuple[Rule, ...]:
    return parse_rules([{"name": f"rule {n}", "run": ["any"]} | table for n, table in enumerate(tables, 1)], "here")


def runs(decisions: list[Decision]) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (run.model.name, tuple(one.series_instance_uid for one in run.series))
        for run in decisions
        if isinstance(run, Run)
    ]


def skips(decisions: list[Decision]) -> list[str]:
    return [f"{skip.series_instance_uid}: {skip}" for skip in decisions if isinstance(skip, Skip)]


@pytest.fixture(autouse=True)
def models(install: Callable[[str, str], None]) -> None:
    install("any", "")
    install("mr only", '[accepts]\nModality = "MR"')
    install("brats", BRATS)


def test_a_series_runs_every_model_of_every_rule_that_takes_it(catalog: Catalog) -> None:
    wanted = rules({"when": {"Modality": "MR"}, "run": ["any", "mr only"]}, {"when": {"Modality": "CT"}})
    assert runs(plan(wanted, [series("1")], catalog)) == [("any", ("1",)), ("mr only", ("1",))]


def test_a_rule_that_does_not_match_says_why(catalog: Catalog) -> None:
    decisions = plan(rules({"when": {"Modality": "MR", "instances": ">= 30"}}), [series("1", "CT")], catalog)
    assert skips(decisions) == ["1: rule 'rule 1': Modality is CT, wanted MR; 20 instances, wanted >= 30"]


def test_a_model_that_does_not_accept_says_why(catalog: Catalog) -> None:
    decisions = plan(rules({"run": ["mr only"]}), [series("1", "CT")], catalog)
    assert skips(decisions) == ["1: rule 'rule 1', model 'mr only': Modality is CT, wanted MR"]


def test_a_model_that_is_not_installed_is_told_and_stops_nothing(catalog: Catalog) -> None:
    decisions = plan(rules({"run": ["gone", "any"]}), [series("1")], catalog)
    assert runs(decisions) == [("any", ("1",))]
    assert skips(decisions) == ["1: rule 'rule 1', model 'gone': no model 'gone'; installed: any, brats, mr only"]


def test_a_model_that_is_broken_is_told_and_stops_nothing(
    catalog: Catalog, install: Callable[[str, str], None]
) -> None:
    install("broken", "[accepts]\nModlity = 3")
    decisions = plan(rules({"run": ["broken", "any"]}), [series("1")], catalog)
    assert runs(decisions) == [("any", ("1",))]
    assert "did you mean Modality?" in skips(decisions)[0]


def test_without_rules_nothing_is_decided(catalog: Catalog) -> None:
    assert plan((), [series("1")], catalog) == []


@pytest.mark.parametrize("modality", ["SEG", "SR", "PR", "KO", "RTSTRUCT", "DOC"])
def test_what_came_out_of_reading_is_not_read_again_unless_named(modality: str, catalog: Catalog) -> None:
    study = [series("1", modality)]
    assert runs(plan(rules({}, {"when": {"Modality": "*"}}, {"when": {"Modality": "!CT"}}), study, catalog)) == []
    assert runs(plan(rules({"when": {"Modality": ["CT", modality]}}), study, catalog)) == [("any", ("1",))]


def test_only_what_is_due_is_decided(catalog: Catalog) -> None:
    study = [series("1"), series("2"), series("3", "CT")]
    decisions = plan(rules({"when": {"Modality": "MR"}}), study, catalog, due=["2"])
    assert runs(decisions) == [("any", ("2",))]
    assert skips(decisions) == []


def test_two_rules_that_ask_the_same_make_one_run_with_both_destinations_and_the_higher_priority(
    catalog: Catalog,
) -> None:
    wanted = rules({"send": ["pacs"], "priority": "LOW"}, {"send": ["research", "pacs"], "priority": "HIGH"})
    (run,) = plan(wanted, [series("1")], catalog)
    assert isinstance(run, Run)
    assert (run.rule, run.destinations, run.priority) == ("rule 1", ("pacs", "research"), Priority.HIGH)


def test_other_parameters_are_another_run(catalog: Catalog) -> None:
    wanted = rules({"parameters": {"threshold": 1}}, {"parameters": {"threshold": 2}})
    assert len(plan(wanted, [series("1")], catalog)) == 2


STUDY = [
    series("1", instances=10, SeriesDate="20240103"),
    series("2", instances=30, SeriesDate="20240101"),
    series("3", "CT", instances=99, SeriesDate="20240109"),
]


@pytest.mark.parametrize(("select", "taken"), [("all", ["1", "2"]), ("largest", ["2"]), ("newest", ["1"])])
def test_a_rule_selects_among_the_series_that_its_model_accepts(
    select: str, taken: list[str], catalog: Catalog
) -> None:
    decisions = plan(rules({"run": ["mr only"], "select": select}), STUDY, catalog)
    assert runs(decisions) == [("mr only", (uid,)) for uid in taken]


def test_a_series_that_was_not_selected_says_which_was(catalog: Catalog) -> None:
    decisions = plan(rules({"run": ["mr only"], "select": "largest"}), STUDY, catalog)
    assert "1: rule 'rule 1', model 'mr only': the largest of 2 matching series is taken, 2" in skips(decisions)


def test_a_selection_waits_for_a_matching_series_that_still_arrives(catalog: Catalog) -> None:
    wanted = rules({"run": ["mr only"], "select": "largest"})
    decisions = plan(wanted, STUDY, catalog, due=["1"], receiving=["2"])
    assert [(skip.series_instance_uid, skip.waits) for skip in decisions if isinstance(skip, Skip)] == [("1", True)]


def test_a_selection_does_not_wait_for_what_the_model_would_not_take(catalog: Catalog) -> None:
    wanted = rules({"run": ["mr only"], "select": "largest"})
    decisions = plan(wanted, STUDY, catalog, due=["1", "2"], receiving=["3"])
    assert runs(decisions) == [("mr only", ("2",))]


T1, FLAIR = series("1", SeriesDescription="ax T1"), series("2", SeriesDescription="ax FLAIR")
OTHER = series("3", SeriesDescription="scout")


def test_a_model_of_several_inputs_takes_a_series_for_each_whatever_their_order(catalog: Catalog) -> None:
    for study in ([T1, FLAIR, OTHER], [OTHER, FLAIR, T1]):
        (run,) = [one for one in plan(rules({"run": ["brats"]}), study, catalog) if isinstance(one, Run)]
        assert (run.channels, [one.series_instance_uid for one in run.series]) == (("t1", "flair"), ["1", "2"])


def test_a_series_that_fits_no_input_says_why_for_each(catalog: Catalog) -> None:
    (told,) = skips(plan(rules({"run": ["brats"]}), [T1, FLAIR, OTHER], catalog))
    assert "not the input t1 (SeriesDescription is other, wanted *t1*); not the input flair" in told


def test_a_missing_input_is_named(catalog: Catalog) -> None:
    decisions = plan(rules({"run": ["brats"]}), [T1], catalog)
    assert runs(decisions) == []
    assert skips(decisions) == ["1: rule 'rule 1', model 'brats': no series of the study is there for the input flair"]


def test_an_input_that_still_arrives_is_waited_for(catalog: Catalog) -> None:
    (skip,) = plan(rules({"run": ["brats"]}), [T1, FLAIR], catalog, due=["1"], receiving=["2"])
    assert isinstance(skip, Skip) and skip.waits


def test_the_last_input_to_arrive_starts_the_run(catalog: Catalog) -> None:
    assert runs(plan(rules({"run": ["brats"]}), [T1, FLAIR], catalog, due=["2"])) == [("brats", ("1", "2"))]


def test_a_series_that_is_not_needed_starts_nothing(catalog: Catalog) -> None:
    smaller = series("4", SeriesDescription="t1", instances=3)
    decisions = plan(rules({"run": ["brats"]}), [T1, FLAIR, smaller], catalog, due=["4"])
    assert runs(decisions) == []
    assert "another series of the study is taken" in skips(decisions)[0]


def test_one_series_is_not_two_inputs(catalog: Catalog) -> None:
    both = series("5", SeriesDescription="t1 flair", instances=99)
    assert runs(plan(rules({"run": ["brats"]}), [both], catalog)) == []
    assert runs(plan(rules({"run": ["brats"]}), [both, FLAIR], catalog)) == [("brats", ("5", "2"))]


def test_a_rule_can_narrow_an_input(catalog: Catalog) -> None:
    post = series("6", SeriesDescription="t1 post", instances=3)
    narrowed = {"run": ["brats"], "inputs": {"brats": {"t1": {"SeriesDescription": "*post*"}}}}
    assert runs(plan(rules(narrowed), [T1, FLAIR, post], catalog)) == [("brats", ("6", "2"))]


def test_only_rules_that_choose_look_at_the_rest_of_the_study(catalog: Catalog) -> None:
    assert not looks_around(rules({}, {"run": ["gone"]}), catalog)
    assert looks_around(rules({"select": "newest"}), catalog)
    assert looks_around(rules({"run": ["brats"]}), catalog)
