"""The attributes of a series that the index does not keep, from the header of one of its instances.

An enhanced multi-frame instance (PS3.3 C.7.6.16) says in its Shared Functional Groups what a plain one says at the
top level; both are found under the same keyword.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import replace
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from imaging_ai.archive.archive import Archive
from imaging_ai.core.instance import SeriesSummary

__all__ = ["DAMAGED", "attributes_of", "completed"]

logger = logging.getLogger(__name__)

#: What pydicom raises on a header that is damaged.
DAMAGED = (
    InvalidDicomError,
    AttributeError,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

_NO_TEXT = frozenset({"SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN", "AT"})
_HEAD_BYTES = 1 << 20


def completed(archive: Archive, series: SeriesSummary, keywords: Collection[str]) -> SeriesSummary:
    """Return the series with those of its attributes that the index lacks."""
    lacking = set(keywords) - series.attributes.keys()
    if not lacking:
        return series
    instances = archive.instances(series.series_instance_uid, series.study_instance_uid)
    middle = instances[len(instances) // 2]
    try:
        found = attributes_of(_header(archive.store.read(middle.blob, 0, _HEAD_BYTES)))
    except DAMAGED:
        try:
            found = attributes_of(_header(archive.read(middle)))  # a header longer than the head
        except DAMAGED as error:
            logger.warning(
                "the header of instance %s cannot be read (%s)", middle.sop_instance_uid, type(error).__name__
            )
            found = {}
    return replace(series, attributes={**{keyword: found.get(keyword, "") for keyword in lacking}, **series.attributes})


def attributes_of(header: Dataset) -> dict[str, str]:
    """Return the text of each attribute by keyword, several values joined by a backslash."""
    found: dict[str, str] = {}
    for element in _elements(header):
        if element.keyword and element.VR not in _NO_TEXT:
            found.setdefault(element.keyword, _text(element))
    return found


def _header(data: bytes) -> Dataset:
    return dcmread(BytesIO(data), stop_before_pixels=True)


def _elements(header: Dataset) -> Iterator[DataElement]:
    yield from header
    for groups in header.get("SharedFunctionalGroupsSequence") or ():
        for group in groups:
            for item in group.value if group.VR == "SQ" else ():
                yield from item


def _text(element: DataElement) -> str:
    value = element.value
    values = value if isinstance(value, (MultiValue, list)) else [value]
    return "\\".join("" if one is None else str(one) for one in values)
