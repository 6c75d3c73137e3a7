"""People are added, disabled and enabled; what of them is wrong is said."""

from __future__ import annotations

from typing import Literal

import pytest
from argon2 import PasswordHasher

from entering import PASSWORD
from imaging_ai.core.permission import Role
from imaging_ai.db.engine import Database
from imaging_ai.errors import InputError, NotFound
from imaging_ai.people.entrance import Entrance
from imaging_ai.people.passwords import Passwords
from imaging_ai.people.users import Users


def test_a_person_is_added_with_role_and_scopes_and_known_in_any_case(entrance: Entrance) -> None:
    entrance.users.add("Ada.L", Role.TECHNOLOGIST, PASSWORD, scopes=["work", "read"])
    (ada,) = entrance.users.entries()
    assert (ada.name, ada.role, ada.scopes, ada.has_password) == ("ada.l", Role.TECHNOLOGIST, {"read", "work"}, True)
    assert entrance.know("ADA.L", PASSWORD, "") == "ada.l"
    assert entrance.know("ada.l", PASSWORD + "x", "") is None


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, "ä", "a/b", "a\n", "<b>"])
def test_a_name_that_cannot_be_one_is_refused(entrance: Entrance, name: str) -> None:
    with pytest.raises(InputError, match="a user's name"):
        entrance.users.add(name, Role.CLINICIAN, PASSWORD)


def test_a_name_is_given_once_to_a_person_or_a_program(entrance: Entrance) -> None:
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    entrance.tokens.create("ehr", Role.SERVICE)
    with pytest.raises(InputError, match="a user 'ada' already"):
        entrance.users.add("ADA", Role.CLINICIAN, PASSWORD)
    with pytest.raises(InputError, match="could not tell them apart"):
        entrance.users.add("ehr", Role.CLINICIAN, PASSWORD)
    with pytest.raises(InputError, match="could not tell them apart"):
        entrance.tokens.create("Ada", Role.SERVICE)


def test_scopes_are_some_of_what_the_role_may(entrance: Entrance) -> None:
    with pytest.raises(InputError, match="the role clinician has no delete, store; it has emergency, read, work"):
        entrance.users.add("ada", Role.CLINICIAN, PASSWORD, scopes=["read", "store", "delete"])
    with pytest.raises(InputError, match="the role service has no users"):
        entrance.tokens.create("ehr", Role.SERVICE, scopes=["users"])


def test_a_disabled_person_is_as_one_who_does_not_exist(entrance: Entrance) -> None:
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    entrance.users.disable("ada")
    assert entrance.know("ada", PASSWORD, "") is None
    entrance.users.enable("ada")
    assert entrance.know("ada", PASSWORD, "") == "ada"


def test_who_has_no_password_does_not_come_in_by_one(entrance: Entrance) -> None:
    entrance.users.add("ada", Role.CLINICIAN, None)
    assert not entrance.users.get("ada").has_password
    for password in ("", "nobody's", PASSWORD):
        assert entrance.know("ada", password, "") is None


def test_a_new_password_replaces_the_old_one(entrance: Entrance) -> None:
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    entrance.users.set_password("Ada", "another four good words")
    assert entrance.know("ada", PASSWORD, "") is None
    assert entrance.know("ada", "another four good words", "") == "ada"
    with pytest.raises(InputError, match="has 5 characters"):
        entrance.users.set_password("ada", "short")


def test_another_role_holds_for_sessions_that_go_on(entrance: Entrance, database: Database) -> None:
    entrance.users.add("ada", Role.ADMINISTRATOR, PASSWORD)
    cookie = entrance.sessions.begin_in_browser("ada")
    entrance.users.set_role("Ada", Role.CLINICIAN, scopes=["read"], actor="root")
    who = entrance.sessions.of_cookie(cookie)
    assert who is not None
    assert (who.role, who.scopes) == (Role.CLINICIAN, {"read"})
    with pytest.raises(InputError, match="the role auditor has no read"):
        entrance.users.set_role("ada", Role.AUDITOR, scopes=["read"])
    with database.read() as session:
        query = "SELECT actor, detail FROM audit_event WHERE action = 'change-role'"
        assert [tuple(row) for row in session.connection().exec_driver_sql(query).all()] == [
            ("root", "clinician: read")
        ]


def test_who_is_not_there_cannot_be_changed(entrance: Entrance) -> None:
    for change in (entrance.users.disable, entrance.users.enable, entrance.users.get):
        with pytest.raises(NotFound, match="no user 'nobody'"):
            change("nobody")
    with pytest.raises(NotFound, match="no user 'nobody'"):
        entrance.users.set_password("nobody", PASSWORD)


def test_the_encoding_of_a_password_follows_the_costs_of_the_day(entrance: Entrance, database: Database) -> None:
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    dearer = Users(database, Passwords(PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)))
    assert dearer.fits("ada", PASSWORD)
    with database.read() as session:
        (kept,) = session.connection().exec_driver_sql("SELECT password FROM person").scalars()
    assert "m=16,t=2" in kept
    assert dearer.fits("ada", PASSWORD)


def test_every_change_of_a_person_is_recorded_with_who_made_it(entrance: Entrance, database: Database) -> None:
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD, scopes=["read"], actor="root")
    entrance.users.disable("ada", actor="root")
    entrance.users.enable("ada", actor="root")
    entrance.users.set_password("ada", "another four good words", actor="root")
    with database.read() as session:
        query = "SELECT action, actor, object_uid, detail FROM audit_event ORDER BY id"
        told = [tuple(row) for row in session.connection().exec_driver_sql(query).all()]
    assert told == [
        ("add-user", "root", "ada", "clinician: read"),
        ("disable-user", "root", "ada", ""),
        ("enable-user", "root", "ada", ""),
        ("change-password", "root", "ada", ""),
    ]


def test_a_login_costs_one_comparison_whoever_it_is_for(database: Database) -> None:
    """So that the time of an answer does not tell who exists."""
    compared: list[str] = []

    class Counting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            compared.append(str(hash))
            return super().verify(hash, password)

    users = Users(database, Passwords(Counting(time_cost=1, memory_cost=8, parallelism=1)))
    users.add("ada", Role.CLINICIAN, PASSWORD)
    users.add("gone", Role.CLINICIAN, PASSWORD)
    users.add("elsewhere", Role.CLINICIAN, None)
    users.disable("gone")
    for name in ("ada", "gone", "elsewhere", "nobody"):
        compared.clear()
        assert not users.fits(name, "wrong")
        assert [one.partition("$v=")[0] for one in compared] == ["$argon2id"], name
        assert "m=8,t=1,p=1" in compared[0], "at the same costs"
