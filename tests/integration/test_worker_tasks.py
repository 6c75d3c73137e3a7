"""Routing, deliveries and upkeep of a worker: on time, and never held up by a job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imaging_ai.core.job import JobState
from imaging_ai.queue.broker import Doorbell, make_broker
from imaging_ai.queue.ledger import Ledger
from imaging_ai.queue.presence import Presence
from imaging_ai.queue.workers import Workers
from imaging_ai.worker.messages import PipelineSpec
from imaging_ai.worker.worker import Tasks, Worker, WorkerOptions
from ledgers import open_database, schedule, sqlite_url
from services import wait_until
from worker_parts import Recorder


class House:
    """A database, and workers that run in threads of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = sqlite_url(folder)
        self.ledger = Ledger(open_database(self.url))
        self.recorder = Recorder(self.url, str(folder / "runs"))
        self.running: list[tuple[Worker, threading.Thread]] = []

    def start(self, tasks: Tasks, **options: float) -> None:
        given = WorkerOptions(**{"sweep_interval": 1000.0, "grace_seconds": 1.0} | options)  # type: ignore[arg-type]
        worker = Worker(self.ledger, make_broker("embedded", self.folder), Presence(self.folder), tasks, given)
        thread = threading.Thread(target=worker.run)
        thread.start()
        self.running.append((worker, thread))

    def bell(self) -> Doorbell:
        return Doorbell(make_broker("embedded", self.folder))

    def listens(self, queue: str) -> None:
        wait_until(lambda: list((self.folder / "bells" / queue).glob("*")), what=f"a worker listens to {queue}")

    def close(self) -> None:
        for worker, _ in self.running:
            worker.stop()
        for _, thread in self.running:
            thread.join(30)
            assert not thread.is_alive()
        self.ledger.database.dispose()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def counted(events: threading.Semaphore, answer: int = 0) -> Callable[[], int]:
    def count() -> int:
        events.release()
        return answer

    return count


def test_a_ring_has_the_due_series_routed_and_their_jobs_run_at_once(house: House) -> None:
    made: list[int] = []
    pending = ["quick"]

    def route_due() -> int:
        if pending:
            made.append(schedule(house.ledger, model=pending.pop()))
            return 1
        return 0

    routed_at_start = threading.Event()
    tasks = Tasks(
        PipelineSpec("worker_parts:make_pipeline", (house.url, house.recorder.log)),
        route_due=lambda: route_due() if routed_at_start.is_set() else 0,
        next_settle=lambda: None,
    )
    house.start(tasks)
    house.listens("route")
    routed_at_start.set()
    house.bell().ring("route")
    wait_until(lambda: made and house.ledger.get(made[0]).state is JobState.COMPLETED, what="the job ran")


def test_routing_happens_when_a_quiet_time_ends(house: House) -> None:
    settles = [time.time() + 0.5]
    routed: list[float] = []

    def route_due() -> int:
        if settles and settles[0] <= time.time():
            routed.append(settles.pop())
        return 0

    house.start(Tasks(route_due=route_due, next_settle=lambda: settles[0] if settles else None))
    wait_until(lambda: routed, timeout=10, what="the series is routed long before the next sweep")


def test_a_series_that_settles_sooner_than_anything_known_is_routed_on_time_after_a_ring(house: House) -> None:
    settles: list[float] = []
    routed: list[float] = []

    def route_due() -> int:
        if settles and settles[0] <= time.time():
            routed.append(settles.pop())
        return 0

    asked = threading.Event()

    def next_settle() -> float | None:
        asked.set()
        return settles[0] if settles else None

    house.start(Tasks(route_due=route_due, next_settle=next_settle))
    house.listens("route")
    assert asked.wait(10)
    time.sleep(0.2)  # now the sweeper waits for its next sweep, long hence
    settles.append(time.time() + 0.4)
    house.bell().ring("route")
    wait_until(lambda: routed, timeout=10, what="the ring set the alarm")


