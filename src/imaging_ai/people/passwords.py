"""Passwords: which are taken (NIST SP 800-63B 5.1.1), and what is kept of them (Argon2id, RFC 9106).

A password is long rather than adorned; it is neither the name of its owner nor one that everybody tries. It is
compared after NFKC, so that it is the same from every keyboard.
"""

from __future__ import annotations

import unicodedata
from functools import cached_property, lru_cache
from importlib.resources import files

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from imaging_ai.errors import InputError

__all__ = ["LONGEST", "SHORTEST", "Passwords", "require_good_password"]

SHORTEST, LONGEST = 12, 128

_ROWS = (
    "01234567890123456789",
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
)


class Passwords:
    """Makes and compares what is kept of passwords; the costs are those of RFC 9106 4, its second choice."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()

    @cached_property
    def _nobodys(self) -> str:
        return self._hasher.hash("nobody's")

    def keep(self, password: str) -> str:
        """Return what is kept of a password."""
        return self._hasher.hash(_same(password))

    def fits(self, password: str, kept: str) -> bool:
        """Say whether a password is the one of which `kept` was kept. It takes as long where nothing is kept ("")."""
        try:
            return self._hasher.verify(kept or self._nobodys, _same(password)[: LONGEST + 1]) and kept != ""
        except (VerificationError, InvalidHashError):
            return False

    def aged(self, kept: str) -> bool:
        """Say whether it was kept at other costs than today's."""
        return self._hasher.check_needs_rehash(kept)


def require_good_password(password: str, name: str) -> None:
    """Raise `InputError` unless `name` may have this password; the message says what is wrong with it."""
    same = _same(password)
    if not SHORTEST <= len(same) <= LONGEST:
        raise InputError(f"the password has {len(same)} characters; give it between {SHORTEST} and {LONGEST}")
    plain = "".join(filter(str.isalnum, same.casefold()))
    if len(name) > 2 and name.casefold() in same.casefold():
        raise InputError("the password has the name of its owner in it; choose another")
    if len(set(same)) < 5 or _is_row(plain) or _is_common(plain):
        raise InputError("the password is one of those that are tried first; choose another: four words do well")


def _same(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def _is_row(plain: str) -> bool:
    return plain != "" and any(plain in row or plain in row[::-1] for row in _ROWS)


def _is_common(plain: str) -> bool:
    """Say whether it is a word that is tried first, once or several times, with digits around it or not."""
    words = _common()
    for core in (plain, plain.strip("0123456789")):
        halves = (core[: len(core) // times] for times in (1, 2, 3, 4) if len(core) % times == 0)
        if any(half in words and half * (len(core) // len(half)) == core for half in halves if half):
            return True
    return False


@lru_cache(maxsize=1)
def _common() -> frozenset[str]:
    return frozenset((files(__package__) / "common_passwords.txt").read_text(encoding="utf-8").split())
