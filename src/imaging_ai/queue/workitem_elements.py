"""DICOM JSON (PS3.18 F) by keyword: data sets are made, read and checked with the names of PS3.6.

What a client sends is checked here before anything looks into it: tags, VRs, the types of values, how deep it goes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from imaging_ai.errors import InputError

__all__ = ["Elements", "checked", "code", "elements", "first", "items", "moment", "name_of", "said", "tag"]

Elements = dict[str, Any]

_TAG = re.compile(r"[0-9A-F]{8}\Z")
_FORMATS = {
    "DA": re.compile(r"[0-9]{8}\Z"),
    "TM": re.compile(r"[0-9]{2}([0-9]{2}([0-9]{2}(\.[0-9]{1,6})?)?)?\Z"),
    "DT": re.compile(r"[0-9]{4}([0-9]{2}){0,5}(\.[0-9]{1,6})?([+-][0-9]{4})?\Z"),
    "UI": re.compile(r"[0-9]+(\.[0-9]+)*\Z"),
    "CS": re.compile(r"[A-Z0-9 _]{0,16}\Z"),
    "AE": re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}\Z"),
}
_LONGEST = {"UI": 64, "SH": 16, "LO": 64, "ST": 1024, "LT": 10_240, "AS": 4, "DA": 8, "TM": 14, "DT": 26}
_TEXT = frozenset({"AE", "AS", "AT", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})
_NUMBERS = frozenset({"DS", "IS", "FL", "FD", "SL", "SS", "SV", "UL", "US", "UV"})
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_NAMES = frozenset({"Alphabetic", "Ideographic", "Phonetic"})
_DEEPEST = 12


# -- making


def tag(keyword: str) -> str:
    """Return the tag of a keyword, as DICOM JSON writes it."""
    return _known(keyword)[0]


@cache
def _known(keyword: str) -> tuple[str, str]:
    """Return tag and VR of a keyword of our own (never one that a client sends: they are kept)."""
    number = tag_for_keyword(keyword)
    assert number is not None, keyword
    return f"{number:08X}", dictionary_VR(number)


def elements(**values: Any) -> Elements:
    """Make a data set of keywords and values: None and "" are attributes without a value, lists have several."""
    made: Elements = {}
    for keyword, value in values.items():
        key, vr = _known(keyword)
        several = list(value) if isinstance(value, (list, tuple)) else [value]
        if vr == "PN":
            several = [{"Alphabetic": one} for one in several if one]
        kept = [one for one in several if one is not None and one != ""]
        made[key] = {"vr": vr, "Value": kept} if kept else {"vr": vr}
    return made


def code(value: str, scheme: str, meaning: str, version: str = "") -> Elements:
    """Make the item of a code sequence (PS3.3 8.8); a value of more than 16 characters is a Long Code Value."""
    long = {"LongCodeValue": value} if len(value) > 16 else {"CodeValue": value}
    with_version = {"CodingSchemeVersion": version} if version and len(version) <= 16 else {}
    return elements(**long, CodingSchemeDesignator=scheme, **with_version, CodeMeaning=meaning[:64])


def moment(seconds: float | None) -> str:
    """Write a time as a DT in UTC; "" for none."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d%H%M%S.%f+0000")


# -- reading


def first(dataset: Mapping[str, Any], keyword: str) -> Any:
    """Return the first value of an attribute; None without one."""
    values = dataset.get(tag(keyword), {}).get("Value")
    return values[0] if values else None


def said(dataset: Mapping[str, Any], keyword: str) -> str:
    """Return the first value of an attribute as text; "" without one."""
    value = first(dataset, keyword)
    return "" if value is None or isinstance(value, dict) else str(value).strip()


def items(dataset: Mapping[str, Any], keyword: str) -> list[Elements]:
    """Return the items of a sequence."""
    return [one for one in dataset.get(tag(keyword), {}).get("Value", ()) if one]


def name_of(key: str) -> str:
    """Name an attribute for people: its keyword, else its tag."""
    return keyword_for_tag(int(key, 16)) or key


# -- checking what a client sends


