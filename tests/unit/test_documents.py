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
PAGES = (
    ROOT / "README.md",
    *(page for place in ("docs", "deploy", "plugins") for page in (ROOT / place).rglob("*.md")),
)


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
    table = OPERATIONS.split("## Settings", 1)[1]
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (.+?) \|", table, re.MULTILINE))
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
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_picture_is_shown() -> None:
    shown = {name for page in PAGES for name in re.findall(r"images/([\w-]+\.png)\)", page.read_text())}
    assert shown == {file.name for file in (ROOT / "docs/images").iterdir()}


def settings_shown() -> list[tuple[str, str]]:
    blocks = [
        (page.name, text) for page in PAGES for text in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    known = set(Settings.__struct_fields__)
    return [(page, text) for page, text in blocks if known & set(re.findall(r"^\[\[?(\w+)", text, re.MULTILINE)[:1])]


@pytest.mark.parametrize(("page", "text"), settings_shown())
def test_settings_that_the_documents_show_can_be_read(page: str, text: str, tmp_path: Path) -> None:
    text = re.sub(r"^password_file.*", "", text, flags=re.MULTILINE)  # it is read at once
    (file := tmp_path / "imaging-ai.toml").write_text(text)
    config.load(file, environment={})


def commands(group: click.Group, prefix: str = "") -> list[str]:
    found = []
    for name, command in group.commands.items():
        found.append(f"{prefix}{name}")
        if isinstance(command, click.Group):
            found += commands(command, f"{prefix}{name} ")
    return found


def leaves(group: click.Group) -> list[str]:
    every = commands(group)
    return [one for one in every if not any(other.startswith(f"{one} ") for other in every)]


@pytest.mark.parametrize("command", commands(cli))
def test_every_command_and_every_option_has_help(command: str) -> None:
    found: click.Command = cli
    for name in command.split():
        assert isinstance(found, click.Group)
        found = found.commands[name]
    assert found.help
    assert all(option.help for option in found.params if isinstance(option, click.Option))


def test_every_command_is_in_the_table_of_operations() -> None:
    table = OPERATIONS.split("## Commands", 1)[1].split("\n## ", 1)[0]
    missing = [one for one in leaves(cli) if not re.search(rf"`{one}[ `]", table)]
    assert not missing


def test_commands_that_the_documents_name_exist() -> None:
    known = set(commands(cli))
    text = "\n".join(page.read_text() for page in PAGES if "plugins" not in page.parts)
    for line in re.findall(r"(?<!/)imaging-ai (?:--config \S+ )?([a-z]+(?: [a-z]+)?)", text):
        words = line.split()
        assert " ".join(words) in known or words[0] in known, line


def test_the_settings_that_we_hand_out_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGING_AI_DATA_DIR", str(tmp_path))
    settings = config.load(ROOT / "deploy/imaging-ai.toml")
    assert [rule.name for rule in wiring.make_rules(settings)] == ["FDG-PET"]
    assert list(wiring.make_destinations(settings)) == ["pacs"]
