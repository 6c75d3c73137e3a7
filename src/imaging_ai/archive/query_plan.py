"""How a search goes through the index: which table leads, in which order, and what is asked of each row.

Results come in the order of `core.order`. Three indices give that order by themselves: that of all studies, that of a
modality, and on SQLite the text index. So a page costs what it shows, however large the archive is. PostgreSQL chooses
by its statistics; SQLite, which has none, is led by CROSS JOIN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from imaging_ai.archive.query_attributes import COLUMNS, MODALITIES_IN_STUDY, Level
from imaging_ai.archive.query_sql import SQLITE, Condition, Dialect, condition, datetime_condition, day_range, every
from imaging_ai.archive.query_times import Moments, combined
from imaging_ai.archive.query_values import Criterion, Empty, FuzzyName, Name, Text, Uids, split_pattern
from imaging_ai.db import text_index

__all__ = ["Plan", "plan_of"]

_STUDY_DATE = "00080020"
#: Pairs of a date and a time that are matched together when both are ranges.
_PAIRS = {_STUDY_DATE: "00080030", "00080021": "00080031", "00400244": "00400245"}
_UNIQUE = ("0020000D", "0020000E", "00080018", "00100020", "00080050")
_TOGETHER = 3  # characters that the text index takes together
_MOST_CHARACTERS = 64

_JOINS = {
    Level.PATIENT: (),
    Level.STUDY: (),
    Level.SERIES: ("series ON series.study_id = study.id",),
    Level.INSTANCE: ("series ON series.study_id = study.id", "instance ON instance.series_id = series.id"),
}
_ORDERS = {
    Level.PATIENT: "study.patient_id, study.issuer_of_patient_id",
    Level.STUDY: "study.sort_key DESC",
    Level.SERIES: "series.study_sort_key DESC, series.series_number, series.id",
    Level.INSTANCE: "series.study_sort_key DESC, series.series_number, series.id, "
    "instance.instance_number, instance.id",
}
_GROUPS = {Level.PATIENT: "study.patient_id, study.issuer_of_patient_id"}


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of a SELECT but for its columns; `light` when no row of a study need be read to count the matches."""

    source: str
    where: Condition
    group: str
    order: str
    light: bool

    def select(self, columns: str, dialect: Dialect) -> str:
        """Return the statement; its last two parameters are limit and offset."""
        group = f" GROUP BY {self.group}" if self.group else ""
        return (
            f"SELECT {columns} FROM {self.source} WHERE {self.where.sql}{group} ORDER BY {self.order} "  # noqa: S608
            f"LIMIT {dialect.mark} OFFSET {dialect.mark}"
        )


def plan_of(level: Level, keys: Mapping[str, Criterion], dialect: Dialect) -> Plan:
    """Plan a search for matches of a level, by criteria on columns."""
    days = _days(keys, dialect)
    leading = None if any(_is_unique(tag, keys) for tag in _UNIQUE) else _leader(level, keys, dialect)
    led_by = leading.tags if leading else frozenset()
    conditions = [*days, *_conditions(level, {tag: one for tag, one in keys.items() if tag not in led_by}, dialect)]
    if level is Level.PATIENT:
        conditions.append(Condition("study.patient_id <> ''"))
    if leading is None:
        source = " JOIN ".join(("study", *_JOINS[level]))
        return Plan(
            source, _all(conditions), _GROUPS.get(level, ""), _ORDERS[level], not conditions or conditions == days
        )
    return leading.plan(level, conditions, days)


@dataclass(frozen=True, slots=True)
class _Leader:
    """An index that gives matches in their order; `tags` are the keys that it decides alone."""

    source: str
    key: str  # what `study.sort_key` is called there
    group: str
    condition: Condition
    tags: frozenset[str]

    def plan(self, level: Level, conditions: Sequence[Condition], days: Sequence[Condition]) -> Plan:
        source = " CROSS JOIN ".join((self.source, *_JOINS[level]))
        # the days bound the leading index too
        bounds = [Condition(day.sql.replace("study.sort_key", self.key), day.parameters) for day in days]
        order = f"{self.key} DESC" if level is Level.STUDY else _ORDERS[level]
        where = _all([self.condition, *bounds, *conditions])
        return Plan(source, where, self.group if level is Level.STUDY else "", order, len(conditions) == len(days))


def _leader(level: Level, keys: Mapping[str, Criterion], dialect: Dialect) -> _Leader | None:
    if level is Level.PATIENT:
        return None
    if dialect is SQLITE and (found := _texts(keys)):
        expression, decided = found
        return _Leader(
            f"{text_index.TABLE} CROSS JOIN study ON study.sort_key = {text_index.TABLE}.rowid",
            f"{text_index.TABLE}.rowid",
            "",
            Condition(f"{text_index.TABLE} MATCH ?", (expression,)),
            decided,
        )
    match keys.get(MODALITIES_IN_STUDY):
        case Text((modality,)) if level is Level.STUDY and not {"*", "?"} & set(modality):
            group = "led.study_sort_key" if dialect is SQLITE else "led.study_sort_key, study.id"
            join = "CROSS JOIN study ON" if dialect is SQLITE else "JOIN study ON"
            return _Leader(
                f"series AS led {join} study.id = led.study_id",
                "led.study_sort_key",
                group,
                Condition(f"led.modality = {dialect.mark}", (modality,)),
                frozenset({MODALITIES_IN_STUDY}),
            )
    return None


