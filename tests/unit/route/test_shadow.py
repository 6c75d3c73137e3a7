"""A version in the shadow: it runs beside the one that counts, last, and nothing of it is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imaging_ai.catalog import Catalog
from imaging_ai.core.instance import SeriesSummary
from imaging_ai.core.job import Priority
from imaging_ai.errors import ConfigError
from imaging_ai.route.plan import Run, Skip, plan
from imaging_ai.route.rules import Rule, parse_rules

SERIES = SeriesSummary("1.2", "1.2.3", "CT", 20, 1, {"Modality": "CT"})


def install(models: Path, name: str, version: str) -> None:
    (models / name).mkdir(parents=True)
    (models / name / "dicom.toml").write_text(f'[model]\nversion = "{version}"\n')


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    for name, version in (("spleen", "1"), ("spleen@2", "2"), ("liver", "1")):
        install(tmp_path, name, version)
    return Catalog([tmp_path])


def rule(**more: Any) -> tuple[Rule, ...]:
    return parse_rules([{"name": "one", "run": ["spleen"], "send": ["pacs"], "priority": "HIGH"} | more], "here")


def test_both_versions_run_and_only_the_one_that_counts_is_sent(catalog: Catalog) -> None:
    shown, shadow = plan(rule(shadow=["spleen@2"]), [SERIES], catalog)
    assert isinstance(shown, Run) and isinstance(shadow, Run)
    assert (shown.model.version, shown.destinations, shown.priority) == ("1", ("pacs",), Priority.HIGH)
    assert (shadow.model.version, shadow.destinations, shadow.priority) == ("2", (), Priority.LOW)
    assert shadow.parameters == {"shadow_of": "spleen"} and shown.parameters == {}


def test_a_rule_that_sends_the_same_version_does_not_pull_it_out_of_another_rules_shadow(catalog: Catalog) -> None:
    sending = parse_rules([{"name": "two", "run": ["spleen@2"], "send": ["pacs"]}], "here")
    runs = [run for run in plan((*rule(shadow=["spleen@2"]), *sending), [SERIES], catalog) if isinstance(run, Run)]
    told = [(run.model.version, run.destinations, bool(run.parameters)) for run in runs]
    assert told == [("1", ("pacs",), False), ("2", (), True), ("2", ("pacs",), False)]


def test_the_version_that_has_become_current_runs_once(catalog: Catalog, tmp_path: Path) -> None:
    install(tmp_path, "spleen@1", "1")
    (only,) = plan(rule(shadow=["spleen@1"]), [SERIES], catalog)
    assert isinstance(only, Run) and only.destinations == ("pacs",)


def test_a_shadow_that_is_not_installed_keeps_nothing_from_running(catalog: Catalog) -> None:
    shown, missing = plan(rule(shadow=["spleen@3"]), [SERIES], catalog)
    assert isinstance(shown, Run)
    assert isinstance(missing, Skip) and "no model 'spleen@3'" in str(missing)


@pytest.mark.parametrize("shadow", ["spleen", "liver", "liver@2"])
def test_only_another_version_of_a_model_that_runs_can_be_in_its_shadow(shadow: str) -> None:
    with pytest.raises(ConfigError, match="must be another version"):
        rule(shadow=[shadow])
