"""Which version of a model its plain name means: `current.json` in a folder of models.

Versions lie side by side as `NAME@VERSION`; a folder `NAME` without one is a version too, written "". The newest choice
comes first, what it replaced behind it, so that going back is dropping the first. The file is replaced in one step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from imaging_ai.errors import ConfigError, WrongState

__all__ = ["choose", "folder_of", "go_back", "read_choices"]

_FILE = "current.json"
_REMEMBERED = 20


def folder_of(name: str, version: str) -> str:
    """Return the folder that holds a version of a model."""
    return f"{name}@{version}" if version else name


def read_choices(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the versions chosen for each name, the newest choice first.

    Raises
    ------
    ConfigError
        If the file is damaged.
    """
    file = folder / _FILE
    try:
        content = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{file}: {error}; remove it to run the folders as they are named") from error
    if not isinstance(content, dict) or not all(isinstance(chosen, list) for chosen in content.values()):
        raise ConfigError(f"{file}: must give for each model the list of its versions; remove it to start anew")
    return {name: tuple(map(str, chosen)) for name, chosen in content.items() if chosen}


def choose(folder: Path, name: str, version: str) -> None:
    """Let `name` mean this version from now on."""
    choices = read_choices(folder)
    before = choices.get(name) or (("",) if version else ())
    if before[:1] != (version,):
        _write(folder, {**choices, name: (version, *before)[:_REMEMBERED]})


def go_back(folder: Path, name: str) -> str:
    """Let `name` mean what it meant before the last choice, and return that version.

    Raises
    ------
    WrongState
        If there was none.
    """
    choices = read_choices(folder)
    if len(choices.get(name, ())) < 2:
        raise WrongState(f"the model {name} has no earlier version to go back to")
    before = choices[name][1:]
    _write(folder, {**choices, name: before})
    return before[0]


def _write(folder: Path, choices: Mapping[str, Sequence[str]]) -> None:
    whole = folder / f".{_FILE}.{os.getpid()}"
    whole.write_text(json.dumps({name: list(chosen) for name, chosen in sorted(choices.items())}, indent=2) + "\n")
    whole.replace(folder / _FILE)
