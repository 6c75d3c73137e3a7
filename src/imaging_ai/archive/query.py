"""Searching the archive: keys and returned attributes in, data sets of matches out (PS3.4 C.4.1; PS3.18 10.6).

Columns of the index are matched by the database. Other attributes are looked up in documents (`describer`): those of
patient and study in one instance of the study, those of the series in one of the series, those of the instance in each.
How many documents one search may look into is bounded; past that it is `TooLarge` and names what would narrow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

from imaging_ai.archive.describer import Describer
from imaging_ai.archive.query_answers import BASE, Layout, Row, layout_of
from imaging_ai.archive.query_attributes import COLUMNS, COMPUTED, DEFAULTS, Level, Path, is_private, level_of
from imaging_ai.archive.query_documents import Branch, Documents, LookedUp, grow, holds, top_level
from imaging_ai.archive.query_plan import Plan, plan_of
from imaging_ai.archive.query_reader import Reader, Reading
from imaging_ai.archive.query_sql import SQLITE
from imaging_ai.archive.query_values import Criterion
from imaging_ai.db.engine import Database
from imaging_ai.db.text_index import TABLE
from imaging_ai.errors import TooLarge

__all__ = ["BASE", "Key", "Page", "Prepared", "Query", "Search"]

_MOST = 1 << 40
#: How far the matches after a page are counted: in the order of an index, and where more than that must be read for it.
_COUNTED, _COUNTED_SLOWLY = 1_000, 100
_AT_ONCE = 200
_SMALL = 101
_PROMPT_SECONDS, _FORGOTTEN = 0.001, 0.7  # a search is too slow for a score of searches after it


@dataclass(frozen=True, slots=True)
class Key:
    """A match key: an attribute, and what it must meet. `name` is what the client calls it."""

    name: str
    path: Path
    criterion: Criterion


@dataclass(frozen=True, slots=True)
class Query:
    """A search.

    `levels` are those whose attributes every match tells (`DEFAULTS`), `include` further attributes, `everything` all
    that is known at the levels. `creators` are private creators by their tag, of the private attributes named.
    """

    level: Level
    keys: tuple[Key, ...] = ()
    levels: frozenset[Level] = frozenset()
    include: frozenset[Path] = frozenset()
    everything: bool = False
    creators: Mapping[str, str] = field(default_factory=dict)
    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Matches in DICOM JSON, with `BASE` in their addresses.

    `remaining` is how many more there are after them; at least so many, when `more_remain`. `ignored` are the keys that
    could not be matched at this level.
    """

    matches: Sequence[bytes]
    remaining: int = 0
    more_remain: bool = False
    total: int | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A search that is planned. `small` ones read few rows, and no document."""

    query: Query
    plan: Plan
    layout: Layout
    looked_up: tuple[Key, ...]
    ignored: tuple[str, ...]
    tree: Mapping[str, Branch]
    small: bool


class Search:
    """Searches of one archive. `examined` is how many documents one search may look into."""

    def __init__(self, database: Database, describer: Describer, *, examined: int) -> None:
        self._reader, self._examined = Reader.of(database), examined
        self._documents = Documents(describer)
        self._text_seconds = 1.0  # what a small search for pieces of text has taken of late

    def run(self, query: Query) -> Page:
        """Answer a search.

        Raises
        ------
        TooLarge
            If too many documents would have to be looked into.
        """
        return self.answer(self.prepare(query))

    def prepare(self, query: Query) -> Prepared:
        """Plan a search."""
        indexed = {key.path[0]: key.criterion for key in query.keys if _has_column(key.path)}
        inside = [key for key in query.keys if not _has_column(key.path)]
        looked_up = tuple(key for key in inside if _belongs(key.path, query.level))
        ignored = tuple(key.name for key in inside if key not in looked_up)
        plan = plan_of(query.level, indexed, self._reader.dialect)
        selected = _selected(query)
        layout = layout_of(query.level, selected)
        tree = grow(((key.path, key.criterion) for key in looked_up), _inside(selected))
        small = query.level is Level.STUDY and query.limit <= _SMALL and query.offset <= _SMALL
        return Prepared(query, plan, layout, looked_up, ignored, tree, small and not (tree or query.everything))

    def is_prompt(self, prepared: Prepared) -> bool:
        """Say whether a search takes less than waking a thread for it is worth.

        That of pieces of text depends on the archive, and is learnt.
        """
        if not prepared.small or self._reader.dialect is not SQLITE:
            return False
        return prepared.plan.prompt or (prepared.plan.counted_in == TABLE and self._text_seconds < _PROMPT_SECONDS)

    def answer(self, prepared: Prepared) -> Page:
        """Answer a search that is planned."""
        began = perf_counter()
        page = self._answer(prepared)
        if prepared.small and prepared.plan.counted_in == TABLE:
            self._text_seconds = max(perf_counter() - began, self._text_seconds * _FORGOTTEN)
        return page

    def _answer(self, prepared: Prepared) -> Page:
        query, plan, layout = prepared.query, prepared.plan, prepared.layout
        with self._reader.open() as reading:
            if prepared.looked_up:
                found = self._look_up(reading, query, plan, layout, prepared.looked_up)
            else:
                found = self._page(reading, query, plan, layout)
            matches = self._matches(reading, prepared, found.rows)
        return Page(matches, found.remaining, found.more_remain, found.total, prepared.ignored)

    def _page(self, reading: Reading, query: Query, plan: Plan, layout: Layout) -> _Found:
        """Read one page. What follows it is counted in an index of its own, or read along where rows must be read."""
        limit, offset = query.limit, min(query.offset, _MOST)
        if plan.counted_in == TABLE:
            parameters = (*plan.where.parameters, limit + 1 + _COUNTED_SLOWLY, offset)
            keys = [row[0] for row in reading.rows(plan.keys(reading.dialect), parameters)]
            statement = (
                f"SELECT {layout.columns} FROM study WHERE study.sort_key IN ({{}}) ORDER BY study.sort_key DESC"  # noqa: S608
            )
            return _found(reading.by_ids(statement, keys[:limit]), query, len(keys) - limit, _COUNTED_SLOWLY)
        rows = self._rows(reading, plan, layout, limit + 1 + (0 if plan.counted_in else _COUNTED_SLOWLY), offset)
        if len(rows) <= limit or not plan.counted_in:
            return _found(rows[:limit], query, len(rows) - limit, _COUNTED_SLOWLY)
        parameters = (*plan.where.parameters, _COUNTED + 1, offset + limit)
        ((remaining,),) = reading.rows(plan.count(reading.dialect), parameters)
        return _found(rows[:limit], query, remaining, _COUNTED)

    def _rows(self, reading: Reading, plan: Plan, layout: Layout, limit: int, offset: int) -> list[Row]:
        columns = "max(study.id)" if layout.level is Level.PATIENT else layout.columns
        found = reading.rows(plan.select(columns, reading.dialect), (*plan.where.parameters, limit, offset))
        if layout.level is not Level.PATIENT:
            return found
        statement = f"SELECT {layout.columns} FROM study WHERE study.id IN ({{}})"  # noqa: S608
        newest = {row[0]: row for row in reading.by_ids(statement, [row[0] for row in found])}
        return [newest[row[0]] for row in found]

    def _look_up(self, reading: Reading, query: Query, plan: Plan, layout: Layout, keys: Sequence[Key]) -> _Found:
        """Go through what the index lets pass until the page is full and one more is found."""
        rows: list[Row] = []
        wanted = query.offset + query.limit + 1
        for row in self._passing(reading, query, plan, layout, keys):
            rows.append(row)
            if len(rows) >= wanted:
                return _Found(rows[query.offset : wanted - 1], 1, more_remain=True)
        return _Found(rows[query.offset :], total=len(rows))

    def _passing(
        self, reading: Reading, query: Query, plan: Plan, layout: Layout, keys: Sequence[Key]
    ) -> Iterator[Row]:
        tree = grow(((key.path, key.criterion) for key in keys), ())
        for offset in range(0, self._examined + _AT_ONCE, _AT_ONCE):
            passed = self._rows(reading, plan, layout, _AT_ONCE, offset)
            rows = passed[: max(0, self._examined - offset)]
            found = self._documents.of(reading, query.level, rows, top_level(tree))
            yield from (row for row in rows if row[0] in found and holds(tree, found[row[0]].elements, query.creators))
            if len(rows) < len(passed):
                names = ", ".join(sorted({key.name for key in keys}))
                raise TooLarge(
                    f"more than {self._examined} data sets would have to be looked into to match {names}; "
                    "narrow the search by StudyDate, PatientID, ModalitiesInStudy or StudyInstanceUID"
                )
            if len(passed) < _AT_ONCE:
                return

    def _matches(self, reading: Reading, prepared: Prepared, rows: Sequence[Row]) -> list[bytes]:
        if not rows:
            return []
        query, layout, tree = prepared.query, prepared.layout, prepared.tree
        full = layout.completed(reading, rows)
        if not tree and not query.everything:
            return [layout.fragment(row) for row in full]
        needed = top_level(tree)
        if query.everything:
            needed = partial(_needed_or_known, needed, query.level)
        found = self._documents.of(reading, query.level, rows, needed)
        if query.everything:
            tree = {tag: Branch(whole=True) for one in found.values() for tag in one.elements} | {**tree}
        return [layout.merged(row, found.get(row[0], LookedUp()).cut(tree, query.creators)) for row in full]


@dataclass(frozen=True, slots=True)
class _Found:
    rows: Sequence[Row]
    remaining: int = 0
    more_remain: bool = False
    total: int | None = None


def _found(rows: Sequence[Row], query: Query, remaining: int, counted: int) -> _Found:
    """Return the rows of a page after which so many matches were counted, or more than `counted`."""
    if remaining > counted:
        return _Found(rows, counted, more_remain=True)
    known = rows or remaining > 0 or not query.offset
    return _Found(rows, max(remaining, 0), total=query.offset + len(rows) + max(remaining, 0) if known else None)


def _needed_or_known(needed: Callable[[str], bool], level: Level, tag: str) -> bool:
    return needed(tag) or level_of((tag,)) <= level


def _has_column(path: Path) -> bool:
    return len(path) == 1 and path[0] in COLUMNS


def _belongs(path: Path, level: Level) -> bool:
    """Say whether matches of a level have an attribute; private ones are of whatever level they are asked for."""
    return (level_of(path) <= level or is_private(path[0])) and path[0] not in COMPUTED


def _selected(query: Query) -> frozenset[Path]:
    """Return the attributes that a match tells, none of them from a level below it."""
    asked = query.include | {key.path for key in query.keys}
    named = {path for path in asked if level_of(path) <= query.level or is_private(path[0])}
    defaults = {(tag,) for level in query.levels for tag in DEFAULTS[level]}
    if query.everything:
        defaults |= {(tag,) for tag, column in COLUMNS.items() if column.level <= query.level}
    return frozenset(named | defaults)


def _inside(selected: frozenset[Path]) -> frozenset[Path]:
    """Return those attributes that columns do not have."""
    return frozenset(path for path in selected if not _has_column(path) and path[0] not in COMPUTED)
