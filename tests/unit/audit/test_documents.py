"""docs/audit.md: its actions are those of the code, and the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

from imaging_ai.audit.actions import ACTIONS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/audit.md").read_text()


def test_the_actions_of_the_documentation_are_those_of_the_code() -> None:
    section = PAGE.split("\n## What is recorded\n", 1)[1].partition("\n## ")[0]
    stated = [tuple(line.strip("| ").split(" | ")) for line in section.splitlines() if line.startswith("| `")]
    real = [
        (f"`{name}`", one.meaning, f"{one.event.value} {one.event.meaning}", one.kind) for name, one in ACTIONS.items()
    ]
    assert stated == real


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", PAGE)
    assert len(named) > 20
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"


def test_every_action_that_is_mapped_is_declared() -> None:
    section = PAGE.split("IHE ATNA", 1)[1]
    for line in section.splitlines():
        if line.startswith("| ") and line.count(" | ") == 2:
            for action in re.findall(r"`([a-z.-]+)`", line.split(" | ")[1]):
                assert action in ACTIONS
