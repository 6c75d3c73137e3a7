"""The DICOM JSON of one element (PS3.18 F.2): from its value field to the bytes of a JSON member.

Everything here is a pure function of tag, VR, value and character set. Instances of a series repeat most of their
elements, so the answers for short values are remembered: a remembered element costs a look-up, not a conversion.

Where the standard leaves a choice: DS and IS are numbers, DS with the very digits of the file; what is no number,
and NaN and infinities, is a string. Trailing padding is removed. An empty value among several is null (F.2.5).
"""

from __future__ import annotations

import base64
import math
import re
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import unpack

import msgspec
from pydicom.datadict import dictionary_VR

from imaging_ai.archive.text import Decoder

__all__ = ["BINARY_VRS", "decoder_of", "element_json", "long_element_json", "public_vr"]

#: VRs whose value is bytes, with the size of the words that big endian swaps.
BINARY_VRS = {"OB": 1, "OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8, "UN": 1}
_WORDS = {2: "H", 4: "I", 8: "Q"}
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_SIZES = {"H": 2, "h": 2, "I": 4, "i": 4, "f": 4, "d": 8, "Q": 8, "q": 8}

_NUMBER = rb"-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,18})?(?:[eE][+-]?[0-9]{1,2})?"
_DECIMALS = re.compile(rb"%b(?:\\%b)*" % (_NUMBER, _NUMBER))
_INTEGERS = re.compile(rb"-?(?:0|[1-9][0-9]{0,14})(?:\\-?(?:0|[1-9][0-9]{0,14}))*")

_json = msgspec.json.Encoder().encode
_Convert = Callable[[bytes, str, Decoder, bool], bytes]


@lru_cache(maxsize=1 << 12)
def public_vr(tag: int) -> str:
    """Return the VR of an attribute of the standard (PS3.6), "UN" when it has none of that tag."""
    try:
        vr = str(dictionary_VR(tag))
    except KeyError:
        return "UN"
    return "UN" if vr == "NONE" else vr  # items and delimiters, which are no attributes


@lru_cache(maxsize=256)
def decoder_of(specific_character_set: bytes) -> Decoder:
    """Return the decoder for a value of (0008,0005), the same one for the same value."""
    return Decoder(specific_character_set.strip(b" \0").decode("latin-1"))


def _several(value: bytes, _vr: str, decoder: Decoder, _big: bool) -> bytes:
    text = decoder.decode(value)
    if "\\" in text:
        return _json([part.strip(" ") or None for part in text.split("\\")])
    return b"[%b]" % _json(text) if text else b""


def _single(value: bytes, _vr: str, decoder: Decoder, _big: bool) -> bytes:
    indent = len(value) - len(value.lstrip(b" "))  # leading spaces count in text (PS3.5 table 6.2-1)
    text = decoder.decode(value)
    return b"[%b]" % _json(" " * indent + text) if text else b""


def _names(value: bytes, _vr: str, decoder: Decoder, _big: bool) -> bytes:
    text = decoder.decode(value, person_name=True)
    if not text:
        return b""
    names = []
    for name in text.split("\\"):
        groups = zip(("Alphabetic", "Ideographic", "Phonetic"), name.split("="), strict=False)
        names.append({group: stripped for group, part in groups if (stripped := part.strip(" "))} or None)
    return _json(names)


def _decimals(value: bytes, _vr: str, _decoder: Decoder, _big: bool) -> bytes:
    text = value.strip(b" \0")
    if _DECIMALS.fullmatch(text):
        return b"[%b]" % text.replace(b"\\", b",")
    return _json([_decimal(part.strip(b" \0")) for part in text.split(b"\\")]) if text else b""


def _decimal(text: bytes) -> float | str | None:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isfinite(number) and b"_" not in text:
        return number
    return text.decode("latin-1") or None


def _integers(value: bytes, _vr: str, _decoder: Decoder, _big: bool) -> bytes:
    text = value.strip(b" \0")
    if _INTEGERS.fullmatch(text):
        return b"[%b]" % text.replace(b"\\", b",")
    return _json([_integer(part.strip(b" \0")) for part in text.split(b"\\")]) if text else b""


def _integer(text: bytes) -> float | str | None:
    number = _decimal(text)
    if isinstance(number, float) and number.is_integer() and abs(number) < 1 << 53:
        return int(number)
    return text.decode("latin-1") or None


def _numbers(value: bytes, vr: str, _decoder: Decoder, big_endian: bool) -> bytes:
    code = _NUMBERS[vr]
    count = len(value) // _SIZES[code]
    numbers = unpack(f"{'>' if big_endian else '<'}{count}{code}", value[: count * _SIZES[code]])
    if code in "fd" and not all(map(math.isfinite, numbers)):
        return _json([number if math.isfinite(number) else _not_finite(number) for number in numbers])
    return _json(numbers) if numbers else b""


def _not_finite(number: float) -> str:
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _tags(value: bytes, _vr: str, _decoder: Decoder, big_endian: bool) -> bytes:
    halves: Sequence[int] = unpack(f"{'>' if big_endian else '<'}{len(value) // 4 * 2}H", value[: len(value) // 4 * 4])
    tags = [f"{group:04X}{number:04X}" for group, number in zip(halves[::2], halves[1::2], strict=True)]
    return _json(tags) if tags else b""


def _binary(value: bytes, vr: str, big_endian: bool) -> bytes:
    size = BINARY_VRS[vr]
    if big_endian and size > 1 and len(value) % size == 0:
        words = array(_WORDS[size], value)
        words.byteswap()
        value = words.tobytes()
    return base64.b64encode(value)


_CONVERT: dict[str, _Convert] = (
    dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "TM", "UI", "LO", "SH", "UC"), _several)
    | dict.fromkeys(("LT", "ST", "UT", "UR"), _single)
    | dict.fromkeys(_NUMBERS, _numbers)
    | {"PN": _names, "DS": _decimals, "IS": _integers, "AT": _tags}
)


def long_element_json(tag: int, vr: str, value: bytes, decoder: Decoder, big_endian: bool) -> bytes:
    """Return ``"GGGGEEEE":{"vr":…}`` for an element that is not a sequence."""
    convert = _CONVERT.get(vr)
    if convert is None:
        if not value:
            return b'"%08X":{"vr":"%b"}' % (tag, vr.encode())
        return b'"%08X":{"vr":"%b","InlineBinary":"%b"}' % (tag, vr.encode(), _binary(value, vr, big_endian))
    if values := convert(value, vr, decoder, big_endian):
        return b'"%08X":{"vr":"%b","Value":%b}' % (tag, vr.encode(), values)
    return b'"%08X":{"vr":"%b"}' % (tag, vr.encode())


#: The same, remembered; for values short enough to be worth it.
element_json = lru_cache(maxsize=1 << 11)(long_element_json)
