"""Attribute matching of work items (PS3.4 C.2.2.2, PS3.18 8.3.4.1), for searches and for filtered subscriptions. Pure.

ProcedureStepState=SCHEDULED                      single value; * and ? are wildcards in text
ScheduledStationNameCodeSequence.CodeValue=AI1    inside a sequence, by keyword or tag
ScheduledProcedureStepStartDateTime=20260101-     ranges of DA, TM and DT; without an offset a time is in UTC
PatientName=doe*                                  whatever its case, any of the three groups
StudyInstanceUID=1.2,1.3                          a list of UIDs
WorklistLabel=                                    any: only asks for the attribute
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from imaging_ai.errors import BadParameterError

__all__ = ["Key", "attribute_path", "parse_key"]

_DT = re.compile(
    r"(\d{4})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:\.(\d{1,6}))?)?)?)?)?)?"
    r"(?:([+-])(0\d|1[0-4])([0-5]\d))?\Z"
)
_TM = re.compile(r"([01]\d|2[0-3])(?:([0-5]\d)(?:([0-5]\d|60)(?:\.(\d{1,6}))?)?)?\Z")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*\Z")
_NUMERIC = frozenset({"DS", "IS", "FL", "FD", "SL", "SS", "SV", "UL", "US", "UV"})
_DEEPEST, _LONGEST = 8, 1_024

_Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Key:
    """A matching key: the path of an attribute (the last tag is its own), its VR, and what is wanted."""

    path: tuple[str, ...]
    vr: str
    text: str

    @property
    def universal(self) -> bool:
        """Whether it takes everything and only asks for the attribute."""
        return self.text in ("", "*")

    @property
    def uids(self) -> tuple[str, ...]:
        """The UIDs of a list of UIDs."""
        return tuple(one.strip() for one in re.split(r"[,\\]", self.text))

    def holds(self, dataset: Mapping[str, Any]) -> bool:
        """Say whether any value of the attribute is as wanted."""
        return self.universal or any(self._takes(value) for value in _values(dataset, self.path))

    def _takes(self, value: object) -> bool:
        if self.vr == "PN":
            groups = value.values() if isinstance(value, dict) else [value]
            wanted = self.text.strip().rstrip("^").casefold()
            return any(_glob(wanted, str(group).strip().rstrip("^").casefold()) for group in groups)
        text = str(value).strip()
        if self.vr == "UI":
            return text in self.uids
        if self.vr in ("DA", "DT", "TM"):
            return _overlap(_spans(self.vr, self.text), _spans(self.vr, text))
        if self.vr in _NUMERIC:
            return _number(text) == _number(self.text)
        return _glob(self.text.strip(), text)


def attribute_path(name: str) -> tuple[str, ...] | None:
    """Return the tags of ``Keyword``, ``GGGGEEEE`` or a path of them; None when they are no attributes of PS3.6."""
    parts = name.split(".")
    if len(parts) > _DEEPEST:
        return None
    path = []
    for part in parts:
        number = int(part, 16) if re.fullmatch(r"[0-9A-Fa-f]{8}", part) else tag_for_keyword(part)
        if number is None:
            return None
        path.append(f"{number:08X}")
    return tuple(path)


def parse_key(name: str, text: str) -> Key | None:
    """Read a matching key; None when it names no attribute that is known.

    Raises
    ------
    BadParameterError
        If the value cannot be one of that attribute.
    """
    path = attribute_path(name)
    if path is None:
        return None
    try:
        vrs = [dictionary_VR(int(one, 16)) for one in path]
    except KeyError:
        return None
    if any(vr != "SQ" for vr in vrs[:-1]):
        raise BadParameterError(name, "names an attribute inside of one that is no sequence")
    key = Key(path, vrs[-1], text)
    if not key.universal:
        _check(name, key)
    return key


def _check(name: str, key: Key) -> None:
    if len(key.text) > _LONGEST:
        raise BadParameterError(name, f"is longer than {_LONGEST} characters")
    if key.vr == "SQ":
        raise BadParameterError(name, "is a sequence; name the attribute in it, as in Sequence.CodeValue=…")
    if key.vr in ("DA", "DT", "TM") and not _spans(key.vr, key.text):
        raise BadParameterError(name, f"is no value or range of VR {key.vr} (PS3.4 C.2.2.2.5)")
    if key.vr == "UI" and not all(_UID.match(uid) and len(uid) <= 64 for uid in key.uids):
        raise BadParameterError(name, "is not a UID or a list of UIDs")
    if key.vr in _NUMERIC and _number(key.text) is None:
        raise BadParameterError(name, "is not a number")


def _values(dataset: Mapping[str, Any], path: Sequence[str]) -> Iterator[object]:
    for value in dataset.get(path[0], {}).get("Value", ()):
        if value is None:
            continue
        if len(path) == 1:
            yield value
        elif isinstance(value, dict):
            yield from _values(value, path[1:])


def _glob(pattern: str, text: str) -> bool:
    """Match text with wildcards, in time linear in the product of the lengths whatever the pattern."""
    at, place, star, resume = 0, 0, -1, 0
    while place < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[place]):
            at, place = at + 1, place + 1
        elif star >= 0:
            resume += 1
            at, place = star + 1, resume
        else:
            return False
    return not pattern[at:].strip("*")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# -- dates and times


def _overlap(wanted: _Span | None, found: _Span | None) -> bool:
    return wanted is not None and found is not None and wanted[0] <= found[1] and found[0] <= wanted[1]


def _spans(vr: str, text: str) -> _Span | None:
    """Return the time that a value or a range covers, both ends included; None when it is neither."""
    one = _span(vr, text)
    if one is not None:
        return one
    for position, character in enumerate(text):
        if character == "-":
            begin, end = text[:position].strip(), text[position + 1 :].strip()
            low, high = _span(vr, begin), _span(vr, end)
            if (low or not begin) and (high or not end) and (low or high):
                return low[0] if low else float("-inf"), high[1] if high else float("inf")
    return None


def _span(vr: str, text: str) -> _Span | None:
    if vr == "TM":
        return _time(text)
    if vr == "DA":
        text = text.replace(".", "") if re.fullmatch(r"\d{4}\.\d{2}\.\d{2}", text) else text
        return _moment(text) if len(text) == 8 and text.isdigit() else None
    return _moment(text)


def _time(text: str) -> _Span | None:
    found = _TM.match(text)
    if found is None:
        return None
    hour, minute, second, fraction = found.groups()
    begin = int(hour) * 3_600.0 + int(minute or 0) * 60 + int(second or 0) + float(f"0.{fraction or 0}")
    return begin, begin + _length(3_600.0 if minute is None else 60.0 if second is None else 1.0, fraction)


def _moment(text: str) -> _Span | None:
    found = _DT.match(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, hours, minutes = found.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1)
    zone = timezone(offset) if sign else UTC
    try:
        begin = datetime(
            *(int(year), int(month or 1), int(day or 1)),
            *(int(hour or 0), int(minute or 0), min(int(second or 0), 59)),
            tzinfo=zone,
        )
    except ValueError:
        return None
    if month is None:
        length = (366.0 if monthrange(int(year), 2)[1] == 29 else 365.0) * 86_400
    elif day is None:
        length = monthrange(int(year), int(month))[1] * 86_400.0
    else:
        length = 86_400.0 if hour is None else 3_600.0 if minute is None else 60.0 if second is None else 1.0
    start = (begin - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() + float(f"0.{fraction or 0}")
    return start, start + _length(length, fraction)


def _length(unit: float, fraction: str | None) -> float:
    return (10.0 ** -len(fraction) if fraction else unit) - 1e-6
