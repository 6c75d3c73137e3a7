"""Tables of the settings that are lists of named things, such as rules."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from imaging_ai.errors import ConfigError

__all__ = ["name_of"]


def name_of(mapping: Mapping[str, Any], keys: Collection[str], where: str, *, what: str, example: str) -> str:
    """Return the name of a table that may hold `keys`; `what` it is, and an `example` of a name, are for errors.

    Raises
    ------
    ConfigError
        If it has no name, or a key that is unknown.
    """
    name = mapping.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f'{where}: name is missing; give the {what} a name, as in name = "{example}"')
    for key in mapping:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(keys)}"
            raise ConfigError(f"{where}: {what} {name!r}: {key} is no key of a {what}; {remedy}")
    return name
