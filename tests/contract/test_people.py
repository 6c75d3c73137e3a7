"""Two web processes, one database: what counts once counts once, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import pytest

from entering import PASSWORD, open_entrance
from imaging_ai.core.permission import Role
from imaging_ai.db.engine import Database
from imaging_ai.errors import InputError, OverLimit
from ledgers import Clock, open_database, sqlite_url

T = TypeVar("T")

AT_ONCE = 8


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    database = open_database(url)
    yield database
    database.dispose()


def at_once(act: Callable[[int], T]) -> list[T]:
    """Do something in as many threads at the same moment."""
    start = Barrier(AT_ONCE)

    def one(number: int) -> T:
        start.wait(30)
        return act(number)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(AT_ONCE)))


def test_a_refresh_token_that_many_show_at_once_serves_one_and_ends_the_session(database: Database) -> None:
    entrances = [open_entrance(database) for _ in range(AT_ONCE)]
    entrances[0].users.add("ada", Role.CLINICIAN, PASSWORD)
    pair = entrances[0].sessions.begin("ada")
    given = [one for one in at_once(lambda number: entrances[number].sessions.refresh(pair.refresh)) if one]
    assert len(given) == 1
    assert entrances[1].sessions.of_access_token(given[0].access) is None
    with database.read() as session:
        query = "SELECT count(*) FROM audit_event WHERE action = 'reuse-refresh-token'"
        assert session.connection().exec_driver_sql(query).scalar() == 1, "the first of them ends it"


def test_a_name_that_a_database_cannot_keep_is_nobodys(database: Database) -> None:
    entrance = open_entrance(database)
    try:
        assert entrance.know("a\0b", PASSWORD, "10.0.0.1") is None
    except InputError as error:
        assert error.http_status == 400


def test_guesses_at_once_are_counted_each(database: Database) -> None:
    clock = Clock()
    entrances = [open_entrance(database, clock=clock) for _ in range(AT_ONCE)]

    def guess(number: int) -> str:
        try:
            entrances[number].know("ada", "wrong", f"10.0.0.{number}")
        except OverLimit:
            return "refused"
        return "tried"

    assert sorted(at_once(guess)) == ["refused"] * 2 + ["tried"] * 6
    clock.advance(2.001)
    assert at_once(guess).count("tried") == 1


def test_however_many_follow_links_at_once_there_is_one_first_administrator(database: Database) -> None:
    entrances = [open_entrance(database) for _ in range(AT_ONCE)]
    links = [str(one.invitations.first()) for one in entrances]

    def follow(number: int) -> str | None:
        return entrances[number].invitations.accept(links[number], f"root{number}", PASSWORD)

    made = [one for one in at_once(follow) if one]
    assert len(made) == 1
    assert [one.name for one in entrances[0].users.entries()] == made


def test_a_session_that_is_looked_up_by_many_at_once_is_touched_and_found(database: Database) -> None:
    clock = Clock()
    entrance = open_entrance(database, clock=clock)
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD, scopes=["work"])
    cookie = entrance.sessions.begin_in_browser("ada")
    clock.advance(700)
    assert all(at_once(lambda _: entrance.sessions.of_cookie(cookie)))
    clock.advance(700)
    who = entrance.sessions.of_cookie(cookie)
    assert who is not None
    entrance.emergencies.begin(who, "nobody else is here")
    assert entrance.sessions.of_cookie(cookie) == entrance.sessions.of_cookie(cookie) != who
    entrance.users.disable("ada")
    assert entrance.sessions.of_cookie(cookie) is None
