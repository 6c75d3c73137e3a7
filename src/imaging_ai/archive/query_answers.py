"""Matches as DICOM JSON (PS3.18 F.2), made from the columns of the index and remembered by what those said.

The same row gives the same bytes, so nothing has to be invalidated: a study that changed is another row. Numbers of
related series and instances, and the lists of a study, are read for the rows of a page only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

import msgspec

from imaging_ai.archive.query_attributes import COLUMNS, COMPUTED, DEFAULTS, Level, Path
from imaging_ai.archive.query_reader import Reading

__all__ = ["BASE", "Layout", "Row", "layout_of"]

#: Stands in the matches for the address of the DICOMweb root; text in JSON never contains it.
BASE = b"\0"

#: The id of what matched, the id of its study, then values as a layout has them.
Row = tuple[Any, ...]

#: Returns an element of a row as a member of a JSON object; nothing of one that is left out.
_Write = Callable[[Row], str]

_UIDS = ("0020000D", "0020000E", "00080018")
_MODALITIES = "00080061"
_OF_STUDY = (_MODALITIES, "00201206", "00201208", "00080201")
_SOP_CLASSES = ("00080062",)
_OF_PATIENT = ("00201200", "00201202", "00201204")
_LATER = frozenset({*_OF_STUDY, *_SOP_CLASSES, *_OF_PATIENT})
_IDS = {Level.PATIENT: "study.id", Level.STUDY: "study.id", Level.SERIES: "series.id", Level.INSTANCE: "instance.id"}
_DEFAULT = frozenset[str]().union(*DEFAULTS.values())
#: Attributes that are left out where they have no value; other default attributes are empty then.
_IF_KNOWN = frozenset(["00080201", "00100021", "00280008", "00280010", "00280011", "00280100"])
_CONSTANTS = {
    "00080005": '"00080005":{"vr":"CS","Value":["ISO_IR 192"]}',
    "00080056": '"00080056":{"vr":"CS","Value":["ONLINE"]}',
}
_BACKSLASH = "\\"
_NUMBERS = ("IS", "US")
#: What stands in a form for the value at a place of the row.
_SLOT = re.compile(r"%\((\d+)\)s")
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_IS_EMPTY = frozenset([None, ""]).__contains__

_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What the matches of a search tell: `columns` of the SELECT, and how to write each element, by ascending tags."""

    level: Level
    columns: str
    later: frozenset[str]
    writers: tuple[_Write, ...]
    ready: frozenset[int]  # the places of values that are JSON as they are

    def completed(self, reading: Reading, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the rows with what is read for the rows of a page only."""
        ids = tuple({row[1] for row in rows})
        for tags, read in ((_OF_STUDY, _series), (_SOP_CLASSES, _sop_classes), (_OF_PATIENT, _patients)):
            if not self.later.isdisjoint(tags):
                found = read(reading, ids)
                rows = [row + found[row[1]] for row in rows]
        return rows

    def fragment(self, row: Row) -> bytes:
        """Return a match that columns tell whole."""
        return _fragment(self, row)

    def merged(self, row: Row, elements: Mapping[str, bytes]) -> bytes:
        """Return a match with elements of a document, where columns do not tell them."""
        members = {tag: b'"%b":%b' % (tag.encode(), element) for tag, element in elements.items()}
        members |= {member[1:9]: member.encode() for write in self.writers if (member := write(row))}
        return b"{%b}" % b",".join([members[tag] for tag in sorted(members)])


@lru_cache(maxsize=256)
def layout_of(level: Level, selected: frozenset[Path]) -> Layout:
    """Return the layout for matches of a level that tell these attributes, as far as columns have them."""
    tags = sorted({path[0] for path in selected if len(path) == 1 and (path[0] in COLUMNS or path[0] in COMPUTED)})
    uids = [tag for tag in _UIDS if COLUMNS[tag].level <= level]
    direct = [tag for tag in dict.fromkeys([*tags, *uids]) if tag in COLUMNS and tag not in _LATER]
    later = _LATER.intersection(tags)
    read_later = [tag for group in (_OF_STUDY, _SOP_CLASSES, _OF_PATIENT) if later & {*group} for tag in group]
    positions = {tag: number for number, tag in enumerate([*direct, *read_later], 2)}
    columns = ", ".join([_IDS[level], "study.id", *(COLUMNS[tag].sql for tag in direct)])
    writers = tuple(_writer(tag, positions, [positions[uid] for uid in uids]) for tag in tags)
    return Layout(level, columns, later, writers, frozenset(positions[tag] for tag in positions if _is_ready(tag)))


@lru_cache(maxsize=1 << 11)
def _fragment(layout: Layout, row: Row) -> bytes:
    form = _form(layout, tuple(map(_IS_EMPTY, row)))
    text = "".join(form.texts(row))
    if text.isprintable() and not ('"' in text or "\\" in text or "=" in text):
        return (form.text % form.values(row)).encode()
    return _object(layout, row).encode()


def _object(layout: Layout, row: Row) -> str:
    members = [write(row) for write in layout.writers]
    return f"{{{','.join([member for member in members if member])}}}"


@dataclass(frozen=True, slots=True)
class _Form:
    """What all rows that have values in the same places become, but for these: most matches are written at one stroke.

    `values` takes the values for the text from a row, `texts` those of them that may have to be escaped or split.
    """

    text: str
    values: Callable[[Row], tuple[Any, ...]]
    texts: Callable[[Row], tuple[str, ...]]


@lru_cache(maxsize=1 << 10)
def _form(layout: Layout, empty: tuple[bool, ...]) -> _Form:
    text = _object(layout, tuple(["" if one else f"%({place})s" for place, one in enumerate(empty)]))
    places = [int(place) for place in _SLOT.findall(text)]
    texts = {*places} - layout.ready
    return _Form(_SLOT.sub("%s", text), _values_at(places), _values_at(sorted(texts)))


def _values_at(places: Sequence[int]) -> Callable[[Row], tuple[Any, ...]]:
    """Return what takes the values at some places of a row."""
    return itemgetter(*places) if len(places) > 1 else lambda row: tuple([row[place] for place in places])


def _writer(tag: str, positions: Mapping[str, int], uids: Sequence[int]) -> _Write:
    if tag in _CONSTANTS:
        return lambda _: _CONSTANTS[tag]
    if tag in COMPUTED:
        return _retrieve_url(uids)
    vr = COLUMNS[tag].vr
    empty = f'"{tag}":{{"vr":"{vr}"}}' if tag in _DEFAULT and tag not in _IF_KNOWN else ""
    start = f'"{tag}":{{"vr":"{vr}","Value":['
    make = _ready if _is_ready(tag) else _name if vr == "PN" else _value
    return make(positions[tag], start, empty)


def _is_ready(tag: str) -> bool:
    """Say whether values of an attribute come as JSON: numbers, and lists that are made when they are read."""
    return COLUMNS[tag].vr in _NUMBERS or tag in (_MODALITIES, *_SOP_CLASSES)


def _ready(position: int, start: str, empty: str) -> _Write:
    def write(row: Row) -> str:
        value = row[position]
        return empty if value is None or value == "" else f"{start}{value}]}}"

    return write


def _value(position: int, start: str, empty: str) -> _Write:
    def write(row: Row) -> str:
        value = row[position]
        if not value:
            return empty
        if value.isalnum():  # nothing to be escaped, nothing to be split
            return f'{start}"{value}"]}}'
        if "\\" in value:
            return f"{start}{_several([part.strip(' ') or None for part in value.split(_BACKSLASH)])}]}}"
        return f"{start}{_json(value).decode()}]}}"

    return write


def _name(position: int, start: str, empty: str) -> _Write:
    def write(row: Row) -> str:
        value = row[position]
        if not value:
            return empty
        if "=" not in value and "\\" not in value:
            return f'{start}{{"Alphabetic":{_json(value).decode()}}}]}}'
        return f"{start}{_several([_groups(one) or None for one in value.split(_BACKSLASH)])}]}}"

    return write


def _several(values: Sequence[Any]) -> str:
    return _json(values).decode()[1:-1]


def _groups(text: str) -> dict[str, str]:
    return {group: part.strip(" ") for group, part in zip(_GROUPS, text.split("="), strict=False) if part.strip(" ")}


def _retrieve_url(uids: Sequence[int]) -> _Write:
    places = [*zip(("/studies/", "/series/", "/instances/"), uids, strict=False)]
    start = f'"00081190":{{"vr":"UR","Value":["{BASE.decode()}'

    def write(row: Row) -> str:
        return f'{start}{"".join([name + row[position] for name, position in places])}"]}}'

    return write


def _series(reading: Reading, ids: Sequence[int]) -> Mapping[int, tuple[Any, ...]]:
    """Return modalities, number of series, number of instances and timezone of studies."""
    rows = reading.by_ids(
        f"SELECT study_id, {reading.dialect.joined}(modality, '\\'), count(*), sum(instance_count), "  # noqa: S608
        "max(timezone_offset_from_utc) FROM series WHERE study_id IN ({}) GROUP BY study_id",
        ids,
    )
    found = {study: (_each(joined), series, instances, zone) for study, joined, series, instances, zone in rows}
    return defaultdict(lambda: ("", 0, 0, ""), found)


@lru_cache(maxsize=1 << 10)
def _each(joined: str) -> str:
    """Return the values of several rows, each once, as JSON; most studies have the same few."""
    return _several(sorted({*joined.split(_BACKSLASH)} - {""}))


def _sop_classes(reading: Reading, ids: Sequence[int]) -> Mapping[int, tuple[Any, ...]]:
    found: dict[int, set[str]] = defaultdict(set)
    for study_id, sop_class_uid in reading.by_ids(
        "SELECT DISTINCT series.study_id, instance.sop_class_uid FROM series "
        "JOIN instance ON instance.series_id = series.id WHERE series.study_id IN ({})",
        ids,
    ):
        found[study_id].add(sop_class_uid)
    return defaultdict(lambda: ("",), {study_id: (_several(sorted(uids)),) for study_id, uids in found.items()})


def _patients(reading: Reading, ids: Sequence[int]) -> Mapping[int, tuple[Any, ...]]:
    columns = ", ".join(COLUMNS[tag].sql for tag in _OF_PATIENT)
    rows = reading.by_ids(f"SELECT study.id, {columns} FROM study WHERE study.id IN ({{}})", ids)  # noqa: S608
    return defaultdict(lambda: (0, 0, 0), {row[0]: (row[1], int(row[2]), int(row[3])) for row in rows})
