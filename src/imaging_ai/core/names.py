"""Person names as searches compare them (PS3.4 C.2.2.2.1 and C.2.2.2.4 leave it to the implementation; PS3.5 6.2.1.2).

Upper and lower case are one, and so are letters with and without accents: "müller", "MULLER" and "Müller" are the same
name. Each component group is compared by itself; a key without "=" may match any of them. Trailing empty components
mean nothing. The stored form is ``=alphabetic=ideographic=phonetic=``, so that the beginning of a group is found as the
substring ``=begin``.

Fuzzy matching is by words: every word of the key begins a word of the name, in whatever order and whatever group.
A key's "ä", "ö", "ü" also stand for "ae", "oe", "ue", and the other way round.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

__all__ = ["DELIMITERS", "folded", "name_key", "name_pattern", "words_of"]

#: What separates the words of a name, in its stored form.
DELIMITERS = "=^ .,'-"

_ACCENTS = re.compile("[\u0300-\u036f]")
_WORDS = re.compile(f"[^{re.escape(DELIMITERS)}*?]+")
#: Letters that Unicode does not take apart.
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "æ": "ae", "œ": "oe", "þ": "th", "ı": "i", "ħ": "h"})
_SPELT_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})
_CONTRACTED = re.compile("(?<=[aou])e")
_TELLING = 4  # letters; "doe" shall not stand for all that begins with "do"


@lru_cache(maxsize=1 << 11)
def folded(text: str) -> str:
    """Return text without case and accents, in the compatibility form of Unicode."""
    if text.isascii():
        return text.lower()
    bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", text.casefold()).casefold())
    return unicodedata.normalize("NFKC", bare).translate(_LETTERS)


def name_key(value: str) -> str:
    """Return the form in which a name is stored to be searched; "" of no name."""
    groups = [_group(group) for group in folded(value).split("=")]
    while groups and not groups[-1]:
        groups.pop()
    return f"={'='.join(groups)}=" if groups else ""


def name_pattern(key: str) -> str:
    """Return the wildcard pattern that a key means for the stored form."""
    groups = [_group(group) for group in folded(key).rstrip("=").split("=")]
    if len(groups) > 1:
        return f"={'='.join(group or '*' for group in groups)}=*"
    (group,) = groups
    return ("" if group.startswith("*") else "*=") + group + ("" if group.endswith("*") else "=*")


def words_of(key: str) -> tuple[frozenset[str], ...]:
    """Return the words of a fuzzy key, each with the spellings that stand for it."""
    return tuple(_spellings(word) for word in _WORDS.findall(unicodedata.normalize("NFC", key).casefold()))


def _spellings(word: str) -> frozenset[str]:
    plain = folded(word)
    contracted = _CONTRACTED.sub("", plain)
    spellings = {plain, folded(word.translate(_SPELT_OUT))}
    return frozenset(spellings | {contracted} if len(contracted) >= _TELLING else spellings)


def _group(text: str) -> str:
    """Return a component group without the spaces that mean nothing and without trailing empty components."""
    return "^".join(component.strip(" ") for component in text.split("^")).rstrip("^ ")
