"""What was used last stays, as far as it fits."""

from __future__ import annotations

from imaging_ai.serve.dicomweb.recent import Recent


def test_what_was_not_asked_for_the_longest_goes_first() -> None:
    recent = Recent[str, int](100)
    for number, name in enumerate("abcdefghij"):
        recent.keep(name, number, 10)
    assert recent.get("a") == 0
    recent.keep("k", 10, 10)
    assert recent.get("a") == 0 and recent.get("b") is None and recent.get("k") == 10


def test_what_is_kept_twice_weighs_once_and_what_is_too_heavy_is_not_kept() -> None:
    recent = Recent[str, int](80)
    for number in range(100):
        recent.keep("same", number, 10)
    for name in "abcdefg":
        recent.keep(name, 0, 10)
    assert recent.get("same") == 99
    recent.keep("heavy", 0, 11)
    assert recent.get("heavy") is None


def test_as_much_as_a_part_of_all_may_be_one_thing() -> None:
    recent = Recent[str, int](80, part=2)
    recent.keep("half", 1, 40)
    recent.keep("more", 1, 41)
    assert recent.get("half") == 1 and recent.get("more") is None
