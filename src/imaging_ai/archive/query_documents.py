"""Attributes that only documents have: looked up in one instance for each match, matched and cut out (PS3.4 C.2.2.2.6).

Keys and returned attributes inside sequences are a tree. All keys of one sequence must hold in the same item, and only
items in which they hold are returned. A private attribute is looked for in the block that its creator has reserved in
the data set, whichever that is (PS3.5 7.8.1), and returned in the block that it was asked for in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from imaging_ai.archive.describer import Describer
from imaging_ai.archive.document import unpack_json
from imaging_ai.archive.query_answers import BASE, Row
from imaging_ai.archive.query_attributes import Level, Path, creator_of, is_private
from imaging_ai.archive.query_reader import Reading
from imaging_ai.archive.query_values import Criterion
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import StoredInstance
from imaging_ai.errors import NotFound, TooLarge

__all__ = ["Branch", "Documents", "Elements", "LookedUp", "cut", "grow", "holds", "top_level"]

#: The elements of a data set by tag, each a JSON value: ``{"vr":…, "Value":…}``.
Elements = Mapping[str, Any]

_MOST_BYTES = 512 << 20
_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_INSTANCE = """
SELECT instance.id, instance_document.metadata_json, instance.sop_instance_uid, instance.sop_class_uid,
       instance.transfer_syntax_uid, study.study_instance_uid, series.series_instance_uid, instance.instance_number,
       instance.blob_key, instance.blob_offset, instance.blob_length
