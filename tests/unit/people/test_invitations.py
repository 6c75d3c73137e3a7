"""The first administrator comes by a link, and by one only."""

from __future__ import annotations

import pytest

from entering import PASSWORD
from imaging_ai.core.permission import Role
from imaging_ai.errors import InputError
from imaging_ai.people.entrance import Entrance
from ledgers import Clock


def test_the_link_makes_an_administrator_once(entrance: Entrance) -> None:
    link, other = entrance.invitations.first(), entrance.invitations.first()
    assert link and other and link != other
    assert entrance.invitations.good(link) and entrance.invitations.good(other)
    assert entrance.invitations.accept(link, "Root", PASSWORD) == "root"
    assert entrance.users.get("root").role is Role.ADMINISTRATOR
    assert entrance.know("root", PASSWORD, "") == "root"
    for used in (link, other):
        assert not entrance.invitations.good(used)
        assert entrance.invitations.accept(used, "mallory", PASSWORD) is None
    assert [one.name for one in entrance.users.entries()] == ["root"]


def test_after_an_hour_or_with_another_secret_it_is_nothing(entrance: Entrance, clock: Clock) -> None:
    link = entrance.invitations.first()
    assert link
    for wrong in ("", link[:-1], link + "x"):
        assert entrance.invitations.accept(wrong, "mallory", PASSWORD) is None
    clock.advance(3601)
    assert not entrance.invitations.good(link)
    assert entrance.invitations.accept(link, "mallory", PASSWORD) is None


def test_a_name_or_password_that_cannot_be_taken_does_not_use_it_up(entrance: Entrance) -> None:
    link = entrance.invitations.first()
    assert link
    for name, password in (("a b", PASSWORD), ("root", "short")):
        with pytest.raises(InputError):
            entrance.invitations.accept(link, name, password)
    assert entrance.invitations.accept(link, "root", PASSWORD) == "root"


def test_there_is_none_where_somebody_or_some_program_is_known(entrance: Entrance, clock: Clock) -> None:
    entrance.tokens.create("ehr", Role.SERVICE)
    assert entrance.invitations.first() is None
    entrance.tokens.revoke("ehr")
    link = entrance.invitations.first()
    assert link
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    assert entrance.invitations.first() is None
    assert entrance.invitations.accept(link, "mallory", PASSWORD) is None, "somebody came in another way meanwhile"
    assert [one.name for one in entrance.users.entries()] == ["ada"]
