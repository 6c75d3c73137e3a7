"""Conditions on the attributes of a series: the `when` of a rule and the `accepts` of a model.

A condition names an attribute by its keyword (PS3.6), or `instances`, the number of instances held, and says what
its value must be:

    Modality          = "MR"                      text, whatever its case; * is any text and ? any character
    BodyPartExamined  = ["HEAD", "BRAIN"]         any of these
    ImageType         = ["ORIGINAL", "!LOCALIZER"]  ! is not: some value is ORIGINAL and none is LOCALIZER
    SliceThickness    = "< 1.5"                   also <= > >= =, and "2..5", both ends included
    EchoTime          = 30                        a number, however it is written
    SeriesDescription = "/t1.*post/"              a regular expression found anywhere in it, whatever its case
    ContrastBolusAgent = "present"                or "absent"; an attribute without a value is absent
    instances         = ">= 20"

All conditions must hold. A multi-valued attribute matches when any of its values does. An age (PS3.5 VR AS) compares
in years. Regular expressions are RE2's: matched in time linear in the text, without back-references or lookaround,
so that no rule and no peer can hold up the server.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import re2
from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword

from imaging_ai.errors import ConfigError

__all__ = ["Conditions"]

_INSTANCES = "instances"
_UNMATCHABLE = frozenset({"SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN", "AT", "OB or OW"})
_NUMERIC = frozenset({"IS", "DS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "US or SS"})
_SINGLE_VALUED = frozenset({"ST", "LT", "UT", "UR"})  # a backslash is text there (PS3.5 6.2)
_IDENTIFYING_GROUPS = frozenset({0x0010, 0x0038})  # patient, visit
_IDENTIFYING = frozenset({"AccessionNumber", "StudyID"})

_COMPARISON = re.compile(r"(<=|>=|<|>|=)\s*(\S+)")
_RANGE = re.compile(r"([-+]?\d+(?:\.\d+)?)\s*\.\.\s*([-+]?\d+(?:\.\d+)?)")
_AGE = re.compile(r"(\d{3})([DWMY])")
_AGES_IN_A_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_CODE_STRING = re.compile(r"[A-Z0-9_ \\]{1,80}")


class _Test(Protocol):
    def holds(self, values: Sequence[str]) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Text:
    """Some value matches a pattern: a regular expression, or text with wildcards."""

    pattern: str
    whole: bool

    def holds(self, values: Sequence[str]) -> bool:
        expression = _compile(self.pattern)
        return any((expression.fullmatch(value) if self.whole else expression.search(value)) for value in values)


@dataclass(frozen=True, slots=True)
class _Interval:
    """Some value is a number between two ends."""

    low: float
    high: float
    open_ends: bool = False

    def holds(self, values: Sequence[str]) -> bool:
        numbers = (_number(value) for value in values)
        return any(number is not None and self._contains(number) for number in numbers)

    def _contains(self, number: float) -> bool:
        if self.open_ends:
            return self.low < number < self.high
        return self.low <= number <= self.high


@dataclass(frozen=True, slots=True)
class _Presence:
    """The attribute has a value, or has none."""

    wanted: bool

    def holds(self, values: Sequence[str]) -> bool:
        return bool(values) == self.wanted


@dataclass(frozen=True, slots=True)
class _Condition:
    """What one attribute must be: any of `wanted` (when there are any) and none of `unwanted`."""

    keyword: str
    source: tuple[str, ...]
    wanted: tuple[_Test, ...]
    unwanted: tuple[_Test, ...]

    def holds(self, values: Sequence[str]) -> bool:
        if self.wanted and not any(test.holds(values) for test in self.wanted):
            return False
        return not any(test.holds(values) for test in self.unwanted)

    @property
    def wish(self) -> str:
        wanted = [" or ".join(source for source in self.source if not source.startswith("!"))]
        unwanted = [f"not {source[1:].strip()}" for source in self.source if source.startswith("!")]
        return " and ".join(filter(None, wanted + unwanted))


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the attributes of a series must be. No conditions accept every series."""

    conditions: tuple[_Condition, ...] = ()

    @classmethod
    def parse(cls, mapping: Mapping[str, object], where: str) -> Conditions:
        """Read the conditions of a settings table.

        Raises
        ------
        ConfigError
            If a key is no DICOM keyword, or a value cannot be read; the text begins with `where`.
        """
        return cls(tuple(_parse_condition(key, value, where) for key, value in mapping.items()))

    def __str__(self) -> str:
        """Say all of them in a line; nothing where every series is accepted."""
        return ", ".join(f"{condition.keyword} {condition.wish}" for condition in self.conditions)

    @property
    def keywords(self) -> frozenset[str]:
        """The keywords that the conditions look at (without `instances`)."""
        return frozenset(condition.keyword for condition in self.conditions) - {_INSTANCES}

    def names(self, keyword: str, value: str) -> bool:
        """Say whether `value` is asked for by name, and not by a wildcard, an expression or its absence."""
        return any(
            condition.keyword == keyword and value.casefold() in (source.casefold() for source in condition.source)
            for condition in self.conditions
        )

    def mismatches(self, attributes: Mapping[str, str], instances: int) -> list[str]:
        """Return a sentence for each condition that does not hold; none when all do.

        A sentence repeats a found value only when it is a code or a number, and nothing at all of an attribute that
        may identify the patient.
        """
        sentences = []
        for condition in self.conditions:
            if condition.keyword == _INSTANCES:
                if not condition.holds([str(instances)]):
                    sentences.append(f"{instances} instances, wanted {condition.wish}")
            else:
                text = attributes.get(condition.keyword, "")
                if not condition.holds(_values(condition.keyword, text)):
                    sentences.append(_sentence(condition, text))
        return sentences


