"""Matches as DICOM JSON (PS3.18 F.2), made from the columns of the index and remembered by what those said.

The same row gives the same bytes, so nothing has to be invalidated: a study that changed is another row. Numbers of
related series and instances, and the lists of a study, are read for the rows of a page only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection

from imaging_ai.archive.query_attributes import COLUMNS, COMPUTED, DEFAULTS, Column, Level, Path
from imaging_ai.archive.query_sql import Dialect

__all__ = ["BASE", "Layout", "Row", "layout_of"]

#: Stands in the matches for the address of the DICOMweb root; text in JSON never contains it.
BASE = b"\0"

#: The id of what matched, the id of its study, then values as a layout has them.
Row = tuple[Any, ...]

_ALWAYS = ("0020000D", "0020000E", "00080018")
_OF_STUDY = ("00080061", "00201206", "00201208")
_SOP_CLASSES = "00080062"
_OF_PATIENT = ("00201200", "00201202", "00201204")
_LATER = frozenset({*_OF_STUDY, _SOP_CLASSES, *_OF_PATIENT})
_IDS = {Level.PATIENT: "study.id", Level.STUDY: "study.id", Level.SERIES: "series.id", Level.INSTANCE: "instance.id"}
_DEFAULT = frozenset[str]().union(*DEFAULTS.values())
#: Attributes that are left out where they have no value; other default attributes are empty then.
_IF_KNOWN = frozenset(["00080201", "00100021", "00280008", "00280010", "00280011", "00280100"])
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_SINGLE = frozenset({"LT", "ST", "UR", "UT"})

_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What the matches of a search tell, and where in a row each of it is."""

    level: Level
    tags: tuple[str, ...]  # ascending
    columns: str  # of the SELECT
    positions: Mapping[str, int]
    later: frozenset[str]

    def completed(self, connection: Connection, rows: Sequence[Row], dialect: Dialect) -> list[Row]:
        """Return the rows with what is read for the rows of a page only."""
        if not self.later:
            return list(rows)
        ids = tuple({row[1] for row in rows})
        added: dict[int, tuple[Any, ...]] = dict.fromkeys(ids, ())
        for tags, read in ((_OF_STUDY, _series), ((_SOP_CLASSES,), _sop_classes), (_OF_PATIENT, _patients)):
            if self.later.intersection(tags):
                found = read(connection, ids, dialect)
                added = {one: (*before, *found[one]) for one, before in added.items()}
        return [(*row, *added[row[1]]) for row in rows]

    def fragment(self, row: Row) -> bytes:
        """Return a match that columns tell whole."""
        return _fragment(self, row)

    def merged(self, row: Row, elements: Mapping[str, bytes]) -> bytes:
        """Return a match with elements of a document, where columns do not tell them."""
        members = {**elements, **dict(_members(self, row))}
        return b"{%b}" % b",".join([b'"%b":%b' % (tag.encode(), members[tag]) for tag in sorted(members)])


@lru_cache(maxsize=256)
def layout_of(level: Level, selected: frozenset[Path]) -> Layout:
    """Return the layout for matches of a level that tell these attributes, as far as columns have them."""
    tags = sorted({path[0] for path in selected if len(path) == 1 and (path[0] in COLUMNS or path[0] in COMPUTED)})
    needed = [*tags, *(tag for tag in _ALWAYS if COLUMNS[tag].level <= level)]
    direct = [tag for tag in dict.fromkeys(needed) if tag in COLUMNS and tag not in _LATER]
    positions = {tag: number for number, tag in enumerate(direct, 2)}
    later = _LATER.intersection(tags)
    place = len(direct) + 2
    for group in (_OF_STUDY, (_SOP_CLASSES,), _OF_PATIENT):
        if later.intersection(group):
            positions |= {tag: place + number for number, tag in enumerate(group)}
            place += len(group)
    columns = ", ".join([_IDS[level], "study.id", *(COLUMNS[tag].sql for tag in direct)])
    return Layout(level, tuple(tags), columns, positions, later)