def _is_unique(tag: str, keys: Mapping[str, Criterion]) -> bool:
    """Say whether a key names one or few things that an index finds at once."""
    match keys.get(tag):
        case Uids():
            return True
        case Text(patterns):
            return not any({"*", "?"} & set(pattern) for pattern in patterns)
    return False


def _days(keys: Mapping[str, Criterion], dialect: Dialect) -> list[Condition]:
    date = keys.get(_STUDY_DATE)
    return [day_range(date, dialect)] if isinstance(date, Moments) else []


def _conditions(level: Level, keys: Mapping[str, Criterion], dialect: Dialect) -> list[Condition]:
    """Return what must hold of each row; keys of levels below ask for one series or instance that meets them all."""
    upper: list[Condition] = []
    lower: list[tuple[Level, Condition]] = []
    paired = {time for date, time in _PAIRS.items() if _is_range(keys.get(date)) and _is_range(keys.get(time))}
    for tag, criterion in keys.items():
        column = COLUMNS[tag]
        if tag in paired or (tag == _STUDY_DATE and isinstance(criterion, Moments) and _PAIRS[tag] not in paired):
            continue
        time = _PAIRS.get(tag)
        if time in paired and isinstance(criterion, Moments):
            other = keys[time]
            assert isinstance(other, Moments)
            one = datetime_condition(combined(criterion, other), column, COLUMNS[time], dialect)
        else:
            one = condition(criterion, column, dialect)
        if column.level > max(level, Level.STUDY):
            lower.append((column.level, one))
        else:
            upper.append(one)
    if lower:
        deepest = max(below for below, _ in lower)
        inner = every(one for _, one in lower)
        tables = "series JOIN instance ON instance.series_id = series.id" if deepest is Level.INSTANCE else "series"
        link = "series.study_id = study.id"
        if level is Level.SERIES:
            tables, link = "instance", "instance.series_id = series.id"
        upper.append(Condition(f"EXISTS (SELECT 1 FROM {tables} WHERE {link} AND {inner.sql})", inner.parameters))  # noqa: S608
    return upper


def _is_range(criterion: Criterion | None) -> bool:
    return isinstance(criterion, Moments) and criterion.is_range


def _all(conditions: Sequence[Condition]) -> Condition:
    return every(conditions) if conditions else Condition("1 = 1")


def _texts(keys: Mapping[str, Criterion]) -> tuple[str, frozenset[str]] | None:
    """Return an expression of the text index that is true of every match, and the keys that it decides alone."""
    expressions, decided = [], set()
    for tag, criterion in keys.items():
        column = COLUMNS[tag]
        name = (column.key or column.sql).removeprefix("study.")
        if name not in text_index.COLUMNS or isinstance(criterion, Empty):
            continue
        expression, exact = _text(criterion)
        if expression:
            expressions.append(f"{name} : ({expression})")
            if exact:
                decided.add(tag)
    return (" AND ".join(expressions), frozenset(decided)) if expressions else None


def _text(criterion: Criterion) -> tuple[str, bool]:
    match criterion:
        case Text(patterns, all_of_them):
            found = [_phrases(pattern) for pattern in patterns]
            return _either(found, " AND " if all_of_them else " OR "), all(exact for _, exact in found)
        case Name(patterns):
            found = [_phrases(pattern) for pattern in patterns]
            return _either(found, " OR "), all(exact for _, exact in found)
        case FuzzyName(words):
            spelt = [_either([_phrases(f"*{one}*") for one in spellings], " OR ") for spellings in words]
            return " AND ".join(f"({one})" for one in spelt if one), False
    return "", False


def _either(found: Iterable[tuple[str, bool]], word: str) -> str:
    expressions = [f"({expression})" for expression, _ in found]
    return "" if "()" in expressions else word.join(expressions)


def _phrases(pattern: str) -> tuple[str, bool]:
    """Return what the text index can say of a pattern, and whether that is all there is to it."""
    pieces = split_pattern(pattern)
    runs = [piece for piece in pieces if piece not in "*?" and len(piece) >= _TOGETHER]
    exact = pieces[0] == pieces[-1] == "*" and len(pieces) == 3 and len(runs) == 1 and len(runs[0]) <= _MOST_CHARACTERS
    quoted = [run[:_MOST_CHARACTERS].replace('"', '""') for run in runs]
    return " AND ".join(f'"{run}"' for run in quoted), exact