def _sentence(condition: _Condition, text: str) -> str:
    keyword = condition.keyword
    tag, vr = tag_for_keyword(keyword), dictionary_VR(keyword)
    assert tag is not None
    if tag >> 16 in _IDENTIFYING_GROUPS or vr == "PN" or keyword in _IDENTIFYING:
        return f"{keyword} is not as wanted"
    if not text.strip():
        found = "absent"
    elif (vr in ("AE", "CS") and _CODE_STRING.fullmatch(text)) or (vr in _NUMERIC and _all_numbers(text)):
        found = text[:80]
    else:
        found = "other"
    return f"{keyword} is {found}, wanted {condition.wish}"


def _values(keyword: str, text: str) -> list[str]:
    parts = [text] if dictionary_VR(keyword) in _SINGLE_VALUED else text.split("\\")
    whole = [part.encode("utf-8", "replace").decode() for part in parts]  # RE2 takes no lone surrogates
    return [value for part in whole if (value := part.strip())]


def _all_numbers(text: str) -> bool:
    return all(_number(value) is not None for value in text.split("\\"))


def _number(text: str) -> float | None:
    if age := _AGE.fullmatch(text):
        return float(age[1]) / _AGES_IN_A_YEAR[age[2]]
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.dot_nl = True
    options.max_mem = 1 << 20
    return re2.compile(pattern, options)  # RE2 keeps the last patterns compiled


def _parse_condition(key: str, value: object, where: str) -> _Condition:
    where = f"{where}: {key}"
    if key != _INSTANCES:
        _check_keyword(key, where)
    items = value if isinstance(value, list) else [value]
    if not items:
        raise ConfigError(f'{where}: the list is empty; leave the key out, or write "absent"')
    wanted: list[_Test] = []
    unwanted: list[_Test] = []
    for item in items:
        if isinstance(item, str) and item.startswith("!"):
            unwanted.append(_parse_test(item[1:].strip(), where))
        else:
            wanted.append(_parse_test(item, where))
    if key == _INSTANCES and not all(isinstance(test, _Interval) for test in wanted + unwanted):
        raise ConfigError(f'{where} is a number: write it as 20, ">= 20" or "20..400"')
    return _Condition(key, tuple(str(item) for item in items), tuple(wanted), tuple(unwanted))


def _check_keyword(key: str, where: str) -> None:
    if tag_for_keyword(key) is None:
        near = difflib.get_close_matches(key, [*keyword_dict, _INSTANCES], n=1)
        remedy = f"did you mean {near[0]}?" if near else "use a keyword of PS3.6, such as Modality, or instances"
        raise ConfigError(f"{where} is no DICOM keyword; {remedy}")
    if dictionary_VR(key) in _UNMATCHABLE:
        raise ConfigError(f"{where} holds no text or number to match; use another attribute")


def _parse_test(item: object, where: str) -> _Test:
    if isinstance(item, (int, float)) and not isinstance(item, bool):
        return _Interval(_finite(str(item), where), float(item))
    if not isinstance(item, str) or not item.strip():
        raise ConfigError(f"{where}: {item!r} is neither text nor a number; quote it, or give a list")
    text = item.strip()
    if text in {"present", "absent"}:
        return _Presence(text == "present")
    if text.startswith("/"):
        return _parse_expression(text, where)
    if text[0] in "<>=":
        return _parse_comparison(text, where)
    if between := _RANGE.fullmatch(text):
        low, high = _finite(between[1], where), _finite(between[2], where)
        if low > high:
            raise ConfigError(f"{where}: {text!r} is empty; write the smaller number first")
        return _Interval(low, high)
    wildcards = {"*": ".*", "?": "."}
    return _Text("".join(wildcards.get(character) or re2.escape(character) for character in text), whole=True)


def _parse_comparison(text: str, where: str) -> _Interval:
    comparison = _COMPARISON.fullmatch(text)
    if comparison is None:
        raise ConfigError(f'{where}: {text!r} is no comparison; write it as ">= 20"')
    operator, number = comparison[1], _finite(comparison[2], where)
    if operator == "=":
        return _Interval(number, number)
    below = operator[0] == "<"
    low, high = (-math.inf, number) if below else (number, math.inf)
    return _Interval(low, high, open_ends=len(operator) == 1)


def _parse_expression(text: str, where: str) -> _Text:
    if len(text) < 3 or not text.endswith("/"):
        raise ConfigError(f"{where}: {text!r} starts a regular expression; end it with /, or write * for any text")
    try:
        _compile(text[1:-1])
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else "it cannot be read"
        raise ConfigError(f"{where}: the regular expression {text} cannot be used: {reason} (RE2 syntax)") from error
    return _Text(text[1:-1], whole=False)


def _finite(text: str, where: str) -> float:
    number = _number(text)
    if number is None:
        raise ConfigError(f"{where}: {text!r} is no number")
    return number
