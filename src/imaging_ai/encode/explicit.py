"""Explicit VR Little Endian by hand (PS3.5 section 7), for the one sequence that has an item for every frame.

A SEG of ten organs has thousands of frames, and each item some twenty-five elements: building and writing them through
pydicom takes longer than all the rest together, reading them back too.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TypeAlias

__all__ = ["Item", "element", "first_from", "item", "read_elements", "read_items", "sequence"]

#: An item as read: tag to raw value, or to the items of a sequence.
Item: TypeAlias = "Mapping[int, tuple[str, bytes | list[Item]]]"

Memo: TypeAlias = dict[bytes, list[Item]]

_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2sHI")
_ITEM = struct.Struct("<HHI")
_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_UNDEFINED = 0xFFFFFFFF
_START, _END_OF_ITEM, _END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


def element(tag: int, vr: str, value: bytes) -> bytes:
    """Return one element, its value padded to an even length."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB") else b" "
    if vr in _LONG_VRS:
        return _LONG.pack(tag >> 16, tag & 0xFFFF, vr.encode(), 0, len(value)) + value
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value


def item(*elements: bytes) -> bytes:
    """Return an item of a sequence with these elements, which must be in the order of their tags."""
    length = sum(map(len, elements))
    return b"".join((_ITEM.pack(_START >> 16, _START & 0xFFFF, length), *elements))


def sequence(tag: int, *items: bytes) -> bytes:
    """Return a sequence element with these items."""
    length = sum(map(len, items))
    return b"".join((_LONG.pack(tag >> 16, tag & 0xFFFF, b"SQ", 0, length), *items))


def read_items(data: bytes, start: int, end: int, memo: Memo | None = None) -> tuple[list[Item], int]:
    """Read the items from `start` up to `end`, or to their delimiter; return them and where they ended.

    The frames of ten segments on one plane say the same of their source: `memo` keeps what was read once.

    Raises
    ------
    ValueError
        If the bytes are no items.
    """
    items: list[Item] = []
    memo = {} if memo is None else memo
    at = start
    while at < end:
        _require_within(at + 8, len(data))
        tag, length = _item_header(data, at)
        at += 8
        if tag == _END_OF_SEQUENCE:
            return items, at
        if tag != _START:
            raise ValueError(f"not an item but {tag:08X}")
        found, at = read_elements(data, at, end if length == _UNDEFINED else at + length, memo)
        items.append(found)
    _require_within(at, end)
    return items, at


def first_from(data: bytes | memoryview, start: int, tag: int) -> int:
    """Return where the first element with this tag or a later one begins, from the element at `start` on.

    Raises
    ------
    ValueError
        If an element before it is longer than the data, or of undefined length.
    """
    at = start
    while at < len(data):
        _require_within(at + 8, len(data))
        group, number, vr, length = _SHORT.unpack_from(data, at)
        if (group << 16 | number) >= tag:
            return at
        at += 8
        if vr.decode("latin-1") in _LONG_VRS:
            _require_within(at + 4, len(data))
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
        if length == _UNDEFINED:
            raise ValueError("an element of undefined length")
        at += length
    _require_within(at, len(data))
    return at


def _item_header(data: bytes, at: int) -> tuple[int, int]:
    group, number, length = _ITEM.unpack_from(data, at)
    return group << 16 | number, length


def read_elements(data: bytes, start: int, end: int, memo: Memo | None = None) -> tuple[Item, int]:
    """Read elements from `start` up to `end`, or to the item's delimiter; return them and where they ended.

    Raises
    ------
    ValueError
        If an element is longer than what holds it.
    """
    elements: dict[int, tuple[str, bytes | list[Item]]] = {}
    memo = {} if memo is None else memo
    at = start
    while at < end:
        _require_within(at + 8, len(data))
        group, number, code, length = _SHORT.unpack_from(data, at)
        tag, vr = group << 16 | number, code.decode("latin-1")
        if tag == _END_OF_ITEM:
            return elements, at + 8
        at += 8
        if vr in _LONG_VRS:
            _require_within(at + 4, len(data))
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
        if length == _UNDEFINED:
            items, at = read_items(data, at, end, memo)
            elements[tag] = vr, items
            continue
        _require_within(at + length, end)
        value = data[at : at + length]
        at += length
        if vr == "SQ":
            if value not in memo:
                memo[value], _ = read_items(value, 0, length, memo)
            elements[tag] = vr, memo[value]
        else:
            elements[tag] = vr, value
    _require_within(at, min(end, len(data)))
    return elements, at


def _require_within(at: int, end: int) -> None:
    if at > end:
        raise ValueError("an element is longer than what holds it")
