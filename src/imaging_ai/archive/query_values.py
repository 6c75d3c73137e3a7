"""What the value of a match key asks for (PS3.4 C.2.2.2): read once, then held against values or put into SQL.

`criterion_of` reads a key's text by its VR; a value that cannot be of that VR is a `BadParameterError`. An empty key,
or one of asterisks only, matches everything: it has no criterion. Values to be tested are those of DICOM JSON (PS3.18
F.2).

An attribute without a value matches no key but the empty one and, under empty value matching, ``""``. Text is compared
with its case, names without (`core.names`), numbers by value. Several values of a key mean any of them, joined by
backslash (by comma too where a comma cannot be part of a value); under multiple value matching, all of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import re2

from imaging_ai.archive.query_times import Moments, moments_of
from imaging_ai.core.identity import is_uid
from imaging_ai.core.names import DELIMITERS, name_key, name_pattern, words_of
from imaging_ai.errors import BadParameterError

__all__ = ["Criterion", "Empty", "FuzzyName", "Matching", "Moments", "Name", "Numbers", "Text", "Uids", "criterion_of"]

_CASES = frozenset({"AE", "AS", "AT", "CS"})  # VRs in which a comma cannot be part of a value
_TEXTS = frozenset({"LO", "LT", "SH", "ST", "UC", "UR", "UT", "UN"}) | _CASES
_SINGLE = frozenset({"LT", "ST", "UR", "UT"})  # a backslash is text there (PS3.5 6.2)
_NUMERIC = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
_TIMES = frozenset({"DA", "DT", "TM"})

_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # what a database cannot hold, so that no value has it
_MOST_CHARACTERS = 1_024
_MOST_VALUES = 64
_MOST_UIDS = 2_000
_MOST_WILDCARDS = 32


@dataclass(frozen=True, slots=True)
class Matching:
    """How a whole search matches (PS3.18 8.3.4.2, 8.3.4.5, 8.3.4.6)."""

    fuzzy: bool = False
    empty_values: bool = False
    multiple_values: bool = False


@dataclass(frozen=True, slots=True)
class Empty:
    """The attribute has no value."""

    def holds(self, values: Sequence[Any]) -> bool:
        return all(value is None or value == "" for value in values)


@dataclass(frozen=True, slots=True)
class Text:
    """The values match any of the patterns, or every one of them; * is any text and ? any character."""

    patterns: tuple[str, ...]
    every: bool = False

    def holds(self, values: Sequence[Any]) -> bool:
        found = [_whole(value) for value in values if value is not None]
        matched = (any(like(value, pattern) for value in found) for pattern in self.patterns)
        return all(matched) if self.every else any(matched)


@dataclass(frozen=True, slots=True)
class Name:
    """A person name matches any of the patterns for its stored form."""

    patterns: tuple[str, ...]

    def holds(self, values: Sequence[Any]) -> bool:
        keys = [name_key(_whole(value)) for value in values]
        return any(like(key, pattern) for key in keys if key for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class FuzzyName:
    """Every word, in one of its spellings, begins a word of a person name."""

    words: tuple[frozenset[str], ...]

    def holds(self, values: Sequence[Any]) -> bool:
        return any(self._begins(name_key(_whole(value))) for value in values)

    def _begins(self, key: str) -> bool:
        starts = re.split(f"[{re.escape(DELIMITERS)}]", key)
        return all(any(start.startswith(tuple(spellings)) for start in starts) for spellings in self.words)


@dataclass(frozen=True, slots=True)
class Uids:
    """The UID is one of these."""

    uids: frozenset[str]

    def holds(self, values: Sequence[Any]) -> bool:
        return any(value in self.uids for value in values)


@dataclass(frozen=True, slots=True)
class Numbers:
    """A value is one of these numbers."""

    numbers: frozenset[float]

    def holds(self, values: Sequence[Any]) -> bool:
        return any(_number(value) in self.numbers for value in values if value is not None)


Criterion = Empty | Text | Name | FuzzyName | Uids | Moments | Numbers


def criterion_of(name: str, vr: str, text: str, matching: Matching) -> Criterion | None:
    """Read what the key `name` asks for of an attribute with this VR; None of everything.

    Raises
    ------
    BadParameterError
        If the value cannot be of that VR, or is longer than anybody needs.
    """
    text = text.strip(" ")
    if _NO_TEXT.search(text):
        raise BadParameterError(name, "has a character that no value has")
    if not text.strip("*\\ ," if vr in _CASES or vr == "UI" else "*\\ "):
        return None
    if text == '""' and matching.empty_values:
        return Empty()
    if vr == "UI":
        return _uids(name, text)
    if len(text) > _MOST_CHARACTERS:
        raise BadParameterError(name, f"is longer than {_MOST_CHARACTERS} characters")
    if vr in _TIMES:
        return moments_of(name, vr, text)
    if vr == "PN":
        return _names(name, text, matching)
    if vr in _NUMERIC:
        return Numbers(frozenset(_read_number(name, value) for value in re.split(r"[\\,]", text)))
    if vr in _TEXTS:
        return _text(name, vr, text, matching)
    raise BadParameterError(name, f"cannot be matched: values of VR {vr} are not compared")


def like(value: str, pattern: str) -> bool:
    """Say whether a value matches a pattern with the wildcards * and ?, in time linear in the value."""
    if "*" not in pattern and "?" not in pattern:
        return value == pattern
    pieces = (".*" if piece == "*" else "." if piece == "?" else re2.escape(piece) for piece in split_pattern(pattern))
    options = re2.Options()
    options.dot_nl, options.log_errors = True, False
    return re2.compile("".join(pieces), options).fullmatch(value) is not None  # RE2 keeps the last ones compiled


def split_pattern(pattern: str) -> list[str]:
    """Return the literal runs and the wildcards of a pattern."""
    return [piece for piece in re.split(r"([*?])", pattern) if piece]


def _uids(name: str, text: str) -> Uids:
    uids = [uid for uid in (part.strip(" ") for part in re.split(r"[\\,]", text)) if uid]
    if len(uids) > _MOST_UIDS:
        raise BadParameterError(name, f"lists more than {_MOST_UIDS} UIDs")
    if not all(is_uid(uid) for uid in uids):
        raise BadParameterError(name, "has something that is no UID (PS3.5 9.1)")
    return Uids(frozenset(uids))


def _names(name: str, text: str, matching: Matching) -> Name | FuzzyName:
    if matching.fuzzy and (words := words_of(text)):
        if len(words) > _MOST_VALUES:
            raise BadParameterError(name, f"has more than {_MOST_VALUES} words")
        return FuzzyName(words)
    return Name(tuple(_pattern(name, name_pattern(value)) for value in _values(name, text, r"\\")))


def _text(name: str, vr: str, text: str, matching: Matching) -> Text:
    separators = r"[\\,]" if vr in _CASES else r"\\"
    values = [text] if vr in _SINGLE else _values(name, text, separators)
    return Text(tuple(_pattern(name, value) for value in values), every=matching.multiple_values)


def _values(name: str, text: str, separators: str) -> list[str]:
    values = [value for part in re.split(separators, text) if (value := part.strip(" "))]
    if len(values) > _MOST_VALUES:
        raise BadParameterError(name, f"has more than {_MOST_VALUES} values")
    return values


def _pattern(name: str, text: str) -> str:
    pattern = re.sub(r"\*+", "*", text)
    if pattern.count("*") > _MOST_WILDCARDS:
        raise BadParameterError(name, f"has more than {_MOST_WILDCARDS} wildcards")
    return pattern


def _read_number(name: str, text: str) -> float:
    number = _number(text.strip(" "))
    if number is None:
        raise BadParameterError(name, "is not a number")
    return number


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> str:
    """Return a value of DICOM JSON as text: a person name in one string."""
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    return "=".join(str(value.get(group) or "") for group in ("Alphabetic", "Ideographic", "Phonetic"))
