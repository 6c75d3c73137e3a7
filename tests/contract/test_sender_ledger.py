"""The ledger of deliveries, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlmodel import select

from imaging_ai.core.job import DeliveryState, Priority
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AuditEventRow
from imaging_ai.errors import NotFound
from imaging_ai.send.deliveries import Batch, Settlement
from imaging_ai.send.strays import give_up, redirect, stray, tell_strays
from services.results import Results

SENT, CONFIRMED, DEAD, WAITING = (
    Settlement(DeliveryState.SENT, "cannot be queried", was_sent=True),
    Settlement(DeliveryState.CONFIRMED, was_sent=True),
    Settlement(DeliveryState.DEAD, "0x0122 SOP class not supported"),
    Settlement(DeliveryState.WAITING, "no connection", next_attempt_at=0.0),
)


@pytest.fixture(params=["sqlite", "postgres"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Results]:
    """A database with jobs, of either kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'test.db'}"
    else:
        url = request.getfixturevalue("postgres_server").new_database()
    made = Results(url, tmp_path)
    yield made
    made.database.dispose()


def claim(results: Results, **options: str) -> Batch:
    batch = results.deliveries.claim("worker", 60.0, **options)  # type: ignore[arg-type]
    assert batch is not None
    return batch


def settle(results: Results, batch: Batch, settlement: Settlement) -> int:
    return results.deliveries.settle(batch, {item.delivery_id: settlement for item in batch.items})


def states(results: Results) -> list[str]:
    return sorted(delivery.state.value for delivery in results.deliveries.find())


def test_scheduling_twice_is_scheduling_once(results: Results) -> None:
    job_id, uids = results.job(destinations=["pacs", "orthanc"])
    with results.database.write() as session:
        results.deliveries.schedule(session, job_id, uids.values(), ["orthanc", "pacs", "pacs"])

    assert len(results.deliveries.find()) == 4
    assert results.deliveries.sweep() == 4


def test_what_is_scheduled_in_a_transaction_that_fails_is_not_there(results: Results) -> None:
    job_id, uids = results.job(destinations=[])
    with pytest.raises(RuntimeError), results.database.write() as session:
        results.deliveries.schedule(session, job_id, uids.values(), ["pacs"])
        raise RuntimeError("the job could not be completed")

    assert results.deliveries.find() == []


def test_a_batch_is_all_that_is_due_of_one_job_for_one_destination(results: Results) -> None:
    first, uids = results.job(destinations=["orthanc", "pacs"])
    results.job(destinations=["pacs"])

    batch = claim(results)

    assert (batch.job_id, batch.destination) == (first, "orthanc")
    assert {item.kind: item.sop_instance_uid for item in batch.items} == uids
    assert [item.attempt for item in batch.items] == [1, 1]
    seg = next(item.instance for item in batch.items if item.kind == "SEG")
    assert seg is not None
    assert results.read(seg)[128:132] == b"DICM"


def test_what_is_claimed_cannot_be_claimed_again(results: Results) -> None:
    results.job()
    claim(results)

    assert results.deliveries.claim("other", 60.0) is None


def test_more_of_a_job_waits_until_the_rest_was_settled(results: Results) -> None:
    job_id, _ = results.job(["SEG"])
    batch = claim(results)
    _, more = results.job(["SR"], destinations=[])
    with results.database.write() as session:
        results.deliveries.schedule(session, job_id, more.values(), ["pacs"])

    assert results.deliveries.claim("other", 60.0) is None
    settle(results, batch, CONFIRMED)
    assert [item.kind for item in claim(results).items] == ["SR"]


