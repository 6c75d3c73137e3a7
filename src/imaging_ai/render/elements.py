"""Reading the DICOM JSON of a data set (PS3.18 F) by keyword; what is damaged counts as absent."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydicom.datadict import tag_for_keyword

__all__ = ["Elements", "count", "element", "inline", "items", "number", "numbers", "person", "tag_of", "text", "values"]

#: The elements of one data set or item, by tag.
Elements = Mapping[str, Any]


@lru_cache(maxsize=1024)
def tag_of(keyword: str) -> str:
    """Return the tag of a keyword as DICOM JSON writes it."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no keyword of the data dictionary")
    return f"{tag:08X}"


def element(elements: Elements, keyword: str) -> Mapping[str, Any]:
    """Return an element, empty when absent."""
    found = elements.get(tag_of(keyword))
    return found if isinstance(found, dict) else {}


def values(elements: Elements, keyword: str) -> list[Any]:
    """Return all values of an element."""
    found = element(elements, keyword).get("Value")
    return found if isinstance(found, list) else []


def text(elements: Elements, keyword: str) -> str:
    """Return the first value as text, "" when there is none."""
    first = next(iter(values(elements, keyword)), None)
    if isinstance(first, dict):
        return person(first)
    return "" if first is None else str(first)


def person(name: Mapping[str, Any]) -> str:
    """Return the first group of a person name that says something, its components apart (PS3.5 6.2.1)."""
    group = next((str(name[key]) for key in ("Alphabetic", "Ideographic", "Phonetic") if name.get(key)), "")
    return " ".join(part for part in group.split("^") if part)


def numbers(elements: Elements, keyword: str) -> list[float]:
    """Return the values as finite numbers; none at all when one of them is not."""
    try:
        found = [float(value) for value in values(elements, keyword)]
    except (TypeError, ValueError):
        return []
    return found if all(map(math.isfinite, found)) else []


def number(elements: Elements, keyword: str) -> float | None:
    """Return the first value as a finite number."""
    return next(iter(numbers(elements, keyword)), None)


def count(elements: Elements, keyword: str, default: int = 0) -> int:
    """Return the first value as an integer."""
    found = number(elements, keyword)
    return default if found is None else int(found)


def items(elements: Elements, keyword: str) -> list[Elements]:
    """Return the items of a sequence."""
    return [item for item in values(elements, keyword) if isinstance(item, dict)]


def inline(found: Mapping[str, Any]) -> bytes | None:
    """Return the binary value that an element has inline."""
    value = found.get("InlineBinary")
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value)
    except binascii.Error:
        return None
