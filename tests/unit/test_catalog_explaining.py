"""`[explain]`: what it asks for, what a rule may say to it, and which words it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

import phantoms
from imaging_ai.catalog import read_model
from imaging_ai.catalog.explaining import Explaining
from imaging_ai.errors import ConfigError

TOML = phantoms._DICOM_TOML.replace("MODALITY", "CT")


def read(folder: Path, table: str) -> Explaining:
    return read_model(phantoms.threshold_bundle(folder / "model", dicom_toml=f"{TOML}\n[explain]\n{table}")).explain


def test_nothing_is_explained_by_default(tmp_path: Path) -> None:
    assert not read(tmp_path, "").wanted


def test_the_table_says_how(tmp_path: Path) -> None:
    told = read(tmp_path, 'methods = ["occlusion"]\nlayer = "model.3"\nbaseline = "blur"\nsteps = 50\nkinds = ["SC"]')
    assert told.wanted
    assert (told.layer, told.baseline, told.steps, told.kinds) == ("model.3", "blur", 50, ("SC",))


@pytest.mark.parametrize(
    "table",
    ['methods = ["grad-kam"]', "steps = 1", 'baseline = "zero"', 'when = "sometimes"', "colour = 1", 'kinds = ["SEG"]'],
)
def test_a_word_that_it_does_not_know_is_an_error_that_names_the_table(tmp_path: Path, table: str) -> None:
    with pytest.raises(ConfigError, match="explain"):
        read(tmp_path, table)


@pytest.mark.parametrize(
    ("own", "wish", "methods"),
    [
        (Explaining(), None, ()),
        (Explaining(), True, ("grad-cam",)),
        (Explaining(), ["occlusion"], ("occlusion",)),
        (Explaining(methods=("occlusion",)), True, ("occlusion",)),
        (Explaining(methods=("occlusion",)), False, ()),
        (Explaining(methods=("occlusion",), when="never"), None, ()),
        (Explaining(methods=("occlusion",), when="never"), True, ("occlusion",)),
    ],
)
def test_a_rule_may_ask_for_it_choose_the_methods_or_forbid_it(
    own: Explaining, wish: object, methods: tuple[str, ...]
) -> None:
    asked = own.asked(wish)
    assert (asked.methods if asked.wanted else ()) == methods


@pytest.mark.parametrize("wish", ["grad-cam", ["nonsense"], [], 1, {"methods": []}])
def test_a_wish_that_nobody_can_grant_is_an_error(wish: object) -> None:
    with pytest.raises(ConfigError, match="neither true, false nor a list"):
        Explaining().asked(wish)
