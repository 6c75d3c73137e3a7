"""What a search asks for: the query parameters of PS3.18 8.3.4, read into a `Query`.

Attributes are named by keyword or tag, in sequences by dotted paths. A name that is no attribute and no parameter is
ignored, as PS3.18 8.3.1 wants it; a value that cannot be taken is refused by the name of its parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from imaging_ai.archive.query import Key, Query
from imaging_ai.archive.query_attributes import Level, Path, creator_of, has_several, is_private, path_of, vr_of
from imaging_ai.archive.query_values import Criterion, Matching, Uids, criterion_of
from imaging_ai.errors import BadParameterError

__all__ = ["DEFAULT_LIMIT", "query_of"]

DEFAULT_LIMIT = 100
_MOST_KEYS = 64
_MOST_INCLUDED = 512
_MOST_DIGITS = 18
_SPECIFIC_CHARACTER_SET = "00080005"  # never matched (PS3.4 C.2.2.2)
_OTHERS = frozenset({"accept", "charset", "includefield", "limit", "offset"})
_SWITCHES = {
    "fuzzymatching": "fuzzy",
    "emptyvaluematching": "empty_values",
    "multiplevaluematching": "multiple_values",
}


def query_of(
    parameters: Iterable[tuple[str, str]], level: Level, within: Mapping[str, str], levels: frozenset[Level], most: int
) -> Query:
    """Read a search for matches of a level; `within` are the UIDs of the path, `most` the results of one page.

    Raises
    ------
    BadParameterError
        If a parameter has a value that cannot be taken.
    """
    given: dict[str, list[str]] = {}
    for name, value in parameters:
        given.setdefault(name, []).append(value)
    switches = {ours: _switch(name, given[name]) for name, ours in _SWITCHES.items() if name in given}
    included = [part.strip() for value in given.get("includefield", ()) for part in value.split(",")]
    if len(included) > _MOST_INCLUDED:
        _refuse("includefield", f"names more than {_MOST_INCLUDED} attributes")
    include = frozenset(path for part in included if (path := path_of(part)))
    asked = list(_attributes(given))
    if len(asked) > _MOST_KEYS:
        _refuse(asked[_MOST_KEYS][0], f"is one of more than {_MOST_KEYS} match keys")
    asked += [(keyword, path, [uid]) for keyword, uid in within.items() if (path := path_of(keyword))]
    creators = _creators(asked, include)
    keys, universal = _keys(asked, Matching(**switches), creators)
    return Query(
        level,
        keys,
        levels,
        include | universal,
        everything=any(part.lower() == "all" for part in included),
        creators=creators,
        limit=min(_number("limit", given, min(DEFAULT_LIMIT, most)), most),
        offset=_number("offset", given, 0),
    )


def _attributes(given: Mapping[str, list[str]]) -> Iterable[tuple[str, Path, list[str]]]:
    for name, values in given.items():
        if name not in _OTHERS and name not in _SWITCHES and (path := path_of(name)):
            yield name, path, values


def _creators(asked: Sequence[tuple[str, Path, list[str]]], include: frozenset[Path]) -> dict[str, str]:
    """Return the private creators that are given for private attributes (PS3.18 8.3.4.3), by their tag."""
    paths = [*include, *(path for _, path, _ in asked)]
    blocks = {creator_of(tag) for path in paths for tag in path if is_private(tag) and not _is_creator(tag)}
    return {path[-1]: values[0].strip() for _, path, values in asked if path[-1] in blocks and values[0].strip(" *")}


def _keys(
    asked: Sequence[tuple[str, Path, list[str]]], matching: Matching, creators: Mapping[str, str]
) -> tuple[tuple[Key, ...], frozenset[Path]]:
    """Return the match keys, and the attributes that match whatever they are and are only returned."""
    keys, universal = dict[Path, Key](), set[Path]()
    for name, path, values in asked:
        if path[-1] in creators or path[-1] == _SPECIFIC_CHARACTER_SET:
            continue
        vr = vr_of(path[-1])
        if len(values) > 1 and vr != "UI":
            _refuse(name, "is given more than once")
        several = matching.multiple_values and has_several(path[-1])
        criterion = criterion_of(name, vr, "\\".join(values), replace(matching, multiple_values=several))
        if criterion is None:
            universal.add(path)
        elif path not in keys:
            keys[path] = Key(name, path, criterion)
        else:
            keys[path] = Key(name, path, _both(name, keys[path].criterion, criterion))
    return tuple(keys.values()), frozenset(universal)


def _both(name: str, one: Criterion, other: Criterion) -> Criterion:
    """Return what meets a key and the path, or keys by keyword and by tag: of UIDs, those that both have."""
    if not (isinstance(one, Uids) and isinstance(other, Uids)):
        _refuse(name, "is given by keyword and by tag")
    return Uids(one.uids & other.uids)


def _is_creator(tag: str) -> bool:
    return tag[4:6] == "00"


def _switch(name: str, values: Sequence[str]) -> bool:
    text = values[-1].strip().lower()
    if text not in ("true", "false"):
        _refuse(name, "is neither true nor false")
    return text == "true"


def _number(name: str, given: Mapping[str, list[str]], default: int) -> int:
    if name not in given:
        return default
    text = given[name][-1].strip()
    if not (text.isascii() and text.isdigit()) or len(text) > _MOST_DIGITS:
        _refuse(name, f"is not a whole number from 0 up to {_MOST_DIGITS} digits")
    return int(text)


def _refuse(name: str, reason: str) -> NoReturn:
    raise BadParameterError(name[:64], reason)
