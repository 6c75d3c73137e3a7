"""Dates, times and date-times as match keys: a value, or a range with one or both ends (PS3.4 C.2.2.2.1, C.2.2.2.5).

Values are compared as text of digits. What a key leaves out is any: "1030" is from 10:30:00 to 10:30:59.999999. Where a
date-time says its offset from UTC, it is compared in UTC; without, as it is. Ranges include both ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from imaging_ai.errors import BadParameterError

__all__ = ["Moments", "combined", "moments_of", "normal"]

_FORMS = {
    "DA": re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", re.ASCII),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?", re.ASCII),
    "DT": re.compile(
        r"\d{4}((0[1-9]|1[0-2])((0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?)?)?)?"
        r"([+-](0\d|1[0-4])[0-5]\d)?",
        re.ASCII,
    ),
}
_EXAMPLES = {"DA": "20240131", "TM": "103000", "DT": "20240131103000"}
_OFFSET = re.compile(r"([+-])(\d\d)(\d\d)$")
_LOWEST = {"DA": "00010101", "TM": "000000.000000", "DT": "00010101000000.000000"}
_HIGHEST = {"DA": "99991231", "TM": "235960.999999", "DT": "99991231235960.999999"}


@dataclass(frozen=True, slots=True)
class Moments:
    """A value lies between two ends, both included, written in full; `range` says that the key was a range."""

    vr: str
    low: str
    high: str
    is_range: bool = False

    def holds(self, values: Sequence[Any]) -> bool:
        found = [normal(self.vr, value, _LOWEST) for value in values if isinstance(value, str)]
        return any(self.low <= value <= self.high for value in found if value)


def moments_of(name: str, vr: str, text: str) -> Moments:
    """Read a key.

    Raises
    ------
    BadParameterError
        If it is neither a value of this VR nor a range of them.
    """
    low, high, is_range = _ends(vr, text)
    first = normal(vr, low, _LOWEST) if low else _LOWEST[vr]
    last = normal(vr, high, _HIGHEST) if high else _HIGHEST[vr]
    if not (first and last) or not (low or high):
        raise BadParameterError(
            name, f"is neither a value such as {_EXAMPLES[vr]} nor a range of them (PS3.4 C.2.2.2.5)"
        )
    if first > last:
        raise BadParameterError(name, "is a range that ends before it begins")
    return Moments(vr, first, last, is_range)


def combined(date: Moments, time: Moments) -> Moments:
    """Return the range of date-times that a range of dates and one of times mean together (PS3.4 C.2.2.2.5.4)."""
    return Moments("DT", date.low + time.low, date.high + time.high, True)


def normal(vr: str, text: str, rest: dict[str, str]) -> str:
    """Return a value in full, what it leaves out taken from `rest`; "" if it is none. ACR-NEMA's forms are read too."""
    text = text.strip(" ")
    if vr == "DA" and len(text) == 10:
        text = text.replace(".", "")
    elif vr == "TM":
        text = text.replace(":", "")
    if not _FORMS[vr].fullmatch(text):
        return ""
    offset = _OFFSET.search(text) if vr == "DT" else None
    digits = text[: offset.start()] if offset else text
    full = digits + rest[vr][len(digits) :]
    return _in_utc(full, offset) if offset else full


def _ends(vr: str, text: str) -> tuple[str, str, bool]:
    """Take a range apart. A hyphen may also begin the offset of a date-time."""
    if _FORMS[vr].fullmatch(text):
        return text, text, False
    for at in (match.start() for match in re.finditer("-", text)):
        low, high = text[:at].strip(" "), text[at + 1 :].strip(" ")
        if all(not end or normal(vr, end, _LOWEST) for end in (low, high)):
            return low, high, True
    return text, text, False


def _in_utc(full: str, offset: re.Match[str]) -> str:
    day = min(int(full[6:8]), 28)  # the last days of a month, and its 31st, are counted from the 28th
    try:
        moment = datetime(int(full[:4]), int(full[4:6]), day, int(full[8:10]), int(full[10:12]))  # noqa: DTZ001
        sign = -1 if offset[1] == "+" else 1
        moment += timedelta(days=int(full[6:8]) - day)
        moment += sign * timedelta(hours=int(offset[2]), minutes=int(offset[3]))
    except (OverflowError, ValueError):
        return ""
    return f"{moment:%Y%m%d%H%M}".rjust(12, "0") + full[12:]
