"""Criteria on columns of the index, as SQL for SQLite and PostgreSQL. Values travel as parameters only.

Wildcards become GLOB on SQLite and LIKE on PostgreSQL: both keep the case, and neither backtracks without bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from imaging_ai.archive.query_attributes import Column
from imaging_ai.archive.query_times import Moments
from imaging_ai.archive.query_values import (
    Criterion,
    Empty,
    FuzzyName,
    Name,
    Numbers,
    Text,
    Uids,
    split_pattern,
)
from imaging_ai.core.names import DELIMITERS

__all__ = ["POSTGRESQL", "SQLITE", "Condition", "Dialect", "condition", "datetime_condition", "day_range", "every"]

_DAY_BITS = 32
_GLOB = str.maketrans({"*": "[*]", "?": "[?]", "[": "[[]"})
_LIKE = str.maketrans({"%": r"\%", "_": r"\_", "\\": r"\\"})


@dataclass(frozen=True, slots=True)
class Condition:
    """A piece of a WHERE clause with its parameters in their order."""

    sql: str
    parameters: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a database writes what the two do not write alike."""

    mark: str  # of a parameter
    like: str  # the operator for wildcards
    any_text: str
    any_character: str
    escapes: dict[int, str]
    text_order: str = ""  # makes comparisons of text those of its bytes
    of_study: str = ""  # keeps to the index of a study's series
    joined: str = "string_agg"  # joins text of several rows

    def pattern(self, pattern: str) -> str:
        """Write a pattern with * and ? as the operator wants it."""
        wildcards = {"*": self.any_text, "?": self.any_character}
        return "".join(wildcards.get(piece) or piece.translate(self.escapes) for piece in split_pattern(pattern))

    def marks(self, number: int) -> str:
        """Return this many marks for a list."""
        return ", ".join([self.mark] * number)


SQLITE = Dialect("?", "GLOB", "*", "?", _GLOB, of_study=" INDEXED BY ix_series_study_id", joined="group_concat")
POSTGRESQL = Dialect("%s", "LIKE", "%", "_", _LIKE, ' COLLATE "C"')


def condition(criterion: Criterion, column: Column, dialect: Dialect) -> Condition:
    """Say in SQL that a column meets a criterion."""
    if column.among:
        return _among(criterion, column, dialect)
    return _plain(criterion, column, dialect)


def _among(criterion: Criterion, column: Column, dialect: Dialect) -> Condition:
    """Say that one of many rows meets a criterion; where every value is asked for, one row for each."""
    if isinstance(criterion, Empty):
        known = column.among.format(f"{column.sql} <> ''", of_study=dialect.of_study)
        return Condition(f"NOT EXISTS ({known})")
    wanted: Sequence[Criterion] = [criterion]
    if isinstance(criterion, Text) and criterion.every:
        wanted = [Text((pattern,)) for pattern in criterion.patterns]
    found = [_plain(one, column, dialect) for one in wanted]
    return every(
        Condition(f"EXISTS ({column.among.format(one.sql, of_study=dialect.of_study)})", one.parameters)
        for one in found
    )


def _plain(criterion: Criterion, column: Column, dialect: Dialect) -> Condition:
    match criterion:
        case Empty():
            return Condition(f"coalesce(CAST({column.sql} AS text), '') = ''")
        case Uids(uids):
            if not uids:
                return Condition("1 = 0")
            return Condition(f"{column.sql} IN ({dialect.marks(len(uids))})", tuple(sorted(uids)))
        case Numbers(numbers):
            return _numbers(numbers, column, dialect)
        case Moments():
            return _moments(criterion, column, dialect)
        case Name(patterns):
            return _any(_like(column.key, pattern, dialect) for pattern in patterns)
        case FuzzyName(words):
            return every(_begins_word(column.key, spellings, dialect) for spellings in words)
        case Text(patterns, all_of_them):
            like = (
                partial(_like_one_of_several, column.sql, dialect)
                if column.several
                else partial(_text, column, dialect)
            )
            found = map(like, patterns)
            return every(found) if all_of_them else _any(found)


def _text(column: Column, dialect: Dialect, pattern: str) -> Condition:
    return _like(column.sql, pattern, dialect)


def _numbers(numbers: frozenset[float], column: Column, dialect: Dialect) -> Condition:
    whole = tuple(int(number) for number in sorted(numbers) if number.is_integer() and abs(number) < 1 << 31)
    if not whole:
        return Condition("1 = 0")
    return Condition(f"{column.sql} IN ({dialect.marks(len(whole))})", whole)


def _like(sql: str, pattern: str, dialect: Dialect) -> Condition:
    if "*" not in pattern and "?" not in pattern:
        return Condition(f"{sql} = {dialect.mark}", (pattern,))
    written = Condition(f"{sql} {dialect.like} {dialect.mark}", (dialect.pattern(pattern),))
    return written if pattern.strip("*") else Condition(f"{sql} <> ''")


def _like_one_of_several(sql: str, dialect: Dialect, pattern: str) -> Condition:
    """Match one of the values that are joined by backslashes: a wildcard may reach over several of them."""
    return _like(f"('\\' || {sql} || '\\')", f"*\\{pattern}\\*", dialect)


def _begins_word(sql: str, spellings: Iterable[str], dialect: Dialect) -> Condition:
    return _any(
        _like(sql, f"*{delimiter}{spelling}*", dialect) for spelling in sorted(spellings) for delimiter in DELIMITERS
    )


def _moments(moments: Moments, column: Column, dialect: Dialect) -> Condition:
    value = _in_full(moments.vr, column.sql)
    between = f"{value}{dialect.text_order} BETWEEN {dialect.mark} AND {dialect.mark}"
    return Condition(f"({column.sql} <> '' AND {between})", (moments.low, moments.high))


def datetime_condition(moments: Moments, date: Column, time: Column, dialect: Dialect) -> Condition:
    """Say that a date and a time together lie between two date-times."""
    value = f"({_in_full('DA', date.sql)} || {_in_full('TM', time.sql)})"
    between = f"{value}{dialect.text_order} BETWEEN {dialect.mark} AND {dialect.mark}"
    return Condition(f"({date.sql} <> '' AND {time.sql} <> '' AND {between})", (moments.low, moments.high))


def _in_full(vr: str, sql: str) -> str:
    """Write out what a time leaves out, as `query_times.normal` does; ACR-NEMA's separators are left out."""
    if vr == "DA":
        return f"replace({sql}, '.', '')"
    digits = f"replace({sql}, ':', '')"
    return f"({digits} || substr('000000.000000', length({digits}) + 1))"


def day_range(moments: Moments, key: str, dialect: Dialect) -> Condition:
    """Say that the study is of one of these days, by the column with the key that studies are ordered by."""
    low, high = int(moments.low) << _DAY_BITS, (int(moments.high) + 1 << _DAY_BITS) - 1
    return Condition(f"{key} BETWEEN {dialect.mark} AND {dialect.mark}", (low, high))


def every(conditions: Iterable[Condition]) -> Condition:
    """Say that all of the conditions hold."""
    return _joined(" AND ", conditions)


def _any(conditions: Iterable[Condition]) -> Condition:
    return _joined(" OR ", conditions)


def _joined(word: str, conditions: Iterable[Condition]) -> Condition:
    several = list(conditions)
    if len(several) == 1:
        return several[0]
    parameters = tuple(parameter for one in several for parameter in one.parameters)
    return Condition(f"({word.join(one.sql for one in several)})", parameters)
