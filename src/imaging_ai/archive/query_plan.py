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

_STUDY_DATE, _MODALITY = "00080020", "00080060"
#: Pairs of a date and a time that are matched together when both are ranges.
_PAIRS = {_STUDY_DATE: "00080030", "00080021": "00080031", "00400244": "00400245"}
#: Keys that an index finds at once, if they are no patterns: of studies, and of what is below them.
_UNIQUE = ("0020000D", "00100020", "00080050")
_UNIQUE_BELOW = ("0020000E", "00080018")
_TOGETHER = 3  # characters that the text index takes together
_MOST_CHARACTERS = 64
_TEXT = text_index.TABLE

_ORDERS = {
    Level.PATIENT: "study.patient_id, study.issuer_of_patient_id",
    Level.STUDY: "study.sort_key DESC",
    Level.SERIES: "series.study_sort_key DESC, series.series_number, series.id",
    Level.INSTANCE: "series.study_sort_key DESC, series.series_number, series.id, "
    "instance.instance_number, instance.id",
}
_GROUPS = {Level.PATIENT: "study.patient_id, study.issuer_of_patient_id"}
_SERIES = "series ON series.study_id = study.id"
_STUDY = "study ON study.id = series.study_id"
_INSTANCE = "instance ON instance.series_id = series.id"


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of a SELECT but for its columns.

    `counted_in` is the index that can count the matches alone; `prompt` says that a page takes no longer than its rows.
    """

    source: str
    where: Condition
    group: str
    order: str
    counted_in: str
    prompt: bool

    def select(self, columns: str, dialect: Dialect) -> str:
        """Return the statement; its last two parameters are limit and offset."""
        return self._select(columns, self.source, self.group, dialect)

    def count(self, dialect: Dialect) -> str:
        """Return the statement that counts; its last two parameters are how far, and from which match on."""
        group = self.group if self.counted_in == self.source else self.group.partition(",")[0]
        return f"SELECT count(*) FROM ({self._select('1', self.counted_in, group, dialect)}) AS found"  # noqa: S608

    def keys(self, dialect: Dialect) -> str:
        """Return the statement for the matches' sort keys, from the text index alone."""
        return self._select(f"{_TEXT}.rowid", self.counted_in, "", dialect)

    def _select(self, columns: str, source: str, group: str, dialect: Dialect) -> str:
        grouped = f" GROUP BY {group}" if group else ""
        return (
            f"SELECT {columns} FROM {source} WHERE {self.where.sql}{grouped} ORDER BY {self.order} "  # noqa: S608
            f"LIMIT {dialect.mark} OFFSET {dialect.mark}"
        )


def plan_of(level: Level, keys: Mapping[str, Criterion], dialect: Dialect) -> Plan:
    """Plan a search for matches of a level, by criteria on columns."""
    lead = _lead(level, keys, dialect)
    rest = _conditions(level, {tag: one for tag, one in keys.items() if tag not in lead.decides}, dialect)
    date = keys.get(_STUDY_DATE)
    days = [day_range(date, key, dialect) for key in lead.keys] if isinstance(date, Moments) else []
    conditions = [*lead.conditions, *days, *rest]
    alone = lead.index if level is Level.STUDY and not rest and lead.index else ""
    if alone:
        conditions = [*lead.conditions, *days[:1]]
    order = f"{lead.keys[0]} DESC" if level is Level.STUDY else _ORDERS[level]
    group = lead.group or _GROUPS.get(level, "")
    return Plan(lead.source, _all(conditions), group, order, alone, lead.named or alone not in ("", _TEXT))


@dataclass(frozen=True, slots=True)
class _Lead:
    """What a search begins with.

    `index` is the table that it begins with, when that alone can count studies, and `keys` what `study.sort_key` is
    called in it, and besides. `decides` are the match keys that `conditions` have settled; `named`
    says that a key names one or few things.
    """

    source: str
    index: str = ""
    keys: tuple[str, ...] = ("study.sort_key",)
    group: str = ""
    conditions: tuple[Condition, ...] = ()
    decides: frozenset[str] = frozenset()
    named: bool = False


