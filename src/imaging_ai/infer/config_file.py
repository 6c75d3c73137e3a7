"""A bundle's configuration file, read into a plain mapping with its short-hands written out.

Short-hands of MONAI's `ConfigParser`: identifiers relative to where they stand (``@#sibling``, ``@##uncle``) and
macros (``%other::key``), which stand for a copy of another part of the same file.
"""

from __future__ import annotations

import ast
import copy
import json
from pathlib import Path
from typing import Any

import yaml
from monai.bundle.config_parser import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

from imaging_ai.errors import BundleInvalid

__all__ = ["imported_names", "read_mapping"]

#: A macro may stand for a part with macros; more levels than this are a circle.
_DEPTH = 20


def read_mapping(file: Path) -> dict[str, Any]:
    """Read a JSON or YAML file.

    Raises
    ------
    BundleInvalid
        If it is missing, damaged or no mapping, or a macro of it cannot be written out.
    """
    try:
        text = file.read_text("utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError as error:
        raise BundleInvalid(f"{file}: is missing") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise BundleInvalid(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BundleInvalid(f"{file}: must be a mapping")
    absolute = _absolute(content, "", file)
    return {str(key): _written_out(value, absolute, file, _DEPTH) for key, value in absolute.items()}


def imported_names(content: dict[str, Any]) -> dict[str, str]:
    """Say what the names stand for that ``imports`` binds: "mn" for "monai.networks", and so on."""
    lines = [line for key in ("imports", "import") for line in _list(content.get(key)) if isinstance(line, str)]
    names: dict[str, str] = {}
    for line in lines:
        for node in _statements(line.removeprefix("$").strip()):
            if isinstance(node, ast.Import):
                names |= {one.asname or one.name.split(".")[0]: _bound(one) for one in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return names


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:
        return []  # what cannot be read binds no name, and an expression that needs it is refused


def _bound(name: ast.alias) -> str:
    return name.name if name.asname else name.name.split(".")[0]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _absolute(config: Any, where: str, file: Path) -> Any:
    """Copy a configuration with all its relative identifiers made absolute."""
    if isinstance(config, dict):
        return {str(key): _absolute(value, _below(where, key), file) for key, value in config.items()}
    if isinstance(config, list):
        return [_absolute(value, _below(where, index), file) for index, value in enumerate(config)]
    if isinstance(config, str):
        try:
            return ConfigParser.resolve_relative_ids(where, config)
        except ValueError as error:
            raise BundleInvalid(f"{file}: {where}: {error}") from error
    return config


def _below(where: str, key: object) -> str:
    return f"{where}{ReferenceResolver.sep}{key}" if where else str(key)


def _written_out(config: Any, whole: dict[str, Any], file: Path, depth: int) -> Any:
    """Copy a part of a configuration with what its macros stand for in their places."""
    if isinstance(config, dict):
        return {key: _written_out(value, whole, file, depth) for key, value in config.items()}
    if isinstance(config, list):
        return [_written_out(value, whole, file, depth) for value in config]
    if not (isinstance(config, str) and config.startswith("%")):
        return config
    path, identifier = ConfigParser.split_path_id(config[1:])
    if path:
        raise BundleInvalid(f"{file}: the macro {config} is refused; write out what it takes from another file")
    if not depth:
        raise BundleInvalid(f"{file}: the macro {config} stands for itself")
    found: Any = whole
    for key in identifier.split(ReferenceResolver.sep):
        try:
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise BundleInvalid(f"{file}: the macro {config} stands for nothing: there is no {key}") from error
    return _written_out(copy.deepcopy(found), whole, file, depth - 1)