FROM instance JOIN series ON series.id = instance.series_id JOIN study ON study.id = series.study_id
LEFT JOIN instance_document ON instance_document.instance_id = instance.id WHERE instance.id IN ({})
"""


@dataclass(slots=True)
class Branch:
    """An attribute in the tree: its criterion if it is a key, whether it is returned whole, and what is inside it."""

    criterion: Criterion | None = None
    whole: bool = False
    inside: dict[str, Branch] = field(default_factory=dict)


def grow(keys: Iterable[tuple[Path, Criterion]], returned: Iterable[Path]) -> dict[str, Branch]:
    """Return the tree of match keys and returned attributes."""
    tree: dict[str, Branch] = {}
    for path, criterion in keys:
        _reach(tree, path).criterion = criterion
    for path in returned:
        _reach(tree, path).whole = True
    return tree


def _reach(tree: dict[str, Branch], path: Path) -> Branch:
    branch = tree.setdefault(path[0], Branch())
    for tag in path[1:]:
        branch = branch.inside.setdefault(tag, Branch())
    return branch


def holds(tree: Mapping[str, Branch], elements: Elements, creators: Mapping[str, str]) -> bool:
    """Say whether a data set meets every key of a tree."""
    return all(_meets(branch, _located(tag, elements, creators), creators) for tag, branch in tree.items())


def _meets(branch: Branch, element: Any, creators: Mapping[str, str]) -> bool:
    values = _values(element)
    if branch.criterion is not None and not branch.criterion.holds(values):
        return False
    if not _has_keys(branch.inside):
        return True
    return any(isinstance(item, dict) and holds(branch.inside, item, creators) for item in values)


def _has_keys(tree: Mapping[str, Branch]) -> bool:
    return any(branch.criterion is not None or _has_keys(branch.inside) for branch in tree.values())


def cut(tree: Mapping[str, Branch], elements: Elements, creators: Mapping[str, str]) -> dict[str, bytes]:
    """Return the elements that a tree asks for, in JSON, private creators with what is theirs."""
    found: dict[str, bytes] = {}
    for tag, branch in tree.items():
        element = _located(tag, elements, creators)
        if element is None:
            continue
        if is_private(tag) and (creator := creators.get(creator_of(tag)) or _creator(tag, elements)):
            found[creator_of(tag)] = _encode({"vr": "LO", "Value": [creator]})
        if branch.whole or not branch.inside:
            found[tag] = bytes(element) if isinstance(element, msgspec.Raw) else _encode(element)
            continue
        items = [item for item in _values(element) if isinstance(item, dict)]
        matching = [item for item in items if holds(branch.inside, item, creators)]
        inside = [
            {one: msgspec.Raw(value) for one, value in sorted(cut(branch.inside, item, creators).items())}
            for item in matching
        ]
        found[tag] = _encode({"vr": "SQ", "Value": inside} if inside else {"vr": "SQ"})
    return found


def _located(tag: str, elements: Elements, creators: Mapping[str, str]) -> Any:
    """Return an element; a private one from the block of its creator, when that was named."""
    creator = creators.get(creator_of(tag)) if is_private(tag) else None
    if creator is None:
        return elements.get(tag)
    for block in (f"{tag[:4]}00{number:02X}" for number in range(0x10, 0x100)):
        if block in elements and creator in _values(elements[block]):
            return elements.get(f"{tag[:4]}{block[6:]}{tag[6:]}")
    return None


def _creator(tag: str, elements: Elements) -> str:
    values = _values(elements.get(creator_of(tag)))
    return str(values[0]) if values else ""


def _values(element: Any) -> Sequence[Any]:
    if isinstance(element, msgspec.Raw):
        element = _decode(element)
    values = element.get("Value", ()) if isinstance(element, dict) else ()
    return values if isinstance(values, list) else ()


def top_level(tree: Mapping[str, Branch]) -> Callable[[str], bool]:
    """Return what says of a tag whether a tree needs it: private attributes need all of their group."""
    groups = {tag[:4] for tag in tree if is_private(tag)}
    return lambda tag: tag in tree or tag[:4] in groups


@dataclass(frozen=True, slots=True)
class LookedUp:
    """What a document says; `place` is the address that its URIs of bulk data are relative to."""

    elements: Elements = field(default_factory=dict)
    place: bytes = b""

    def cut(self, tree: Mapping[str, Branch], creators: Mapping[str, str]) -> dict[str, bytes]:
        """Return the elements that a tree asks for, in JSON, with absolute URIs."""
        uri = b'"BulkDataURI":"'
        found = cut(tree, self.elements, creators)
        return {tag: element.replace(uri, uri + self.place) for tag, element in found.items()}


class Documents:
    """The documents of matches."""

    def __init__(self, describer: Describer) -> None:
        self._describer = describer

    def of(
        self, reading: Reading, level: Level, rows: Sequence[Row], needed: Callable[[str], bool]
    ) -> dict[int, LookedUp]:
        """Return, by the first id of each row, the elements whose tags are needed.

        Raises
        ------
        TooLarge
            If the documents are larger than one search should read.
        """
        owners = _representatives(reading, level, [row[0] for row in rows])
        found: dict[int, LookedUp] = {}
        size = 0
        for instance_id, packed, *columns in reading.by_ids(_INSTANCE, tuple(owners)):
            instance = StoredInstance(*columns[:-3], BlobRef(*columns[-3:]))  # type: ignore[call-arg]
            json = self._made(instance) if packed is None else unpack_json(packed)
            size += len(json)
            if size > _MOST_BYTES:
                raise TooLarge("the data sets that would have to be looked into are too large; narrow the search")
            elements = {tag: raw for tag, raw in _top_level(json).items() if needed(tag)}
            series = f"/studies/{instance.study_instance_uid}/series/{instance.series_instance_uid}/"
            found[owners[instance_id]] = LookedUp(elements, BASE + series.encode())
        return found

    def _made(self, instance: StoredInstance) -> bytes:
        """Return a document that no describer has made yet."""
        try:
            return self._describer.document_of(instance).json
        except NotFound:
            return b"{}"


def _representatives(reading: Reading, level: Level, ids: Sequence[int]) -> dict[int, int]:
    """Return, by instance, which row it speaks for: the first that came of a study or series."""
    if level is Level.INSTANCE:
        return {one: one for one in ids}
    owner = "instance.series_id" if level is Level.SERIES else "series.study_id"
    statement = (
        f"SELECT min(instance.id), {owner} FROM series JOIN instance ON instance.series_id = series.id "  # noqa: S608
        f"WHERE {owner} IN ({{}}) GROUP BY {owner}"
    )
    return {row[0]: row[1] for row in reading.by_ids(statement, ids)}