def test_many_senders_never_claim_the_same(results: Results) -> None:
    for _ in range(12):
        results.job(destinations=["a", "b"])
    claimed: list[tuple[int, str, int]] = []
    barrier = threading.Barrier(4)

    def work(owner: str) -> None:
        barrier.wait()
        while (batch := results.deliveries.claim(owner, 60.0)) is not None:
            claimed.append((batch.job_id, batch.destination, len(batch.items)))

    threads = [threading.Thread(target=work, args=(f"worker-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(claimed) == 24
    assert set(Counter(claimed).values()) == {1}
    assert {size for _, _, size in claimed} == {2}  # SEG and SR together, always


def test_a_job_that_another_is_just_claiming_is_passed_over_whole(tmp_path: Path, postgres_url: str) -> None:
    results = Results(postgres_url, tmp_path)
    results.job()
    second, _ = results.job()
    claimed: list[Batch | None] = []
    other = threading.Thread(target=lambda: claimed.append(results.deliveries.claim("other", 60.0)))

    with results.database.write() as session:  # as far as the other got: it holds the first row, not yet the second
        session.connection().execute(text("SELECT id FROM delivery ORDER BY id LIMIT 1 FOR UPDATE"))
        other.start()
        other.join(10)
        assert not other.is_alive(), "a claim waits for another"

    assert [(batch.job_id, len(batch.items)) for batch in claimed if batch] == [(second, 2)]
    results.database.dispose()


def test_destinations_take_turns(results: Results) -> None:
    for _ in range(3):
        results.job(["SEG"], destinations=["a"])
    for name in ("b", "c"):
        results.job(["SEG"], destinations=[name])

    turns, last = [], ""
    while (batch := results.deliveries.claim("worker", 60.0, after=last)) is not None:
        last = batch.destination
        turns.append(last)

    assert turns == ["a", "b", "c", "a", "a"]


def test_only_the_named_destinations_are_served(results: Results) -> None:
    results.job(destinations=["a", "b"])

    assert claim(results, destinations={"b"}).destination == "b"  # type: ignore[arg-type]
    assert results.deliveries.claim("worker", 60.0, destinations=()) is None


def test_of_one_destination_the_urgent_job_goes_first(results: Results) -> None:
    results.job(priority=Priority.LOW)
    urgent, _ = results.job(priority=Priority.HIGH)

    assert claim(results).job_id == urgent


def test_a_claim_looks_at_no_more_than_the_beginning_of_what_waits(tmp_path: Path) -> None:
    """However much waits, and for whom: the writer's lock of SQLite is held meanwhile."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    migrate.upgrade(Database(url))
    results = Results(url, tmp_path)
    results.job(destinations=["pacs", "gone"])
    statements: list[tuple[str, Any]] = []
    event.listen(results.database.engine, "before_cursor_execute", lambda *told: statements.append((told[2], told[3])))
    claim(results, destinations=["pacs"])  # type: ignore[arg-type]
    claimed, values = next(one for one in statements if "UPDATE delivery" in one[0])
    with results.database.engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {claimed}", values)]
    searches = [step for step in plan if " delivery" in step or " other" in step]
    assert len(searches) > 6
    turn = "COVERING INDEX delivery_turn (destination=? AND state=? AND priority=? AND next_attempt_at<?)"
    ends = (turn, "INTEGER PRIMARY KEY (rowid=?)", "INDEX ix_delivery_job_id (job_id=?)")
    assert all(step.endswith(ends) for step in searches), plan
    results.database.dispose()


def test_what_is_not_due_waits(results: Results) -> None:
    results.job()
    batch = claim(results)
    settle(results, batch, Settlement(DeliveryState.WAITING, "busy", next_attempt_at=time.time() + 3600))

    assert results.deliveries.claim("worker", 60.0) is None
    assert [delivery.attempts for delivery in results.deliveries.find()] == [1, 1]
    assert all((delivery.next_attempt_at or 0) > time.time() + 3000 for delivery in results.deliveries.find())


def test_a_lost_sender_costs_its_lease_and_its_late_answer_is_ignored(results: Results) -> None:
    results.job()
    lost = claim(results)
    assert results.deliveries.sweep() == 0
    assert results.deliveries.sweep(time.time() + 120) == 2

    again = claim(results)

    assert [item.attempt for item in again.items] == [2, 2]
    assert not results.deliveries.renew(lost, 60.0)
    assert settle(results, lost, CONFIRMED) == 0
    assert states(results) == ["SENDING", "SENDING"]
    assert settle(results, again, SENT) == 2


def test_a_renewed_lease_is_kept(results: Results) -> None:
    results.job()
    batch = claim(results)

    assert results.deliveries.renew(batch, 600.0)
    assert results.deliveries.sweep(time.time() + 120) == 0


def test_what_a_dead_sender_held_is_free_at_once(results: Results) -> None:
    results.job()
    claim(results)

    assert results.deliveries.release("somebody else") == 0
    assert results.deliveries.release("worker") == 2
    assert len(claim(results).items) == 2


def test_a_settlement_is_written_with_reason_and_times(results: Results) -> None:
    results.job(["SEG"])
    settle(results, claim(results), SENT)
    (sent,) = results.deliveries.find()
    assert (sent.state, sent.reason, sent.next_attempt_at) == (DeliveryState.SENT, "cannot be queried", None)
    assert sent.sent_at is not None
    assert sent.confirmed_at is None


def test_each_attempt_leaves_an_audit_event(results: Results) -> None:
    _, uids = results.job(["SEG"])
    for settlement in (WAITING, DEAD):
        settle(results, claim(results), settlement)
    results.deliveries.replay(actor="anna")
    settle(results, claim(results), CONFIRMED)

    with results.database.read() as session:
        events = session.exec(select(AuditEventRow).order_by(AuditEventRow.id)).all()  # type: ignore[arg-type]
    assert [(event.action, event.outcome, event.actor) for event in events] == [
        ("send", "failure", "worker"),
        ("send", "refused", "worker"),
        ("replay", "success", "anna"),
        ("send", "success", "worker"),
    ]
    assert {event.object_uid for event in events} == {uids["SEG"]}
    assert {event.origin for event in events} == {"pacs"}


def test_replay_of_a_destination_begins_its_dead_ones_anew(results: Results) -> None:
    results.job(["SEG"], destinations=["a", "b"])
    for settlement in (DEAD, CONFIRMED):
        settle(results, claim(results, after=""), settlement)

    assert results.deliveries.replay(destination="b") == 0
    assert results.deliveries.replay(destination="a") == 1
    batch = claim(results)
    assert batch.destination == "a"
    assert batch.items[0].attempt == 1


@pytest.mark.parametrize("selection", ["job", "delivery"])
def test_replay_by_hand_sends_even_what_was_confirmed(results: Results, selection: str) -> None:
    job_id, _ = results.job(["SEG"])
    settle(results, claim(results), CONFIRMED)
    (delivery,) = results.deliveries.find()
    replay: Callable[[], int] = {
        "job": lambda: results.deliveries.replay(job_id=job_id),
        "delivery": lambda: results.deliveries.replay(delivery_id=delivery.id),
    }[selection]

    assert replay() == 1
    assert results.deliveries.get(delivery.id).sent_at is None
    claim(results)
    assert replay() == 0  # it is being sent just now


def test_deliveries_are_found_by_job_destination_and_state(results: Results) -> None:
    job_id, _ = results.job(["SEG"], destinations=["a", "b"])
    results.job(["SEG"], destinations=["a"])
    settle(results, claim(results), DEAD)

    find = results.deliveries.find
    assert len(find()) == 3
    assert len(find(job_id=job_id)) == 2
    assert len(find(destination="b")) == 1
    assert [delivery.job_id for delivery in find(states=[DeliveryState.DEAD])] == [job_id]
    assert results.deliveries.counts() == {
        ("a", DeliveryState.DEAD): 1,
        ("a", DeliveryState.WAITING): 1,
        ("b", DeliveryState.WAITING): 1,
    }


def test_a_delivery_that_does_not_exist_is_not_found(results: Results) -> None:
    with pytest.raises(NotFound, match="no delivery 7"):
        results.deliveries.get(7)


def test_what_waits_for_a_destination_that_nobody_names_says_so(
    results: Results, caplog: pytest.LogCaptureFixture
) -> None:
    results.job(destinations=["pacs", "gone"])
    settle(results, claim(results, destinations=["gone"]), SENT)  # type: ignore[arg-type]
    lost, _ = results.job(destinations=["gone"])
    assert stray(results.database, ["pacs"]) == {"gone": 2}
    assert stray(results.database, ["pacs", "gone"]) == {}
    assert tell_strays(results.database, ["pacs"]) == 2
    assert tell_strays(results.database, ["pacs"]) == 0, "once"
    assert caplog.text.count("2 results wait for destinations") == 1
    reasons = {one.destination: one.reason for one in results.deliveries.find(states=[DeliveryState.WAITING])}
    assert ("no [[destinations]]" in reasons["gone"], reasons["pacs"]) == (True, "")
    batch = claim(results, after="pacs")
    assert (batch.job_id, batch.destination) == (lost, "gone"), "named again, they are sent"
    assert settle(results, batch, CONFIRMED) == 2
    assert {one.reason for one in results.deliveries.find(job_id=lost)} == {""}


def test_what_is_given_up_is_sent_no_more_until_somebody_replays_it(results: Results) -> None:
    first, _ = results.job(destinations=["gone"])
    second, _ = results.job(destinations=["gone", "pacs"])
    busy = claim(results, destinations=["gone"])  # type: ignore[arg-type]
    assert give_up(results.database, "gone", actor="root") == 2
    assert give_up(results.database, "pacs", job_id=second, actor="root") == 2
    with pytest.raises(NotFound, match="nothing waits for gone"):
        give_up(results.database, "gone", actor="root")
    with pytest.raises(NotFound):
        give_up(results.database, "pacs", job_id=first, actor="root")
    assert settle(results, busy, CONFIRMED) == 2, "what is being sent just now stays untouched"
    assert Counter(states(results)) == {"CONFIRMED": 2, "DEAD": 4}
    assert {one.reason for one in results.deliveries.find(states=[DeliveryState.DEAD])} == {"given up by hand"}
    assert results.deliveries.claim("worker", 60.0) is None
    assert audited(results, "give-up") == {("root", "gone", ""): 2, ("root", "pacs", ""): 2}
    assert results.deliveries.replay(destination="pacs") == 2
    assert claim(results).destination == "pacs"


def test_what_was_sent_is_not_looked_for_any_longer_when_it_is_given_up(results: Results) -> None:
    results.job(destinations=["gone"])
    checked = Settlement(DeliveryState.SENT, "not seen yet", next_attempt_at=0.0, was_sent=True)
    settle(results, claim(results), checked)
    assert stray(results.database, []) == {"gone": 2}
    assert give_up(results.database, "gone", actor="root") == 2
    assert (set(states(results)), stray(results.database, [])) == ({"SENT"}, {})


def test_what_is_redirected_goes_to_the_other_destination_and_nothing_twice(results: Results) -> None:
    dead, _ = results.job(destinations=["gone"])
    settle(results, claim(results), DEAD)
    arrived, _ = results.job(destinations=["gone"])
    settle(results, claim(results), CONFIRMED)
    both, _ = results.job(destinations=["gone", "pacs"])
    waiting, _ = results.job(["SEG"], destinations=["gone"])
    assert redirect(results.database, "gone", "pacs", job_id=waiting, actor="root") == 1
    assert redirect(results.database, "gone", "pacs", actor="root") == 4
    assert {one.destination for one in results.deliveries.find(job_id=arrived)} == {"gone"}
    there = results.deliveries.find(destination="pacs")
    assert Counter((one.job_id, one.state.value, one.attempts) for one in there) == {
        (dead, "WAITING", 0): 2,
        (both, "WAITING", 0): 2,
        (waiting, "WAITING", 0): 1,
    }
    (reason,) = {one.reason for one in results.deliveries.find(job_id=both, destination="gone")}
    assert reason == "goes to pacs anyway"
    assert audited(results, "redirect") == {("root", "gone", "to pacs"): 3}
    assert audited(results, "give-up") == {("root", "gone", ""): 2}
    with pytest.raises(NotFound):
        redirect(results.database, "gone", "pacs", actor="root")


def audited(results: Results, action: str) -> Counter[tuple[str, str, str]]:
    with results.database.read() as session:
        events = session.exec(select(AuditEventRow).where(AuditEventRow.action == action)).all()
    return Counter((one.actor, one.origin, one.detail) for one in events)
