"""What the documents say is what the program has: settings, errors, commands, and the tree of the README."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec
import pytest

from imaging_ai import config, wiring
from imaging_ai.cli import cli
from imaging_ai.config import Settings

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text()
README = (ROOT / "README.md").read_text()


def settings() -> dict[str, object]:
    found: dict[str, object] = {}
    defaults = Settings()
    for name in Settings.__struct_fields__:
        value = getattr(defaults, name)
        if isinstance(value, msgspec.Struct):
            found |= {f"{name}.{key}": getattr(value, key) for key in value.__struct_fields__}
        elif name not in {"rules", "destinations", "peers", "retention", "source"}:
            found[name] = value
    return found


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (.+?) \|", OPERATIONS, re.MULTILINE))
    assert set(rows) == set(settings())
    for key, value in settings().items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert rows[key] == f"{value:g}", key
        elif isinstance(value, str) and value:
            assert rows[key] == f"`{value}`", key


def test_the_tree_of_the_readme_is_the_tree() -> None:
    tree = README.split("src/imaging_ai/\n", 1)[1].split("models/  ", 1)[0]
    named = set(re.findall(r"(?<![\w/])([a-z_]+(?:\.py|/)|demo\*)", tree))
    real = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / "src/imaging_ai").iterdir()
        if path.name != "__pycache__" and not path.name.startswith("__") and path.suffix in ("", ".py")
    }
    demo = {name for name in real if name.startswith("demo")}
    assert named - {"demo*"} == real - demo


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def commands(group: click.Group, prefix: str = "") -> list[str]:
    found = []
    for name, command in group.commands.items():
        found.append(f"{prefix}{name}")
        if isinstance(command, click.Group):
            found += commands(command, f"{prefix}{name} ")
    return found


@pytest.mark.parametrize("command", commands(cli))
def test_every_command_has_help(command: str) -> None:
    found: click.Command = cli
    for name in command.split():
        assert isinstance(found, click.Group)
        found = found.commands[name]
    assert found.help


def test_commands_that_the_documents_name_exist() -> None:
    known = set(commands(cli))
    text = "\n".join(page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    for line in re.findall(r"imaging-ai (?:--config \S+ )?([a-z]+(?: [a-z]+)?)", text):
        words = line.split()
        assert " ".join(words) in known or words[0] in known, line


def test_the_settings_that_we_hand_out_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGING_AI_DATA_DIR", str(tmp_path))
    settings = config.load(ROOT / "deploy/imaging-ai.toml")
    assert [rule.name for rule in wiring.make_rules(settings)] == ["FDG-PET"]
    assert list(wiring.make_destinations(settings)) == ["pacs"]
