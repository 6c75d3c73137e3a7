"""The tables of the conformance statement are the tables of the program."""

from __future__ import annotations

import re
from pathlib import Path

from imaging_ai import __version__
from imaging_ai.core.contexts import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from imaging_ai.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

STATEMENT = (Path(__file__).parents[2] / "conformance/statement.md").read_text()


def table(section: str) -> dict[str, str]:
    text = re.split(r"^## ", STATEMENT.split(f"## {section}", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return {uid: name for name, uid in re.findall(r"^\| (\w+) \| ([0-9.]+) \|$", text, re.MULTILINE)}


def test_every_storage_sop_class_is_stated_and_no_other() -> None:
    assert table("3 Storage SOP classes") == dict(STORAGE_SOP_CLASSES)


def test_every_transfer_syntax_is_stated_and_no_other() -> None:
    assert table("4 Transfer syntaxes") == dict(TRANSFER_SYNTAXES)


def test_the_statement_is_of_this_version() -> None:
    assert f"imaging-ai {__version__}" in STATEMENT
    assert f"{IMPLEMENTATION_CLASS_UID}, {IMPLEMENTATION_VERSION_NAME}" in STATEMENT
