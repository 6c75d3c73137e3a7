"""A session goes on for as long as it is used, and not a moment longer than its person may come in."""

from __future__ import annotations

import logging

import pytest

from entering import KEY, PASSWORD
from imaging_ai.core.permission import Role
from imaging_ai.core.principal import Principal
from imaging_ai.db.engine import Database
from imaging_ai.errors import NotFound
from imaging_ai.people.entrance import Entrance
from imaging_ai.people.signing import Signing
from ledgers import Clock


@pytest.fixture
def ada(entrance: Entrance) -> str:
    return entrance.users.add("ada", Role.CLINICIAN, PASSWORD, scopes=["read"]).name


def events(database: Database) -> list[tuple[object, ...]]:
    query = "SELECT action, outcome, actor, origin FROM audit_event WHERE object_type = 'session' ORDER BY id"
    with database.read() as session:
        return [tuple(row) for row in session.connection().exec_driver_sql(query).all()]


def test_a_pair_and_a_cookie_say_who_it_is(entrance: Entrance, ada: str) -> None:
    sessions = entrance.sessions
    pair, cookie = sessions.begin(ada), sessions.begin_in_browser(ada)
    for who in (sessions.of_access_token(pair.access), sessions.of_cookie(cookie)):
        assert who is not None
        assert (who.name, who.role, who.scopes, who.emergency) == ("ada", Role.CLINICIAN, {"read"}, False)
        assert who.session in {one.id for one in sessions.entries("ada")}
    assert sessions.of_access_token(cookie) is sessions.of_access_token(pair.refresh) is None
    assert sessions.of_cookie(pair.access) is sessions.of_cookie(pair.refresh) is sessions.of_cookie("ias_") is None


def test_what_is_kept_lets_nobody_in(entrance: Entrance, ada: str, database: Database) -> None:
    pair, cookie = entrance.sessions.begin(ada), entrance.sessions.begin_in_browser(ada)
    with database.read() as session:
        tables = ("login_session", "person", "audit_event")
        kept = str([session.connection().exec_driver_sql(f"SELECT * FROM {one}").all() for one in tables])
    assert not any(secret in kept for secret in (pair.access, pair.refresh, cookie, PASSWORD))


def test_without_use_a_session_ends_and_with_it_goes_on(entrance: Entrance, ada: str, clock: Clock) -> None:
    cookie = entrance.sessions.begin_in_browser(ada)
    for _ in range(5):
        clock.advance(800)
        assert entrance.sessions.of_cookie(cookie)
    clock.advance(901)
    assert entrance.sessions.of_cookie(cookie) is None
    assert entrance.sessions.entries() == []


def test_it_ends_with_the_day_whatever_happens(entrance: Entrance, ada: str, clock: Clock) -> None:
    pair = entrance.sessions.begin(ada)
    for _ in range(12 * 6 - 1):
        clock.advance(600)
        following = entrance.sessions.refresh(pair.refresh)
        assert following is not None
        pair = following
    clock.advance(601)
    assert entrance.sessions.refresh(pair.refresh) is None
    assert entrance.sessions.of_access_token(pair.access) is None


