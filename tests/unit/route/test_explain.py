"""The rules tried on a folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phantoms
from imaging_ai.catalog import Catalog
from imaging_ai.errors import NotFound
from imaging_ai.route.explain import explain_folder, render
from imaging_ai.route.rules import Rule, parse_rules


def rules(*tables: dict[str, Any]) -> tuple[Rule, ...]:
    return parse_rules([{"name": f"rule {n}", "run": ["any"]} | table for n, table in enumerate(tables, 1)], "here")


def images(modality: str, name: str, count: int) -> list[Any]:
    return phantoms.series(np.zeros((count, 4, 4), np.float32), modality=modality, name=name)


@pytest.fixture
def folder(tmp_path: Path, install: Callable[[str, str], None]) -> Path:
    install("any", "")
    folder = tmp_path / "incoming"
    phantoms.write(images("CT", "one", 3), folder / "a")
    phantoms.write(images("MR", "two", 2), folder / "b" / "c")
    (folder / "README.txt").write_text("not an instance")
    (folder / "empty.dcm").touch()
    return folder


def test_each_series_tells_what_runs_and_what_does_not(folder: Path, catalog: Catalog) -> None:
    wanted = rules({"when": {"Modality": "CT", "RescaleType": "HU"}, "send": ["pacs"]})
    told = list(render(explain_folder(folder, wanted, catalog)))
    lines = [line.split(": ", 1)[-1] if line.startswith("series") else line for line in told]
    for series in (
        ["CT, 3 instances", "  runs rule 'rule 1', model 'any'; results to pacs"],
        [
            "MR, 2 instances",
            "  no   rule 'rule 1': Modality is MR, wanted CT; RescaleType is absent, wanted HU",
        ],
    ):
        start = lines.index(series[0])
        assert lines[start : start + 2] == series
    assert lines[-1] == "2 files are no DICOM instances"


def test_the_inputs_of_a_model_are_told_apart(
    folder: Path, catalog: Catalog, install: Callable[[str, str], None]
) -> None:
    install("pair", '[inputs.first]\nModality = "CT"\n[inputs.second]\nModality = "MR"')
    study = images("CT", "one", 1) + images("MR", "two", 1)
    for ds in study:
        ds.StudyInstanceUID = "1.2"
    phantoms.write(study, folder / "pair")
    told = list(render(explain_folder(folder / "pair", rules({"run": ["pair"]}), catalog)))
    assert sum("as its input first" in line for line in told) == 1
    assert sum("as its input second" in line for line in told) == 1


def test_without_rules_it_says_so(folder: Path, catalog: Catalog) -> None:
    assert "  there are no rules" in list(render(explain_folder(folder, (), catalog)))


def test_a_folder_without_instances_is_told(tmp_path: Path, catalog: Catalog) -> None:
    assert list(render(explain_folder(tmp_path, (), catalog))) == ["no series found"]


def test_a_folder_that_is_not_there_is_not_found(tmp_path: Path, catalog: Catalog) -> None:
    with pytest.raises(NotFound):
        explain_folder(tmp_path / "gone", (), catalog)


def test_progress_counts_the_files(folder: Path, catalog: Catalog) -> None:
    seen: list[int] = []
    explain_folder(folder, (), catalog, progress=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_every_real_series_can_be_explained_whatever_its_syntax(
    real_data: Path, catalog: Catalog, install: Callable[[str, str], None]
) -> None:
    install("any", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explanation = explain_folder(real_data / "syntaxes", rules({}), catalog)
    assert len(explanation.series) > 20
    assert len(list(render(explanation))) >= 2 * len(explanation.series)


def test_a_real_pet_study_is_told_apart_from_its_contours(
    real_data: Path, catalog: Catalog, install: Callable[[str, str], None]
) -> None:
    install("any", "")
    wanted = rules({"when": {"Modality": "PT", "instances": ">= 40"}})
    told = list(render(explain_folder(real_data / "sts" / "STS_004" / "PET", wanted, catalog)))
    assert sum(line.startswith("  runs") for line in told) == 1
    assert any("a series of Modality RTSTRUCT is taken only by a rule that names it" in line for line in told)
