"""Text of a data set in its Specific Character Set (PS3.5 section 6.1, PS3.3 C.12.1.1.2)."""

from __future__ import annotations

import re
from functools import lru_cache

from pydicom.charset import CODES_TO_ENCODINGS, convert_encodings, decode_bytes, default_encoding, python_encoding

__all__ = ["Decoder"]

_ESCAPE = b"\x1b"
_TEXT_DELIMITERS = {0x0D, 0x0A, 0x09, 0x0C, 0x5C}
_NAME_DELIMITERS = {0x0D, 0x0A, 0x09, 0x0C, 0x5C, 0x5E, 0x3D}


class Decoder:
    """Decodes the text of one data set; text is never a reason to refuse an instance."""

    def __init__(self, specific_character_set: str) -> None:
        self._terms = [term.strip(" ") for term in specific_character_set.split("\\")]

    def decode(self, value: bytes, *, person_name: bool = False) -> str:
        """Decode a value without its trailing padding.

        Bytes that mean nothing in a known character set become replacement characters. Without a usable
        character set the bytes are read as UTF-8 when they are that, else as Latin-1, as most senders mean it.
        """
        value = value.rstrip(b" \0")
        if value.isascii() and _ESCAPE not in value:
            return value.decode("ascii").strip(" ").replace("\0", "")
        return self._decode_extended(value, person_name).strip(" ").replace("\0", "")

    def _decode_extended(self, value: bytes, person_name: bool) -> str:
        if self._terms == [""] or any(term not in python_encoding for term in self._terms):
            try:
                return value.decode("utf-8")
            except UnicodeDecodeError:
                return value.decode("latin-1")
        delimiters = _NAME_DELIMITERS if person_name else _TEXT_DELIMITERS
        encodings = convert_encodings(list(self._terms))
        if not _knows_escapes(value, tuple(encodings)):
            return value.decode(encodings[0], "replace")
        try:
            return decode_bytes(value, encodings, delimiters)
        except (LookupError, UnicodeError):
            return value.decode(encodings[0], "replace")


def _knows_escapes(value: bytes, encodings: tuple[str, ...]) -> bool:
    """Say whether the character set declares every escape sequence in `value`; pydicom warns of each other one."""
    return _undeclared_escape(encodings).search(value) is None


@lru_cache(maxsize=64)
def _undeclared_escape(encodings: tuple[str, ...]) -> re.Pattern[bytes]:
    declared = [code for code, name in CODES_TO_ENCODINGS.items() if name in encodings or name == default_encoding]
    return re.compile(b"\x1b(?!%b)" % b"|".join(re.escape(code[1:]) for code in declared))
