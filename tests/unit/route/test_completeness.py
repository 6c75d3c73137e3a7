"""When a series counts as complete."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import update
from sqlmodel import SQLModel

from imaging_ai.db.engine import Database
from imaging_ai.db.tables import SeriesRow
from imaging_ai.route.completeness import QuietTimes, claim_due, due_studies, next_due, put_off, released

TIMING = QuietTimes(quiet=2.0, silence=10.0)
NOW = 1000.0


def row(database: Database, series_id: int) -> SeriesRow:
    with database.read() as session:
        found = session.get(SeriesRow, series_id)
        assert found is not None
        return found


def claim(database: Database, now: float = NOW, ids: list[int] | None = None) -> dict[int, int]:
    with database.write() as session:
        return claim_due(session, now, ids)


@pytest.mark.parametrize(
    ("graceful", "held", "expected", "revision", "settle_at"),
    [
        (True, 20, 20, 0, NOW),
        (True, 21, 20, 0, NOW),
        (True, 19, 20, 0, NOW + 2),
        (True, 20, None, 0, NOW + 2),
        (True, 21, 20, 1, NOW + 2),
        (False, 20, 20, 0, NOW + 10),
        (False, 20, None, 0, NOW + 10),
    ],
    ids=[
        "released with every instance: at once",
        "released with more than expected: at once",
        "released with some missing: quiet time",
        "released without a count: quiet time",
        "late instances: quiet time, so that they make one run",
        "aborted: silence, although all seem to be there",
        "aborted without a count: silence",
    ],
)
def test_the_end_of_an_association_sets_when_its_series_are_complete(
    database: Database, add_series, graceful: bool, held: int, expected: int | None, revision: int, settle_at: float
) -> None:
    series = add_series(instance_count=held, expected_count=expected, revision=revision)
    released(database, [series], graceful=graceful, timing=TIMING, now=NOW)
    assert row(database, series).settle_at == settle_at


def test_a_settled_series_stays_settled_when_an_association_ends_that_added_nothing(
    database: Database, add_series
) -> None:
    series = add_series(state="SETTLED", settle_at=5.0)
    released(database, [series], graceful=True, timing=TIMING, now=NOW)
    assert (row(database, series).state, row(database, series).settle_at) == ("SETTLED", 5.0)


def test_only_the_series_of_the_association_are_touched(database: Database, add_series) -> None:
    mine, other = add_series("1.2.3"), add_series("1.2.4", settle_at=77.0)
    released(database, [mine], graceful=True, timing=TIMING, now=NOW)
    assert row(database, other).settle_at == 77.0


def test_an_association_that_carried_nothing_is_no_matter(database: Database) -> None:
    released(database, [], graceful=True, timing=TIMING)


def test_the_next_moment_is_that_of_the_first_series_still_being_received(database: Database, add_series) -> None:
    with database.read() as session:
        assert next_due(session) is None
    add_series("1.2.3", settle_at=50.0)
    add_series("1.2.4", settle_at=40.0)
    add_series("1.2.5", settle_at=30.0, state="SETTLED")
    with database.read() as session:
        assert next_due(session) == 40.0


def test_studies_come_in_the_order_in_which_they_became_due(database: Database, add_series) -> None:
    add_series("1.2.3", "1.1", settle_at=NOW - 1)
    add_series("1.2.4", "1.2", settle_at=NOW - 3)
    add_series("1.2.5", "1.1", settle_at=NOW - 5)
    add_series("1.2.6", "1.3", settle_at=NOW + 1)
    with database.read() as session:
        assert due_studies(session, NOW) == ["1.1", "1.2"]
        assert due_studies(session, NOW, limit=1) == ["1.1"]


def test_a_series_is_claimed_when_due_and_not_before(database: Database, add_series) -> None:
    series = add_series(settle_at=NOW)
    assert claim(database, NOW - 0.001) == {}
    assert claim(database, NOW) == {series: 1}
    assert row(database, series).state == "SETTLED"


def test_a_claimed_series_is_not_claimed_again_until_something_more_arrives(database: Database, add_series) -> None:
    series = add_series(settle_at=NOW)
    claim(database)
    assert claim(database) == {}
    table = SQLModel.metadata.tables["series"]
    with database.write() as session:  # as the archive does with a late instance
        session.connection().execute(update(table).values(state="RECEIVING", settle_at=NOW + 5))
    assert claim(database, NOW + 4) == {}
    assert claim(database, NOW + 5) == {series: 2}


def test_a_claim_that_is_rolled_back_has_not_happened(database: Database, add_series) -> None:
    series = add_series(settle_at=NOW)
    with pytest.raises(RuntimeError), database.write() as session:
        claim_due(session, NOW)
        raise RuntimeError
    assert claim(database) == {series: 1}


def test_only_the_named_series_are_claimed(database: Database, add_series) -> None:
    first, second = add_series("1.2.3", settle_at=NOW), add_series("1.2.4", settle_at=NOW)
    assert claim(database, NOW, [first]) == {first: 1}
    assert row(database, second).state == "RECEIVING"


def test_a_series_can_be_put_off(database: Database, add_series) -> None:
    series = add_series(settle_at=NOW)
    with database.write() as session:
        put_off(session, [series], NOW, NOW + 30)
    assert claim(database) == {}
    assert claim(database, NOW + 30) == {series: 1}


def test_many_routers_at_once_get_each_series_once(database: Database, add_series) -> None:
    ids = {add_series(f"1.2.{number}", settle_at=NOW) for number in range(20)}
    claims: list[dict[int, int]] = []
    start = threading.Barrier(4)

    def router() -> None:
        start.wait()
        for series in ids:
            claims.append(claim(database, NOW, [series]))

    threads = [threading.Thread(target=router) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = [series for one in claims for series in one]
    assert sorted(got) == sorted(ids)
