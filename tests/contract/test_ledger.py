"""The ledger keeps its promises on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from imaging_ai.core.identity import new_uid
from imaging_ai.core.job import Failure, JobState, Priority, Stage
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AuditEventRow
from imaging_ai.errors import NotFound, WrongState
from imaging_ai.queue.ledger import Ledger
from imaging_ai.queue.presence import Presence
from imaging_ai.queue.workers import Workers
from ledgers import Clock, claim, complete, open_database, request, schedule, sqlite_url

PASSING = Failure(Stage.INFER, "model-out-of-memory", "no memory left", permanent=False)
PERMANENT = Failure(Stage.READ, "series-refused", "the gantry is tilted", permanent=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    database = open_database(url)
    yield database
    database.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Ledger:
    return Ledger(database, clock=clock, retry_after=5.0)


def test_a_scheduled_job_is_claimed_with_everything_that_was_asked(ledger: Ledger) -> None:
    series = (new_uid(), new_uid())
    job_id = schedule(
        ledger,
        series_instance_uids=series,
        inputs=("1.2.3", "1.2.4"),
        revision=3,
        model_digest="abc",
        destinations=("pacs",),
        priority=Priority.HIGH,
        parameters={"threshold": 0.5},
    )
    job = claim(ledger)
    assert (job.id, job.state, job.attempt, job.model, job.model_digest) == (
        job_id,
        JobState.IN_PROGRESS,
        1,
        "model",
        "abc",
    )
    assert set(job.series_instance_uids) == set(series)
    assert job.inputs == ("1.2.3", "1.2.4")
    assert (job.destinations, job.parameters, job.revision) == (("pacs",), {"threshold": 0.5}, 3)
    assert job == ledger.get(job_id)


def test_asking_twice_for_the_same_work_is_asking_once(ledger: Ledger) -> None:
    schedule(ledger, dedupe_key="same")
    with ledger.database.write() as session:
        assert ledger.schedule(session, request(dedupe_key="same")) is None


def test_nothing_is_scheduled_when_the_transaction_of_the_caller_fails(ledger: Ledger) -> None:
    def schedule_and_fail() -> None:
        with ledger.database.write() as session:
            ledger.schedule(session, request())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        schedule_and_fail()
    assert ledger.find() == []


def test_a_higher_priority_overtakes_and_age_decides_among_equals(ledger: Ledger, clock: Clock) -> None:
    made = []
    for priority in (Priority.LOW, Priority.MEDIUM, Priority.MEDIUM, Priority.HIGH):
        made.append(schedule(ledger, priority=priority))
        clock.advance(1)
    assert [claim(ledger).id for _ in made] == [made[3], made[1], made[2], made[0]]


def test_a_queue_gives_only_its_own_jobs(ledger: Ledger) -> None:
    schedule(ledger, queue="inference-gpu")
    assert ledger.claim("inference-cpu", "me", 30.0) is None
    assert claim(ledger, "inference-gpu").queue == "inference-gpu"


def test_many_threads_claim_each_job_once(database: Database) -> None:
    ledger = Ledger(database)
    made = {schedule(ledger) for _ in range(60)}
    claimed: list[int] = []

    def work(owner: str) -> None:
        while job := ledger.claim("inference-cpu", owner, 30.0):
            claimed.append(job.id)

    threads = [threading.Thread(target=work, args=(f"owner-{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(made)


def test_completing_keeps_the_provenance_and_ends_the_job(ledger: Ledger) -> None:
    schedule(ledger)
    job = claim(ledger)
    complete(ledger, job)
    done = ledger.get(job.id)
    assert (done.state, done.progress, done.provenance, done.failure) == (
        JobState.COMPLETED,
        100,
        {"device": "cpu"},
        None,
    )


def test_a_worker_cannot_complete_an_attempt_that_is_no_longer_its_own(ledger: Ledger, clock: Clock) -> None:
    schedule(ledger)
    first = claim(ledger, owner="slow")
    ledger.sweep(clock.advance(31))
    second = claim(ledger, owner="quick")
    assert (second.id, second.attempt) == (first.id, 2)
    with pytest.raises(WrongState, match="attempt 1"):
        complete(ledger, first)
    assert ledger.fail(first.id, first.attempt, PERMANENT) is None
    complete(ledger, second)


def test_a_worker_cannot_complete_a_job_that_was_asked_to_stop(ledger: Ledger) -> None:
    schedule(ledger)
    job = claim(ledger)
    ledger.cancel(job.id)
    with pytest.raises(WrongState):
        complete(ledger, job)


def test_progress_never_goes_back_within_an_attempt_and_starts_anew_with_the_next(ledger: Ledger, clock: Clock) -> None:
    schedule(ledger)
    job = claim(ledger)
    for percent in (30, 20, 250, -3):
        ledger.progress(job.id, 1, percent, Stage.INFER)
        assert ledger.get(job.id).progress == {30: 30, 20: 30, 250: 100, -3: 100}[percent]
    ledger.sweep(clock.advance(31))
    assert claim(ledger).progress == 0
    ledger.progress(job.id, 1, 90, Stage.ENCODE)
    assert ledger.get(job.id).progress == 0


def test_a_passing_failure_is_tried_again_after_a_pause_that_doubles_until_the_attempts_are_used_up(
    ledger: Ledger, clock: Clock
) -> None:
    schedule(ledger)
    for attempt, pause in ((1, 5.0), (2, 10.0)):
        job = claim(ledger)
        assert ledger.fail(job.id, attempt, PASSING) is JobState.SCHEDULED
        assert ledger.claim("inference-cpu", "me", 30.0) is None
        due = ledger.next_due()
        assert due is not None
        assert 0.8 * pause <= due - clock.now <= 1.2 * pause
        assert ledger.due_queues() == []
        clock.advance(due - clock.now)
        assert ledger.due_queues() == ["inference-cpu"]
    job = claim(ledger)
    assert ledger.fail(job.id, 3, PASSING) is JobState.CANCELED
    dead = ledger.get(job.id)
    assert dead.failure == Failure(Stage.INFER, "model-out-of-memory", "no memory left", permanent=True)


def test_a_permanent_failure_ends_the_job_with_stage_code_and_reason(ledger: Ledger) -> None:
    schedule(ledger)
    job = claim(ledger)
    assert ledger.fail(job.id, job.attempt, PERMANENT) is JobState.CANCELED
    assert ledger.get(job.id).failure == PERMANENT


def test_a_waiting_job_is_cancelled_at_once_and_a_finished_one_not_at_all(ledger: Ledger) -> None:
    job_id = schedule(ledger)
    cancelled = ledger.cancel(job_id, actor="somebody")
    assert cancelled.state is JobState.CANCELED
    assert cancelled.failure is not None
    assert cancelled.failure.code == "cancelled"
    assert ledger.claim("inference-cpu", "me", 30.0) is None
    with pytest.raises(WrongState, match="CANCELED"):
        ledger.cancel(job_id)
    with pytest.raises(NotFound):
        ledger.cancel(10_000)


def test_a_running_job_is_asked_to_stop_and_ends_when_its_worker_says_so(ledger: Ledger) -> None:
    schedule(ledger)
    job = claim(ledger)
    asked = ledger.cancel(job.id)
    assert (asked.state, asked.cancel_requested) == (JobState.IN_PROGRESS, True)
    ledger.stopped(job.id, job.attempt)
    ended = ledger.get(job.id)
    assert ended.state is JobState.CANCELED
    assert ended.failure is not None
    assert ended.failure.code == "cancelled"


@pytest.mark.parametrize("end", ["fail", "release", "sweep"])
def test_a_job_that_was_asked_to_stop_is_never_tried_again(ledger: Ledger, clock: Clock, end: str) -> None:
    schedule(ledger)
    job = claim(ledger)
    ledger.cancel(job.id)
    if end == "fail":
        ledger.fail(job.id, job.attempt, PASSING)
    elif end == "release":
        ledger.release(job.id, job.attempt)
    else:
        ledger.sweep(clock.advance(31))
    ended = ledger.get(job.id)
    assert ended.state is JobState.CANCELED
    assert ended.failure is not None
    assert ended.failure.code == "cancelled"


def test_a_released_job_is_claimable_at_once_and_loses_no_attempt(ledger: Ledger) -> None:
    schedule(ledger)
    for _ in range(5):
        job = claim(ledger)
        ledger.release(job.id, job.attempt)
    assert ledger.fail(claim(ledger).id, 6, PASSING) is JobState.SCHEDULED


def test_a_cancelled_job_is_run_again_by_hand_with_all_its_attempts(ledger: Ledger, clock: Clock) -> None:
    schedule(ledger)
    ledger.fail(claim(ledger).id, 1, PERMANENT)
    assert ledger.retry(1).state is JobState.SCHEDULED
    for attempt in (2, 3):
        assert ledger.fail(claim(ledger).id, attempt, PASSING) is JobState.SCHEDULED
        clock.advance(60)
    complete(ledger, claim(ledger))
    with pytest.raises(WrongState, match="COMPLETED"):
        ledger.retry(1)


def test_a_lease_that_is_renewed_outlives_its_first_term(ledger: Ledger, clock: Clock) -> None:
    schedule(ledger)
    job = claim(ledger, owner="me")
    clock.advance(20)
    assert ledger.renew("me", 30.0, running=(job.id,)) == 1
    ledger.sweep(clock.advance(20))
    assert ledger.get(job.id).state is JobState.IN_PROGRESS
    ledger.sweep(clock.advance(11))
    assert ledger.get(job.id).state is JobState.SCHEDULED


def test_a_claim_whose_answer_was_lost_is_not_renewed_with_the_others(ledger: Ledger, clock: Clock) -> None:
    schedule(ledger), schedule(ledger)
    known, lost = claim(ledger, owner="me"), claim(ledger, owner="me")
    clock.advance(20)
    assert ledger.renew("me", 30.0, running=(known.id,)) == 1
    ledger.sweep(clock.advance(20))
    assert [ledger.get(job.id).state for job in (known, lost)] == [JobState.IN_PROGRESS, JobState.SCHEDULED]


def test_the_job_of_a_worker_that_died_on_this_host_is_claimable_at_once(
    ledger: Ledger, database: Database, clock: Clock, tmp_path: Path
) -> None:
    living, dead = Presence(tmp_path), Presence(tmp_path)
    for presence in (living, dead):
        presence.hold()
        Workers(database).seen(presence, ["inference-cpu"], clock.now)
        schedule(ledger)
    kept, lost = claim(ledger, owner=living.owner), claim(ledger, owner=dead.owner)
    dead.leave()
    assert ledger.sweep() == ["inference-cpu"]
    assert [ledger.get(job.id).state for job in (kept, lost)] == [JobState.IN_PROGRESS, JobState.SCHEDULED]
    ledger.sweep(clock.advance(45))
    assert ledger.get(kept.id).state is JobState.IN_PROGRESS, "its lock shows that it lives: the database was away"
    ledger.sweep(clock.advance(60))
    assert ledger.get(kept.id).state is JobState.SCHEDULED, "its worker lives but has forgotten it"
    living.leave()


def test_the_worker_of_another_host_is_judged_by_its_lease_alone(
    ledger: Ledger, database: Database, clock: Clock, tmp_path: Path
) -> None:
    stranger = Presence(tmp_path, host="elsewhere")  # it never held a lock that could be seen from here
    Workers(database).seen(stranger, ["inference-cpu"], clock.now)
    schedule(ledger)
    job = claim(ledger, owner=stranger.owner)
    ledger.sweep(clock.advance(29))
    assert ledger.get(job.id).state is JobState.IN_PROGRESS
    assert ledger.sweep(clock.advance(2)) == ["inference-cpu"]


def test_a_job_that_kills_its_workers_stops_in_the_end_and_gives_way_before(database: Database, clock: Clock) -> None:
    ledger = Ledger(database, clock=clock, max_losses=5)
    poison, healthy = schedule(ledger), schedule(ledger)
    runs = 0
    while (job := ledger.claim("inference-cpu", "me", 30.0)) and job.id == poison:
        runs += 1
        ledger.sweep(clock.advance(31))
    assert runs == 4, "then it pauses, and the healthy job goes first"
    assert job is not None
    assert job.id == healthy
    complete(ledger, job)
    while ledger.get(poison).state is JobState.SCHEDULED:
        clock.advance(60)
        claim(ledger)
        ledger.sweep(clock.advance(31))
    dead = ledger.get(poison)
    assert dead.failure is not None
    assert (dead.attempt, dead.failure.code, dead.failure.permanent) == (6, "worker-lost", True)


def test_a_newer_revision_supersedes_the_older_ones_whatever_they_do(ledger: Ledger) -> None:
    same = {"study_instance_uid": new_uid(), "series_instance_uids": (new_uid(), new_uid())}
    elsewhere = schedule(ledger, revision=1, **same | {"study_instance_uid": new_uid()})
    complete(ledger, claim(ledger))
    schedule(ledger, revision=1, **same)
    done = claim(ledger)
    complete(ledger, done)
    schedule(ledger, revision=2, **same)
    running = claim(ledger)
    waiting = schedule(ledger, revision=3, **same)
    other_rule = schedule(ledger, revision=3, rule="another", **same)
    reordered = same | {"series_instance_uids": same["series_instance_uids"][::-1]}
    newest = ledger.get(schedule(ledger, revision=4, **reordered))
    assert newest.supersedes == done.id != elsewhere
    assert ledger.predecessor(newest) == ledger.get(done.id)
    assert ledger.get(running.id).cancel_requested
    superseded = ledger.get(waiting)
    assert superseded.failure is not None
    assert (superseded.state, superseded.failure.code) == (JobState.CANCELED, "superseded")
    assert ledger.get(other_rule).state is JobState.SCHEDULED
    with pytest.raises(WrongState, match="superseded"):
        ledger.retry(waiting)


def test_the_same_series_uid_in_another_study_is_another_series(ledger: Ledger) -> None:
    series = {"series_instance_uids": (new_uid(),)}
    first = schedule(ledger, revision=1, **series)
    second = ledger.get(schedule(ledger, revision=2, **series))
    assert ledger.get(first).state is JobState.SCHEDULED
    assert second.supersedes is None
    complete(ledger, claim(ledger))
    assert ledger.predecessor(second) is None


def test_why_nothing_ran_is_noted_once_and_found_by_series(ledger: Ledger) -> None:
    why = Failure(Stage.ROUTE, "no-rule", "no rule matches this series", permanent=True)
    asked = request(model="", queue="")
    with ledger.database.write() as session:
        noted = ledger.note(session, asked, why)
        assert ledger.note(session, asked, why) is None
    assert noted is not None
    [entry] = ledger.find(series=asked.series_instance_uids[0])
    assert (entry.id, entry.state, entry.model, entry.failure) == (noted, JobState.CANCELED, "", why)
    with pytest.raises(WrongState, match="why nothing ran"):
        ledger.retry(noted)


def test_jobs_are_found_by_what_they_are_newest_first(ledger: Ledger) -> None:
    made = [ledger.get(schedule(ledger, model=name)) for name in ("lung", "lung", "liver")]
    running = claim(ledger)
    assert [job.id for job in ledger.find()] == [job.id for job in reversed(made)]
    assert [job.id for job in ledger.find(model="lung")] == [made[1].id, made[0].id]
    assert [job.id for job in ledger.find(state=JobState.IN_PROGRESS)] == [running.id]
    assert [job.id for job in ledger.find(study=made[2].study_instance_uid)] == [made[2].id]
    assert [job.id for job in ledger.find(series=made[1].series_instance_uids[0])] == [made[1].id]
    assert ledger.find(series='%"') == []
    assert [job.id for job in ledger.find(limit=1, offset=1)] == [made[1].id]


def test_the_end_of_a_job_is_estimated_from_the_runs_of_its_model_and_the_jobs_before_it(
    ledger: Ledger, clock: Clock
) -> None:
    first = ledger.get(schedule(ledger))
    assert ledger.eta(first) is None, "no run has ever ended"
    for seconds in (5.0, 10.0, 90.0):
        job = claim(ledger) if seconds == 5.0 else claim(ledger) if schedule(ledger) else None
        assert job is not None
        clock.advance(seconds)
        complete(ledger, job)
    schedule(ledger, priority=Priority.LOW)
    clock.advance(1)
    running = schedule(ledger, priority=Priority.HIGH)
    claim(ledger)
    clock.advance(4)
    urgent, ordinary = schedule(ledger, priority=Priority.HIGH), schedule(ledger)
    assert ledger.eta(ledger.get(running)) == pytest.approx(6)
    assert ledger.eta(ledger.get(urgent)) == pytest.approx(6 + 10)
    assert ledger.eta(ledger.get(ordinary)) == pytest.approx(6 + 10 + 10)


def test_each_step_of_a_job_leaves_an_audit_event(ledger: Ledger) -> None:
    job_id = schedule(ledger)
    ledger.fail(claim(ledger).id, 1, PERMANENT)
    ledger.retry(job_id, actor="somebody")
    complete(ledger, claim(ledger))
    uid = ledger.get(job_id).job_uid
    with ledger.database.read() as session:
        rows = session.connection().execute(
            select(AuditEventRow.action, AuditEventRow.outcome, AuditEventRow.actor, AuditEventRow.object_uid)
        )
        assert [tuple(row) for row in rows] == [
            ("job.schedule", "success", "", uid),
            ("job.fail", "failure", "", uid),
            ("job.retry", "success", "somebody", uid),
            ("job.complete", "success", "", uid),
        ]
