"""What an answer means for a delivery, and when a destination is left alone: with destinations written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from imaging_ai.core.instance import StoredInstance
from imaging_ai.core.job import DeliveryState
from imaging_ai.errors import ConfigError, DeliveryRefused, DeliveryUnavailable
from imaging_ai.send.answers import Answer, Verdict
from imaging_ai.send.deliverer import BackOff, Deliverer
from imaging_ai.send.destinations import Destination
from services.results import Results

AT_ONCE = BackOff(first=0.0, longest=0.0, breaker=0.0)


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Results]:
    made = Results(f"sqlite:///{tmp_path / 'test.db'}", tmp_path)
    yield made
    made.database.dispose()


def destination(name: str = "pacs", **settings: object) -> Destination:
    return Destination.parse({"name": name, "ae_title": "A", "host": "h", "port": 1, **settings}, "test")


class Pacs:
    """Answers every store with the next of `answers` (the last for ever); `shows` what a query finds."""

    def __init__(self, *answers: Answer, shows: bool | None = True, refuses: Exception | None = None) -> None:
        self.answers = list(answers) or [Answer(Verdict.STORED)]
        self.shows = shows
        self.refuses = refuses
        self.connections = 0
        self.stored: list[str] = []

    @contextmanager
    def connect(self, _destination: Destination, _instances: Sequence[StoredInstance]) -> Iterator[Pacs]:
        self.connections += 1
        if self.refuses is not None:
            raise self.refuses
        yield self

    def store(self, instance: StoredInstance, _data: bytes) -> Answer:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.verdict is Verdict.STORED:
            self.stored.append(instance.sop_instance_uid)
        return answer

    def holds(self, instances: Sequence[StoredInstance]) -> frozenset[str] | None:
        if self.shows is None:
            return None
        return frozenset({one.sop_instance_uid for one in instances} & set(self.stored) if self.shows else ())


def deliver(results: Results, pacs: Pacs, *destinations: Destination, back_off: BackOff = AT_ONCE) -> int:
    """Deliver until nothing is due, and return in how many batches."""
    sender = Deliverer(
        results.deliveries,
        results,
        destinations or [destination()],
        owner="worker",
        back_off=back_off,
        connect=pacs.connect,
    )
    return sum(1 for _ in iter(sender.deliver_next, False))


def only(results: Results) -> tuple[DeliveryState, str, int]:
    (delivery,) = results.deliveries.find()
    return delivery.state, delivery.reason, delivery.attempts


def test_stored_and_seen_is_confirmed(results: Results) -> None:
    results.job(["SEG"])
    deliver(results, Pacs())
    assert only(results) == (DeliveryState.CONFIRMED, "", 1)


def test_stored_with_a_warning_is_confirmed_and_the_warning_kept(results: Results) -> None:
    results.job(["SEG"])
    deliver(results, Pacs(Answer(Verdict.STORED, "0xB000 coercion")))
    assert only(results) == (DeliveryState.CONFIRMED, "0xB000 coercion", 1)


def test_stored_where_nothing_can_be_asked_is_sent_and_says_so(results: Results) -> None:
    results.job(["SEG"])
    deliver(results, Pacs(shows=None))
    assert only(results) == (DeliveryState.SENT, "not confirmed: it cannot be queried", 1)


def test_stored_without_check_back_is_sent_without_a_word(results: Results) -> None:
    results.job(["SEG"])
    deliver(results, Pacs(shows=None), destination(check_back=False))
    assert only(results) == (DeliveryState.SENT, "", 1)


def test_success_that_never_shows_is_sent_again_and_dead_in_the_end(results: Results) -> None:
    results.job(["SEG"])
    pacs = Pacs(shows=False)
    deliver(results, pacs, destination(max_attempts=3))
    assert only(results) == (DeliveryState.DEAD, "it says success, but a query does not show it", 3)
    assert len(pacs.stored) == 3


def test_success_that_shows_later_is_not_sent_again(results: Results) -> None:
    results.job(["SEG"])
    pacs = Pacs(shows=False)
    sender = Deliverer(results.deliveries, results, [destination()], owner="w", back_off=AT_ONCE, connect=pacs.connect)
    sender.deliver_next()
    assert only(results)[0] is DeliveryState.SENT
    pacs.shows = True
    sender.deliver_next()
    assert only(results)[0] is DeliveryState.CONFIRMED
    assert len(pacs.stored) == 1


def test_a_passing_fault_ends_at_the_last_attempt(results: Results) -> None:
    results.job(["SEG"])
    assert deliver(results, Pacs(Answer(Verdict.PASSING, "busy")), destination(max_attempts=7)) == 7
    assert only(results) == (DeliveryState.DEAD, "busy (after 7 attempts)", 7)


def test_a_doubtful_fault_ends_sooner(results: Results) -> None:
    results.job(["SEG"])
    deliver(results, Pacs(Answer(Verdict.DOUBTFUL, "cannot understand")))
    assert only(results) == (DeliveryState.DEAD, "cannot understand (after 5 attempts)", 5)


@pytest.mark.parametrize("where", ["at the store", "at the connection"])
def test_a_refusal_is_dead_at_once(results: Results, where: str) -> None:
    results.job(["SEG"])
    pacs = Pacs(Answer(Verdict.PERMANENT, "no")) if where == "at the store" else Pacs(refuses=DeliveryRefused("no"))
    assert deliver(results, pacs) == 1
    assert only(results) == (DeliveryState.DEAD, "no", 1)


@pytest.mark.parametrize("fault", [DeliveryUnavailable("away"), ConfigError("the secret is empty")])
def test_a_destination_that_cannot_be_reached_is_left_alone_for_a_while(results: Results, fault: Exception) -> None:
    for _ in range(3):
        results.job(["SEG"])
    pacs = Pacs(refuses=fault)

    assert deliver(results, pacs, back_off=BackOff(first=60.0)) == 1

    assert pacs.connections == 1
    assert sorted(delivery.attempts for delivery in results.deliveries.find()) == [0, 0, 1]


def test_what_the_archive_holds_no_more_is_dead(results: Results) -> None:
    job_id, _ = results.job([], destinations=[])
    with results.database.write() as session:
        results.deliveries.schedule(session, job_id, ["1.2.3.404"], ["pacs"])
    pacs = Pacs()

    deliver(results, pacs)

    assert only(results) == (DeliveryState.DEAD, "the archive does not hold it any more", 1)
    assert pacs.connections == 0


def test_pauses_double_up_to_a_longest() -> None:
    back_off = BackOff(first=4.0, longest=100.0)

    assert 3.0 <= back_off.pause(1) <= 5.0
    assert 12.0 <= back_off.pause(3) <= 20.0
    assert 75.0 <= back_off.pause(50) <= 125.0


def test_what_nobody_foresaw_ends_as_an_answer_too_and_its_words_stay_out(
    results: Results, caplog: pytest.LogCaptureFixture
) -> None:
    results.job(["SEG"])

    assert deliver(results, Pacs(refuses=ValueError("Doe^John"))) == 5

    assert only(results) == (
        DeliveryState.DEAD,
        "an internal error (ValueError); the log says where (after 5 attempts)",
        5,
    )


def test_what_the_destination_says_is_kept_with_the_delivery_and_in_no_log(
    results: Results, caplog: pytest.LogCaptureFixture
) -> None:
    results.job(["SEG"])
    with caplog.at_level("INFO"):
        deliver(results, Pacs(Answer(Verdict.PERMANENT, "0xA900 mismatch", said="patient Doe^John is unknown")))
    assert only(results) == (DeliveryState.DEAD, "0xA900 mismatch (patient Doe^John is unknown)", 1)
    assert "Doe" not in caplog.text
    with results.database.read() as session:
        assert "Doe" not in str(session.connection().execute(text("SELECT * FROM audit_event")).all())
