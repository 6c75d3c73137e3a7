"""The standard's own tables: which modules an IOD has, which attributes a module has, and of which type (PS3.3).

highdicom ships PS3.3 as data; this is the one place that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from highdicom._standard_utils import construct_module_tree, get_iod_module_map, get_sop_class_iod_map

__all__ = ["Attribute", "mandatory_modules", "module"]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One row of a module table: keyword, type (1, 1C, 2, 2C or 3), and for a sequence the rows of its items."""

    keyword: str
    type: str
    items: Mapping[str, Attribute]

    @property
    def is_code(self) -> bool:
        """Whether the items of this sequence are coded concepts (PS3.3 8.8)."""
        return "CodeMeaning" in self.items


@cache
def module(name: str) -> Mapping[str, Attribute]:
    """Return the attributes of a module, by keyword; `name` as in ``general-study``."""
    return _attributes(construct_module_tree(name))


@cache
def mandatory_modules(sop_class_uid: str) -> tuple[str, ...]:
    """Return the names of the modules that every instance of the class has (usage M)."""
    iod = get_sop_class_iod_map()[sop_class_uid]
    return tuple(str(row["key"]) for row in get_iod_module_map()[iod] if row["usage"] == "M")


def _attributes(tree: Mapping[str, Any]) -> Mapping[str, Attribute]:
    rows: Mapping[str, Mapping[str, Any]] = tree.get("attributes", {})
    return {keyword: Attribute(keyword, str(row["type"].value), _attributes(row)) for keyword, row in rows.items()}