def test_a_long_job_holds_up_neither_routing_nor_deliveries(house: House) -> None:
    routed, delivered = threading.Semaphore(0), threading.Semaphore(0)
    tasks = Tasks(
        PipelineSpec("worker_parts:make_pipeline", (house.url, house.recorder.log)),
        route_due=counted(routed),
        next_settle=lambda: None,
        deliver_next=lambda: bool(counted(delivered)()),
    )
    house.start(tasks)
    job_id = schedule(house.ledger, model="slow-60")
    for queue in ("inference-cpu", "route", "delivery"):
        house.listens(queue)
    house.bell().ring("inference-cpu")
    wait_until(lambda: house.recorder.events("begun"), what="the job runs")
    while routed.acquire(blocking=False) or delivered.acquire(blocking=False):
        continue
    house.bell().ring("route")
    house.bell().ring("delivery")
    assert routed.acquire(timeout=10)
    assert delivered.acquire(timeout=10)
    assert house.ledger.get(job_id).state is JobState.IN_PROGRESS


def test_a_completed_job_has_its_results_delivered_at_once(house: House) -> None:
    delivered = threading.Semaphore(0)
    tasks = Tasks(
        PipelineSpec("worker_parts:make_pipeline", (house.url, house.recorder.log)),
        deliver_next=lambda: bool(counted(delivered)()),
    )
    house.start(tasks)
    house.listens("delivery")
    while delivered.acquire(timeout=0.3):
        continue
    house.ledger.get(schedule(house.ledger, model="quick"))
    house.bell().ring("inference-cpu")
    assert delivered.acquire(timeout=20)


def test_a_dead_worker_is_told_of_so_that_its_deliveries_are_freed(house: House) -> None:
    dead = Presence(house.folder)
    dead.lock_path.parent.mkdir(parents=True, exist_ok=True)
    Workers(house.ledger.database).seen(dead, ["delivery"], time.time())
    told: list[str] = []
    house.start(Tasks(on_lost=told.append))
    wait_until(lambda: told, what="the death is told")
    assert told == [dead.owner]


def test_upkeep_that_takes_long_does_not_hold_up_the_sweep(house: House) -> None:
    go = threading.Event()
    house.start(Tasks(on_sweep=lambda: go.wait(30) and None), sweep_interval=0.1)
    dead = Presence(house.folder)
    dead.lock_path.parent.mkdir(parents=True, exist_ok=True)
    Workers(house.ledger.database).seen(dead, ["delivery"], time.time())
    wait_until(lambda: dead.owner not in Workers(house.ledger.database).census(time.time()).dead, what="it is swept")
    go.set()


def test_two_slots_run_two_jobs_at_the_same_time_as_soon_as_both_are_known_to_fit(house: House) -> None:
    tasks = Tasks(PipelineSpec("worker_parts:make_pipeline", (house.url, house.recorder.log)))
    known = {"model_digest": "small", "parameters": {"share": 0.4}}
    for model in ("slow-0.3", "slow-0.3", "slow-60", "slow-60"):
        schedule(house.ledger, model=model, **known)
    house.start(tasks, slots=2)
    wait_until(lambda: len(house.recorder.events("begun")) == 4, what="the last two run")
    first = [line.split()[2] for line in Path(house.recorder.log).read_text().splitlines()[:2]]
    assert first == ["begun", "completed"], "of which nothing was known ran alone"


def test_a_worker_that_leaves_takes_its_name_away(house: House) -> None:
    house.start(Tasks(route_due=lambda: 0))
    workers = Workers(house.ledger.database)
    wait_until(lambda: workers.census(time.time()).alive, what="it is there")
    house.running[0][0].stop()
    house.running[0][1].join(20)
    assert workers.census(time.time()) == ([], [])
    assert list((house.folder / "workers").iterdir()) == []
    assert list((house.folder / "bells" / "route").iterdir()) == []
