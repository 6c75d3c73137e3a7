"""Emergency access gives what it says, for a while, and nobody takes it unseen."""

from __future__ import annotations

import logging

import pytest

from entering import PASSWORD
from imaging_ai.core.permission import EMERGENCY, NEEDS, ROLES, Role
from imaging_ai.core.principal import Principal
from imaging_ai.db.engine import Database
from imaging_ai.errors import InputError, WrongState
from imaging_ai.people.entrance import Entrance
from ledgers import Clock

REASON = "stroke, no radiologist reachable"


def enter(entrance: Entrance, name: str, role: Role, *scopes: str) -> str:
    entrance.users.add(name, role, PASSWORD, scopes=scopes)
    return entrance.sessions.begin_in_browser(name)


def who(entrance: Entrance, cookie: str) -> Principal:
    found = entrance.sessions.of_cookie(cookie)
    assert found is not None
    return found


def may(principal: Principal) -> set[str]:
    return {need for need in NEEDS if principal.may(need)} - {"nothing", "session"}


def test_a_narrowed_account_has_all_of_its_role_and_what_the_table_says_for_an_hour(
    entrance: Entrance, clock: Clock
) -> None:
    cookie = enter(entrance, "ada", Role.CLINICIAN, "work")
    assert may(who(entrance, cookie)) == {"work", "emergency"}
    until = entrance.emergencies.begin(who(entrance, cookie), REASON)
    assert until == clock.now + 3600
    assert may(who(entrance, cookie)) == {"read", "store", "work", "emergency"}
    for _ in range(6):
        clock.advance(600)
        last = who(entrance, cookie)
    assert may(last) == {"work", "emergency"}


def test_it_is_for_the_session_that_asked_and_can_be_given_back(entrance: Entrance) -> None:
    cookie = enter(entrance, "ada", Role.TECHNOLOGIST, "work")
    other = entrance.sessions.begin_in_browser("ada")
    entrance.emergencies.begin(who(entrance, cookie), REASON)
    assert not who(entrance, other).emergency
    entrance.emergencies.end(who(entrance, cookie))
    assert may(who(entrance, cookie)) == {"work", "emergency"}


def test_it_is_recorded_with_its_reason_and_the_log_warns_without(
    entrance: Entrance, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    cookie = enter(entrance, "ada", Role.CLINICIAN, "work")
    with caplog.at_level(logging.WARNING):
        entrance.emergencies.begin(who(entrance, cookie), f"  {REASON}\n of Mr X ", "10.0.0.1")
        entrance.emergencies.end(who(entrance, cookie), "10.0.0.1")
    assert "EMERGENCY ACCESS: ada" in caplog.text
    assert "Mr X" not in caplog.text
    with database.read() as session:
        query = "SELECT action, actor, origin, detail FROM audit_event WHERE action LIKE '%emergency%' ORDER BY id"
        began, ended = session.connection().exec_driver_sql(query).all()
    assert tuple(began[:3]) == ("begin-emergency-access", "ada", "10.0.0.1")
    assert began[3] == f"until 1970-01-12T14:46:40+00:00: {REASON} of Mr X"
    assert tuple(ended) == ("end-emergency-access", "ada", "10.0.0.1", "")


@pytest.mark.parametrize("reason", ["", "   ", " a b ", "x" * 501])
def test_without_a_reason_there_is_none(entrance: Entrance, reason: str) -> None:
    cookie = enter(entrance, "ada", Role.CLINICIAN, "work")
    with pytest.raises(InputError, match="needs a reason"):
        entrance.emergencies.begin(who(entrance, cookie), reason)
    assert not who(entrance, cookie).emergency


def test_it_is_not_for_programs_nor_for_whom_it_would_give_nothing(entrance: Entrance) -> None:
    token = entrance.tokens.principal(entrance.tokens.create("script", Role.CLINICIAN))
    assert token is not None
    with pytest.raises(InputError, match="for people who logged in"):
        entrance.emergencies.begin(token, REASON)
    cookie = enter(entrance, "bob", Role.TECHNOLOGIST)
    with pytest.raises(WrongState, match="would give nothing more"):
        entrance.emergencies.begin(who(entrance, cookie), REASON)


def test_only_who_may_ask_is_in_its_table_and_nobody_deletes() -> None:
    assert {role for role in Role if "emergency" in ROLES[role]} == set(EMERGENCY)
    assert not any("delete" in needs for needs in EMERGENCY.values())
    for role in set(Role) - set(EMERGENCY):
        assert Principal("x", role, emergency=True).may("read") == ("read" in ROLES[role])
