"""Guessing becomes slow, and fills nothing."""

from __future__ import annotations

import pytest

from entering import PASSWORD
from imaging_ai.core.permission import Role
from imaging_ai.db.engine import Database
from imaging_ai.errors import OverLimit
from imaging_ai.people.attempts import Attempts
from imaging_ai.people.entrance import Entrance
from ledgers import Clock


def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    with database.read() as session:
        return [tuple(row) for row in session.connection().exec_driver_sql(query).all()]


def fail(entrance: Entrance, name: str = "ada", address: str = "10.0.0.1") -> float:
    """Fail to log in, and return for how long it was refused; 0 when it was tried."""
    try:
        assert entrance.know(name, "a wrong password", address) is None
    except OverLimit as error:
        return error.retry_after
    return 0.0


@pytest.mark.parametrize("name", ["ada", "nobody"])
def test_after_five_failures_the_next_waits_twice_as_long_each_time(
    entrance: Entrance, clock: Clock, name: str
) -> None:
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    assert [fail(entrance, name) for _ in range(6)] == [0.0] * 6, "five are free, the sixth locks"
    for expected in (2.0, 4.0, 8.0):
        assert fail(entrance, name) == expected
        clock.now += expected + 0.001
        assert fail(entrance, name) == 0.0
    for _ in range(12):
        wait = fail(entrance, name)
        clock.now += wait + 0.001
        fail(entrance, name)
    assert fail(entrance, name) == 900.0, "and no longer than that"


def test_while_it_waits_even_the_right_password_is_not_tried(entrance: Entrance, clock: Clock) -> None:
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    for _ in range(6):
        fail(entrance)
    with pytest.raises(OverLimit) as refused:
        entrance.know("ada", PASSWORD, "10.0.0.2")
    assert (refused.value.http_status, refused.value.retry_after) == (429, 2.0)
    clock.now += 2.001
    assert entrance.know("ada", PASSWORD, "10.0.0.2") == "ada"
    assert [fail(entrance) for _ in range(6)] == [0.0] * 6, "success forgets the failures of the name"


def test_whoever_guesses_elsewhere_does_not_lock_its_owner_out(entrance: Entrance, clock: Clock) -> None:
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    entrance.sessions.begin("ada", "10.0.0.2")
    for _ in range(6):
        fail(entrance, address="192.0.2.1")
    for address, wait in (("192.0.2.1", 2.0), ("10.0.0.3", 2.0), ("10.0.0.2", 0.0)):
        try:
            assert entrance.know("ada", PASSWORD, address) == "ada" and wait == 0.0
        except OverLimit as refused:
            assert refused.retry_after == wait
    assert fail(entrance, address="10.0.0.3") == 2.0, "nor does coming in help who guesses"
    assert [fail(entrance, address="10.0.0.2") for _ in range(7)] == [0.0] * 6 + [2.0], "at home it is slow too"
    entrance.attempts.forgive("ada")
    assert fail(entrance, address="10.0.0.3") == fail(entrance, address="10.0.0.2") == 0.0


def test_failures_are_forgotten_after_an_hour_or_by_an_administrator(entrance: Entrance, clock: Clock) -> None:
    for _ in range(6):
        fail(entrance)
    assert fail(entrance) == 2.0
    entrance.attempts.forgive("ada")
    assert fail(entrance) == 0.0
    for _ in range(5):
        fail(entrance)
    clock.now += 3601
    assert [fail(entrance) for _ in range(6)] == [0.0] * 6


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], [f"2001:db8:1:1::{n:x}" for n in range(40)], ["::ffff:10.0.0.1", "10.0.0.1"], [""]]
)
def test_an_address_that_tries_many_names_waits_too(entrance: Entrance, addresses: list[str]) -> None:
    waits = [fail(entrance, f"name{n}", addresses[n % len(addresses)]) for n in range(27)]
    assert waits == [0.0] * 26 + [2.0]
    assert fail(entrance, "another", "10.9.9.9") == 0.0, "others go on"


def test_one_own_password_does_not_hide_guesses_at_others(entrance: Entrance, clock: Clock) -> None:
    entrance.users.add("mallory", Role.CLINICIAN, PASSWORD)
    for n in range(26):
        assert fail(entrance, f"name{n}") == 0.0
        if n < 25:
            assert entrance.know("mallory", PASSWORD, "10.0.0.1") == "mallory"
    assert fail(entrance, "name99") == 2.0


def test_neither_names_nor_addresses_can_fill_the_table(database: Database, clock: Clock) -> None:
    attempts = Attempts(database, b"key", clock)
    buckets = {bucket for n in range(120) for bucket in attempts.begin(f"name{n}", f"10.0.0.{n}").buckets}
    assert max(buckets) < 2 * 65_536
    assert rows(database, "SELECT count(*) FROM login_attempt") == [(len(buckets),)]
    other = Attempts(database, b"another key", clock).begin("name1", "10.0.0.1").buckets
    assert other != attempts.begin("name1", "10.0.0.1").buckets, "nobody can choose a bucket"


def test_a_failure_is_recorded_and_a_name_that_nobody_has_is_not(entrance: Entrance, database: Database) -> None:
    entrance.users.add("ada", Role.CLINICIAN, PASSWORD)
    fail(entrance, "my password by mistake")
    for _ in range(6):
        fail(entrance, "Ada")
    told = rows(
        database, "SELECT actor, origin, detail FROM audit_event WHERE action = 'login' AND outcome = 'refused'"
    )
    assert told == [("", "10.0.0.1", "")] + [("ada", "10.0.0.1", "")] * 5 + [("ada", "10.0.0.1", "locked for 2 s")]