def test_a_refresh_token_is_good_once_and_a_second_time_ends_the_session(
    entrance: Entrance, ada: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    first = entrance.sessions.begin(ada, "10.0.0.1")
    second = entrance.sessions.refresh(first.refresh, "10.0.0.1")
    assert second is not None
    third = entrance.sessions.refresh(second.refresh, "10.0.0.1")
    assert third is not None
    assert entrance.sessions.of_access_token(first.access), "until it expires, or the session ends"
    with caplog.at_level(logging.WARNING):
        assert entrance.sessions.refresh(first.refresh, "6.6.6.6") is None
    assert "came a second time, from 6.6.6.6" in caplog.text
    assert entrance.sessions.refresh(third.refresh, "10.0.0.1") is None, "the thief's, or the owner's: nobody knows"
    for pair in (first, second, third):
        assert entrance.sessions.of_access_token(pair.access) is None
    assert events(database) == [
        ("login", "success", "ada", "10.0.0.1"),
        ("reuse-refresh-token", "refused", "ada", "6.6.6.6"),
    ]


def test_logging_out_ends_this_session_and_no_other(entrance: Entrance, ada: str, database: Database) -> None:
    here, there = entrance.sessions.begin(ada), entrance.sessions.begin_in_browser(ada)
    who = entrance.sessions.of_access_token(here.access)
    assert who is not None
    entrance.sessions.end(who, "10.0.0.1")
    entrance.sessions.end(who, "10.0.0.1")
    assert entrance.sessions.of_access_token(here.access) is None
    assert entrance.sessions.refresh(here.refresh) is None
    assert entrance.sessions.of_cookie(there)
    assert [event[0] for event in events(database)] == ["login", "login", "logout"]


@pytest.mark.parametrize("how", ["disabled", "new password"])
def test_a_person_who_is_disabled_or_has_a_new_password_is_out_everywhere(
    entrance: Entrance, ada: str, how: str
) -> None:
    pair, cookie = entrance.sessions.begin(ada), entrance.sessions.begin_in_browser(ada)
    if how == "disabled":
        entrance.users.disable("ADA")
    else:
        entrance.users.set_password("ada", "another four good words")
    assert entrance.sessions.of_access_token(pair.access) is None
    assert entrance.sessions.refresh(pair.refresh) is None
    assert entrance.sessions.of_cookie(cookie) is None
    entrance.users.enable("ada")
    assert entrance.sessions.of_cookie(cookie) is None, "what has ended stays so"


def test_nobody_begins_a_session_who_may_not_come_in(entrance: Entrance, ada: str) -> None:
    entrance.users.disable(ada)
    for name in ("ada", "nobody"):
        with pytest.raises(NotFound, match="who may come in"):
            entrance.sessions.begin(name)


def test_a_person_has_twenty_sessions_and_the_oldest_makes_way(entrance: Entrance, ada: str, clock: Clock) -> None:
    cookies = []
    for _ in range(23):
        clock.advance(1)
        cookies.append(entrance.sessions.begin_in_browser(ada))
    assert [entrance.sessions.of_cookie(one) is not None for one in cookies] == [False] * 3 + [True] * 20
    assert len(entrance.sessions.entries()) == 20


def test_a_session_of_somebody_can_be_ended(entrance: Entrance, ada: str) -> None:
    cookie = entrance.sessions.begin_in_browser(ada, "10.0.0.1")
    (entry,) = entrance.sessions.entries()
    assert (entry.name, entry.browser, entry.origin) == ("ada", True, "10.0.0.1")
    entrance.sessions.end_one(entry.id, actor="root")
    assert entrance.sessions.of_cookie(cookie) is None
    with pytest.raises(NotFound, match="no such session"):
        entrance.sessions.end_one(entry.id)


def test_a_good_signature_for_no_session_is_nothing(entrance: Entrance, ada: str) -> None:
    forged = Signing(KEY, 300)
    assert entrance.sessions.of_access_token(forged.access("0" * 32, "ada")) is None
    assert entrance.sessions.refresh(forged.refresh("0" * 32, 0)) is None


def test_a_role_that_changes_hands_is_looked_up_and_not_believed(entrance: Entrance, database: Database) -> None:
    entrance.users.add("bob", Role.ADMINISTRATOR, PASSWORD)
    pair = entrance.sessions.begin("bob")
    with database.write() as session:
        session.connection().exec_driver_sql("UPDATE person SET role = 'auditor'")
    who = entrance.sessions.of_access_token(pair.access)
    assert isinstance(who, Principal)
    assert who.role is Role.AUDITOR
    with database.write() as session:
        session.connection().exec_driver_sql("UPDATE person SET disabled_at = 1")
    assert entrance.sessions.of_access_token(pair.access) is None
    assert entrance.sessions.refresh(pair.refresh) is None