def _lead(level: Level, keys: Mapping[str, Criterion], dialect: Dialect) -> _Lead:
    if any(_is_unique(tag, keys) for tag in _UNIQUE_BELOW):
        return _Lead(_joined("study", level, " JOIN "), named=True)
    cross = " CROSS JOIN " if dialect is SQLITE else " JOIN "
    if any(_is_unique(tag, keys) for tag in _UNIQUE):
        return _Lead(_joined("study", level, cross), named=True)
    texts = _texts(keys) if dialect is SQLITE else None
    if level is Level.PATIENT:
        known = Condition("study.patient_id <> ''")
        if texts is None:
            return _Lead("study", conditions=(known,))
        some = Condition(f"study.sort_key IN (SELECT rowid FROM {_TEXT} WHERE {_TEXT} MATCH ?)", (texts.expression,))  # noqa: S608
        return _Lead("study", conditions=(known, some), decides=texts.decides)
    if texts is not None:
        source = f"{_TEXT} CROSS JOIN study INDEXED BY {text_index.SCAN} ON study.sort_key = {_TEXT}.rowid"
        found = Condition(f"{_TEXT} MATCH ?", (texts.expression,))
        names = (f"{_TEXT}.rowid", "study.sort_key")
        return _Lead(_joined(source, level, cross), _TEXT, names, "", (found,), texts.decides)
    if level > Level.STUDY:
        source = f"series{cross}{_STUDY}" + (f"{cross}{_INSTANCE}" if level is Level.INSTANCE else "")
        return _Lead(source, keys=("series.study_sort_key", "study.sort_key"))
    return _modality(keys, dialect, cross) or _Lead(
        f"study INDEXED BY {text_index.SCAN}" if dialect is SQLITE and {*keys} - {_STUDY_DATE} else "study",
        index="study",
    )


def _modality(keys: Mapping[str, Criterion], dialect: Dialect, cross: str) -> _Lead | None:
    """Begin with a modality: Modality alone of the keys below the study is as good as Modalities in Study."""
    below = [tag for tag in keys if COLUMNS[tag].level > Level.STUDY]
    tag = _MODALITY if below == [_MODALITY] and MODALITIES_IN_STUDY not in keys else MODALITIES_IN_STUDY
    match keys.get(tag):
        case Text((modality,)) if not {"*", "?"} & set(modality):
            return _Lead(
                f"series AS led{cross}study ON study.id = led.study_id",
                "series AS led",
                ("led.study_sort_key", "study.sort_key"),
                "led.study_sort_key" + ", study.id" * (dialect is not SQLITE),
                (Condition(f"led.modality = {dialect.mark}", (modality,)),),
                frozenset({tag}),
            )
    return None


def _joined(source: str, level: Level, join: str) -> str:
    tables = {Level.SERIES: (_SERIES,), Level.INSTANCE: (_SERIES, _INSTANCE)}.get(level, ())
    return join.join((source, *tables))


def _is_unique(tag: str, keys: Mapping[str, Criterion]) -> bool:
    """Say whether a key names one or few things that an index finds at once."""
    match keys.get(tag):
        case Uids():
            return True
        case Text(patterns):
            return not any({"*", "?"} & set(pattern) for pattern in patterns)
    return False


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
    return [*upper, _below(level, keys, lower, dialect)] if lower else upper


def _below(
    level: Level, keys: Mapping[str, Criterion], conditions: Sequence[tuple[Level, Condition]], dialect: Dialect
) -> Condition:
    """Say that a study or series has a series or instance that meets all of the conditions."""
    all_of_them = every(one for _, one in conditions)
    deepest = max(below for below, _ in conditions)
    if level is Level.SERIES:
        tables, owner, own = "instance", "instance.series_id", "series.id"
    else:
        instances = " JOIN instance ON instance.series_id = series.id" if deepest is Level.INSTANCE else ""
        tables, owner, own = f"series{dialect.of_study}{instances}", "series.study_id", "study.id"
    if any(_is_unique(tag, keys) and COLUMNS[tag].level > level for tag in _UNIQUE_BELOW):
        tables = tables.replace(dialect.of_study, "")
        sql = f"{own} IN (SELECT {owner} FROM {tables} WHERE {all_of_them.sql})"  # noqa: S608
    else:
        sql = f"EXISTS (SELECT 1 FROM {tables} WHERE {owner} = {own} AND {all_of_them.sql})"  # noqa: S608
    return Condition(sql, all_of_them.parameters)


def _is_range(criterion: Criterion | None) -> bool:
    return isinstance(criterion, Moments) and criterion.is_range


def _all(conditions: Sequence[Condition]) -> Condition:
    return every(conditions) if conditions else Condition("1 = 1")


@dataclass(frozen=True, slots=True)
class _Texts:
    """An expression of the text index that is true of every match, and the keys that it decides alone."""

    expression: str
    decides: frozenset[str]


def _texts(keys: Mapping[str, Criterion]) -> _Texts | None:
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
    return _Texts(" AND ".join(expressions), frozenset(decided)) if expressions else None


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
