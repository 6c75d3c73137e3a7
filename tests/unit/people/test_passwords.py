"""Passwords are long, not guessed first, and not kept."""

from __future__ import annotations

import pytest

from entering import cheap_passwords
from imaging_ai.errors import InputError
from imaging_ai.people.passwords import Passwords, require_good_password


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short-enough", None),
        ("eleven char", "has 11 characters"),
        ("x" * 129, "has 129 characters"),
        ("Ada.Lovelace rules", "the name of its owner"),
        ("password1234", "tried first"),
        ("Password-1234!!", "tried first"),
        ("hospital2026!", "tried first"),
        ("radiologyradiology", "tried first"),
        ("123456789012", "tried first"),
        ("qwertyuiopas", "tried first"),
        ("zyxwvutsrqpo", "tried first"),
        ("aaaaaaaaaaaaaaa", "tried first"),
        ("ababababababab", "tried first"),
        ("four words of good length", None),
        ("пароль из четырёх слов", None),
        ("!§$%&/()=?+*#-", None),
    ],
)
def test_a_password_is_long_and_not_one_that_is_tried_first(password: str, why: str | None) -> None:
    if why is None:
        require_good_password(password, "ada.lovelace")
    else:
        with pytest.raises(InputError, match=why) as error:
            require_good_password(password, "ada.lovelace")
        assert password not in error.value.message


def test_what_is_kept_is_argon2id_at_the_costs_of_rfc_9106() -> None:
    kept = Passwords().keep("four words of good length")
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert "four" not in kept


def test_a_password_fits_what_was_kept_of_it_and_nothing_else() -> None:
    passwords = cheap_passwords()
    kept = passwords.keep("four words of good length")
    assert passwords.fits("four words of good length", kept)
    for other in ("four words of good length ", "Four words of good length", "", "x" * 100_000):
        assert not passwords.fits(other, kept)


def test_a_password_is_the_same_from_every_keyboard() -> None:
    passwords = cheap_passwords()
    assert passwords.fits("cafe\u0301 au lait!", passwords.keep("caf\u00e9 au lait!"))


def test_nothing_fits_where_nothing_is_kept() -> None:
    passwords = cheap_passwords()
    for password in ("", "nobody's", "$argon2id$"):
        assert not passwords.fits(password, "")
        assert not passwords.fits(password, "no encoding")
