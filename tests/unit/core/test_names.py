"""Person names as searches compare them."""

from __future__ import annotations

import fnmatch

import pytest

from imaging_ai.core.names import name_key, name_pattern, words_of
from imaging_ai.core.order import day_key


def finds(key: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name_key(name), name_pattern(key).replace("[", "[[]"))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("DOE^JOHN", "Doe^John"),
        ("doe^john", "DOE^JOHN^^"),
        ("Doe^John^^", "DOE^John"),
        ("doe*", "DOE^JOHN"),
        ("*oe^j*", "DOE^JOHN"),
        ("d?e^*", "DOE^JOHN"),
        ("Müller", "MULLER"),
        ("muller", "Müller"),
        ("STRASSE^Jo", "Straße^Jó"),
        ("Sorensen", "Sørensen"),
        ("Lodz*", "Łódź^A"),
        ("Cote", "Co\u0302te\u0301"),
        ("yamada*", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("*太郎", "Yamada^Tarou=山田^太郎"),
        ("=山田*", "Yamada^Tarou=山田^太郎"),
        ("yamada*=山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("*", "A"),
        ("Doe*=", "Doe^John"),
        ("Doe^John==", "Doe^John=x"),
    ],
)
def test_a_key_finds_a_name(key: str, name: str) -> None:
    assert finds(key, name)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("DOE", "DOE^JOHN"),
        ("JOHN*", "DOE^JOHN"),
        ("D?E", "DOOE"),
        ("=山田*", "山田^太郎"),
        ("か", "が"),  # not an accent but another syllable
        ("Mueller", "Müller"),
    ],
)
def test_a_key_does_not_find_another_name(key: str, name: str) -> None:
    assert not finds(key, name)


def test_no_name_has_no_key() -> None:
    assert name_key("") == name_key("^^") == name_key("==") == ""


def test_the_words_of_a_fuzzy_key_have_their_spellings() -> None:
    assert words_of("Müller, Anna") == (frozenset({"muller", "mueller"}), frozenset({"anna"}))
    assert "muller" in words_of("MUELLER")[0]
    assert words_of("john* ?doe") == (frozenset({"john"}), frozenset({"doe"}))
    assert words_of(" ^= ") == ()


def test_a_short_word_stands_only_for_itself() -> None:
    assert words_of("doe joe") == (frozenset({"doe"}), frozenset({"joe"}))


def test_studies_are_ordered_by_their_day() -> None:
    assert day_key("") == day_key("abc") == day_key("2024010") == day_key("２０２４０１０１") == 0
    assert day_key("20240101") == day_key("2024.01.01") == 20240101 << 32
    assert day_key("20240101") < day_key("20240102")