@lru_cache(maxsize=1 << 13)
def _fragment(layout: Layout, row: Row) -> bytes:
    return b"{%b}" % b",".join([b'"%b":%b' % (tag.encode(), element) for tag, element in _members(layout, row)])


def _members(layout: Layout, row: Row) -> list[tuple[str, bytes]]:
    """Return the elements of a match by tag, ascending."""
    members = []
    for tag in layout.tags:
        if tag in COMPUTED:
            members.append((tag, _computed(layout, row, tag)))
            continue
        column, value = COLUMNS[tag], row[layout.positions[tag]]
        empty = value is None or value in ("", ())
        if not empty:
            members.append((tag, b'{"vr":"%b","Value":%b}' % (column.vr.encode(), _values(column, value))))
        elif tag in _DEFAULT and tag not in _IF_KNOWN:
            members.append((tag, b'{"vr":"%b"}' % column.vr.encode()))
    return members


def _computed(layout: Layout, row: Row, tag: str) -> bytes:
    if tag == "00080005":
        return b'{"vr":"CS","Value":["ISO_IR 192"]}'
    if tag == "00080056":
        return b'{"vr":"CS","Value":["ONLINE"]}'
    uids = [row[layout.positions[one]].encode() for one in _ALWAYS if COLUMNS[one].level <= layout.level]
    path = b"".join(b"/%b/%b" % pair for pair in zip((b"studies", b"series", b"instances"), uids, strict=False))
    return b'{"vr":"UR","Value":["%b%b"]}' % (BASE, path)


def _values(column: Column, value: Any) -> bytes:
    if isinstance(value, int | tuple):
        return _json(value if isinstance(value, tuple) else (value,))
    if column.vr in _SINGLE:
        return _json((value,))
    parts = [part.strip(" ") for part in value.split("\\")]
    if column.vr == "PN":
        return _json([_name(part) or None for part in parts])
    return _json([part or None for part in parts])


def _name(text: str) -> dict[str, str]:
    return {group: part.strip(" ") for group, part in zip(_GROUPS, text.split("="), strict=False) if part.strip(" ")}


def _series(connection: Connection, ids: Sequence[int], dialect: Dialect) -> Mapping[int, tuple[Any, ...]]:
    """Return modalities, number of series and number of instances of studies."""
    found: dict[int, list[tuple[str, int]]] = defaultdict(list)
    statement = f"SELECT study_id, modality, instance_count FROM series WHERE study_id IN ({dialect.marks(len(ids))})"  # noqa: S608
    for study_id, modality, instances in connection.exec_driver_sql(statement, tuple(ids)):
        found[study_id].append((modality, instances))
    return defaultdict(
        lambda: ((), 0, 0),
        {
            study_id: (tuple(sorted({one for one, _ in held if one})), len(held), sum(count for _, count in held))
            for study_id, held in found.items()
        },
    )


def _sop_classes(connection: Connection, ids: Sequence[int], dialect: Dialect) -> Mapping[int, tuple[Any, ...]]:
    found: dict[int, set[str]] = defaultdict(set)
    statement = (
        "SELECT DISTINCT series.study_id, instance.sop_class_uid FROM series "  # noqa: S608
        f"JOIN instance ON instance.series_id = series.id WHERE series.study_id IN ({dialect.marks(len(ids))})"
    )
    for study_id, sop_class_uid in connection.exec_driver_sql(statement, tuple(ids)):
        found[study_id].add(sop_class_uid)
    return defaultdict(lambda: ((),), {study_id: (tuple(sorted(uids)),) for study_id, uids in found.items()})


def _patients(connection: Connection, ids: Sequence[int], dialect: Dialect) -> Mapping[int, tuple[Any, ...]]:
    columns = ", ".join(COLUMNS[tag].sql for tag in _OF_PATIENT)
    statement = f"SELECT study.id, {columns} FROM study WHERE study.id IN ({dialect.marks(len(ids))})"  # noqa: S608
    rows = connection.exec_driver_sql(statement, tuple(ids))
    return defaultdict(lambda: (0, 0, 0), {row[0]: (row[1], int(row[2]), int(row[3])) for row in rows})
