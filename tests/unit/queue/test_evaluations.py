"""What a classifier said stands in the database with its job, in its order, and goes with the last of its objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imaging_ai.core.finding import ClassDescription, Code, Evaluation
from imaging_ai.queue.evaluations import evaluations_of, keep_evaluations
from imaging_ai.queue.ledger import Ledger
from ledgers import claim, open_database, schedule, sqlite_url

BLEEDING = ClassDescription("Bleeding", Code("50960005", "SCT", "Hemorrhage"), 0.4)
SAID = (
    Evaluation(BLEEDING, 0.91, "Bleeding", "2.25.1"),
    Evaluation(BLEEDING, 0.1 + 0.2, "Bleeding, image 3", "2.25.2", ("1.2.3",), calibrated=False),
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    database = open_database(sqlite_url(tmp_path))
    yield Ledger(database)
    database.dispose()


def test_what_was_said_is_read_back_to_the_last_digit(ledger: Ledger) -> None:
    schedule(ledger)
    job = claim(ledger)
    with ledger.database.write() as session:
        keep_evaluations(session.connection(), job.id, SAID)
        keep_evaluations(session.connection(), job.id, ())
    with ledger.database.read() as session:
        assert evaluations_of(session.connection(), job.id) == SAID
        assert evaluations_of(session.connection(), job.id + 1) == ()


def test_it_is_kept_only_if_the_rest_is(ledger: Ledger) -> None:
    schedule(ledger)
    job = claim(ledger)
    with pytest.raises(RuntimeError, match="no"), ledger.database.write() as session:
        keep_evaluations(session.connection(), job.id, SAID)
        raise RuntimeError("no")
    with ledger.database.read() as session:
        assert evaluations_of(session.connection(), job.id) == ()


def test_json_says_the_same() -> None:
    assert SAID[1].as_tree() == {
        "label": "Bleeding",
        "finding": ["50960005", "SCT", "Hemorrhage"],
        "present": False,
        "probability": 0.1 + 0.2,
        "threshold": 0.4,
        "calibrated": False,
        "instances": ["1.2.3"],
        "tracking_identifier": "Bleeding, image 3",
        "tracking_uid": "2.25.2",
    }