def checked(given: object) -> Elements:
    """Return the data set that a client sent, with tags in capitals.

    Raises
    ------
    InputError
        If it is no DICOM JSON data set; the message names the attribute, never its value.
    """
    return _checked(given, "", _DEEPEST)


def _checked(given: object, where: str, depth: int) -> Elements:
    if not isinstance(given, dict):
        raise InputError(f"{where or 'the work item'}: is no data set (a JSON object of tags)")
    if depth == 0:
        raise InputError(f"{where}: sequences nest deeper than {_DEEPEST} levels")
    made: Elements = {}
    for key, element in given.items():
        upper = key.upper()
        if not _TAG.match(upper):
            raise InputError(f"{where}{key[:40]!r}: is no tag of eight hexadecimal digits")
        if upper in made:
            raise InputError(f"{where}{upper}: is there twice")
        made[upper] = _element(upper, element, f"{where}{name_of(upper)}", depth)
    return made


def _element(key: str, element: object, where: str, depth: int) -> Elements:
    if not isinstance(element, dict):
        raise InputError(f"{where}: is no attribute (a JSON object with vr and Value)")
    if "BulkDataURI" in element:
        raise InputError(f"{where}: work items have no bulk data (PS3.18 11.1.3)")
    vr = element.get("vr")
    usual = _usual_vr(key)
    if vr is None and usual:
        vr = usual
    if not isinstance(vr, str) or (vr not in _TEXT | _NUMBERS | _BINARY and vr not in ("PN", "SQ")):
        raise InputError(f"{where}: its vr is none of PS3.5 6.2")
    if usual and usual in _TEXT | {"SQ", "PN"} and vr != usual:
        raise InputError(f"{where}: its vr is {vr}, and PS3.6 has {usual}")
    if vr in _BINARY:
        inline = element.get("InlineBinary", "")
        if not isinstance(inline, str):
            raise InputError(f"{where}: InlineBinary is no text")
        return {"vr": vr, "InlineBinary": inline} if inline else {"vr": vr}
    values = element.get("Value")
    if values is None or values == []:
        return {"vr": vr}
    if not isinstance(values, list):
        raise InputError(f"{where}: Value is no array")
    return {"vr": vr, "Value": [_value(vr, one, f"{where}[{n}]", depth) for n, one in enumerate(values)]}


def _value(vr: str, value: object, where: str, depth: int) -> object:
    if value is None:
        return {} if vr == "SQ" else None
    if vr == "SQ":
        return _checked(value, f"{where}.", depth - 1)
    if vr == "PN":
        return _person(value, where)
    if vr in _NUMBERS:
        return _number(value, where)
    if not isinstance(value, str):
        raise InputError(f"{where}: a value of VR {vr} is text")
    _check_text(vr, value, where)
    return value


def _person(value: object, where: str) -> object:
    groups = value.items() if isinstance(value, dict) else [("Alphabetic", value)]
    if not all(name in _NAMES and isinstance(text, str) and _is_clean(text) for name, text in groups):
        raise InputError(f"{where}: a person's name is an object of Alphabetic, Ideographic and Phonetic")
    return dict(groups)


def _number(value: object, where: str) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InputError(f"{where}: is no number")
    if isinstance(value, str):
        try:
            return _plain_number(value)
        except ValueError:
            raise InputError(f"{where}: is no number") from None
    return value


def _plain_number(text: str) -> int | float:
    number = float(text[:64])
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError
    return int(number) if number.is_integer() and abs(number) < 2**63 else number


def _check_text(vr: str, value: str, where: str) -> None:
    stripped = value.strip()
    if len(value) > _LONGEST.get(vr, 65_536):
        raise InputError(f"{where}: is longer than a value of VR {vr} may be")
    if not _is_clean(value):
        raise InputError(f"{where}: has control characters")
    if stripped and vr in _FORMATS and not _FORMATS[vr].match(stripped):
        raise InputError(f"{where}: is no value of VR {vr}")


def _is_clean(text: str) -> bool:
    return not any((ord(one) < 32 and one not in "\t\n\f\r\x1b") or 0xD800 <= ord(one) < 0xE000 for one in text)


def _usual_vr(key: str) -> str:
    try:
        return dictionary_VR(int(key, 16))
    except KeyError:
        return ""
