"""Real worker processes on real databases and brokers: every job once, whatever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import func, select
from sqlmodel import col

from imaging_ai.core.job import Job, JobState, Priority, Stage
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AuditEventRow
from imaging_ai.queue.broker import Doorbell, make_broker
from imaging_ai.queue.ledger import Ledger
from ledgers import open_database, schedule, sqlite_url
from services import wait_until
from services.postgres import PostgresServer
from services.redis import RedisServer
from worker_parts import Recorder


@dataclass
class Site:
    """A database, a broker and a folder, and the workers that share them."""

    url: str
    broker_url: str
    folder: Path

    def __post_init__(self) -> None:
        self.database: Database = open_database(self.url)
        self.ledger = Ledger(self.database)
        self.recorder = Recorder(self.url, str(self.folder / "runs"))
        self.bell = Doorbell(make_broker(self.broker_url, self.folder))
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, **options: Any) -> subprocess.Popen[bytes]:
        """Start a worker process and return once it is in the table of workers."""
        command = [sys.executable, "-m", "worker_parts", self.url, self.broker_url, str(self.folder), self.recorder.log]
        with (self.folder / "worker.log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen([*command, json.dumps(options)], env=environment, stderr=log)
        self.processes.append(process)
        return process

    def add(self, model: str = "quick", **given: Any) -> int:
        """Schedule a job and ring."""
        job_id = schedule(self.ledger, model=model, **given)
        self.bell.ring("inference-cpu")
        return job_id

    def wait(self, job_id: int, *states: JobState, timeout: float = 60.0) -> Job:
        def reached() -> Job | None:
            job = self.ledger.get(job_id)
            return job if job.state in (states or (JobState.COMPLETED, JobState.CANCELED)) else None

        job = wait_until(reached, timeout=timeout, what=f"job {job_id} is {states or 'over'}")
        assert isinstance(job, Job)
        return job

    def wait_until_begun(self, job_id: int, attempt: int = 1) -> None:
        wait_until(lambda: (job_id, attempt) in self.recorder.events("begun"), what=f"job {job_id} has begun")

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.database.dispose()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Callable[[str, str], Site]]:
    made: list[Site] = []

    def make(url: str, broker_url: str) -> Site:
        made.append(Site(url, broker_url, tmp_path))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture
def small(sites: Callable[[str, str], Site], tmp_path: Path) -> Site:
    """One machine: SQLite and the embedded broker."""
    return sites(sqlite_url(tmp_path), "embedded")


@pytest.fixture(params=["sqlite and embedded", "postgresql and redis"])
def site(request: pytest.FixtureRequest, sites: Callable[[str, str], Site], tmp_path: Path) -> Site:
    if request.param == "sqlite and embedded":
        return sites(sqlite_url(tmp_path), "embedded")
    return sites(request.getfixturevalue("postgres_url"), request.getfixturevalue("redis_url"))


@pytest.mark.slow
def test_three_workers_run_two_hundred_jobs_exactly_once_each(site: Site) -> None:
    for _ in range(3):
        site.start()
    made = [schedule(site.ledger, model="quick") for _ in range(200)]
    site.bell.ring("inference-cpu")
    wait_until(lambda: len(site.ledger.find(state=JobState.COMPLETED, limit=300)) == 200, timeout=120, what="all done")
    assert sorted(site.recorder.events("begun")) == [(job_id, 1) for job_id in made]
    assert sorted(site.recorder.events("completed")) == [(job_id, 1) for job_id in made]


def test_the_job_of_a_killed_worker_runs_again_at_once_on_the_same_host(site: Site) -> None:
    first = site.start(lease=600.0)
    job_id = site.add("slow-4")
    site.wait_until_begun(job_id)
    site.start(lease=600.0)
    first.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    site.wait_until_begun(job_id, attempt=2)
    assert time.monotonic() - killed < 300, "long before the lease ends"
    assert site.wait(job_id).state is JobState.COMPLETED
    assert site.recorder.events("completed") == [(job_id, 2)], "its runner died with it"


def test_a_runner_dies_with_its_worker_whatever_it_is_doing(small: Site) -> None:
    worker = small.start()
    small.wait_until_begun(small.add("hang"))
    [runner] = psutil.Process(worker.pid).children()
    worker.kill()
    worker.wait()
    wait_until(lambda: not runner.is_running(), timeout=10, what="the runner is gone")


@pytest.mark.slow
def test_random_kills_lose_no_job_and_complete_each_once(site: Site) -> None:
    dice = random.Random(7)
    made = [schedule(site.ledger, model="slow-0.2") for _ in range(15)]
    living = [site.start(max_losses=1000) for _ in range(2)]
    for _ in range(12):
        time.sleep(dice.uniform(0.2, 1.5))
        number = dice.randrange(2)
        living[number].kill()
        living[number].wait()
        living[number] = site.start(max_losses=1000)
    for job_id in made:
        assert site.wait(job_id, timeout=120).state is JobState.COMPLETED
    with site.database.read() as session:
        completed = select(func.count()).where(col(AuditEventRow.action) == "job.complete")
        assert session.connection().execute(completed).scalar_one() == len(made)


def test_the_job_of_a_lost_host_runs_again_when_its_lease_ends(small: Site) -> None:
    lost = small.start(host="another-host", lease=2.0)
    job_id = small.add("slow-4")
    small.wait_until_begun(job_id)
    small.start()
    time.sleep(3)
    assert small.ledger.get(job_id).attempt == 1, "its lease is renewed while it lives"
    lost.kill()
    small.wait(job_id)
    completed = wait_until(lambda: small.recorder.events("completed"), what="it is written down, after the commit")
    assert completed in ([(job_id, 2)], [(job_id, 1), (job_id, 2)], [(job_id, 1)])


def test_a_model_that_holds_the_interpreter_does_not_look_dead(small: Site) -> None:
    for host in ("one-host", "another-host"):
        small.start(host=host, lease=1.0)
    job_id = small.add("gil")
    assert small.wait(job_id).state is JobState.COMPLETED
    assert small.recorder.events("begun") == [(job_id, 1)]


def test_cancelling_a_running_job_kills_its_runner_and_frees_the_worker(site: Site) -> None:
    site.start()
    job_id = site.add("slow-60")
    site.wait_until_begun(job_id)
    site.ledger.cancel(job_id)
    job = site.wait(job_id, timeout=20)
    assert job.state is JobState.CANCELED
    assert job.failure is not None
    assert job.failure.code == "cancelled"
    assert site.wait(site.add()).state is JobState.COMPLETED


def test_a_newer_revision_stops_the_older_one_that_runs(small: Site) -> None:
    small.start()
    same = {"study_instance_uid": "1.2", "series_instance_uids": ("1.2.3",)}
    older = small.add("slow-60", **same, revision=1)
    small.wait_until_begun(older)
    newer = small.add("slow-60", **same, revision=2)
    stopped = small.wait(older)
    assert stopped.failure is not None
    assert stopped.failure.code == "superseded"
    small.wait_until_begun(newer)


@pytest.mark.parametrize(
    ("model", "code", "runs", "stage"),
    [
        ("die", "runner-died", 3, Stage.INFER),
        ("memory", "model-out-of-memory", 3, Stage.INFER),
        ("refuse", "gantry-tilt", 1, Stage.READ),
        ("crash", "internal-error", 1, Stage.INFER),
        ("forget", "incomplete", 1, Stage.REGISTER),
    ],
)
def test_a_job_that_fails_ends_with_stage_code_and_reason_and_the_next_one_runs(
    small: Site, model: str, code: str, runs: int, stage: Stage
) -> None:
    small.start()
    job = small.wait(small.add(model))
    assert job.failure is not None
    assert (job.state, job.failure.code, job.failure.stage, job.failure.permanent) == (
        JobState.CANCELED,
        code,
        stage,
        True,
    )
    assert len(small.recorder.events("begun")) == runs
    assert ("SIGSEGV" in job.failure.reason) == (model == "die")
    assert small.wait(small.add()).state is JobState.COMPLETED
    assert "Doe^Jane" not in small.log() + job.failure.reason, "the messages of others stay where they are"


def test_a_job_past_its_time_limit_is_killed(small: Site) -> None:
    small.start(time_limit=1.0)
    job = small.wait(small.add("slow-60"), timeout=30)
    assert job.failure is not None
    assert job.failure.code == "time-limit"


@pytest.mark.slow
def test_a_job_that_kills_its_workers_stops_in_the_end(small: Site) -> None:
    small.start(max_losses=2)
    job_id = small.add("slay")
    for _ in range(2):
        small.processes[-1].wait(60)
        small.start(max_losses=2)
    small.processes[-1].wait(60)
    small.start(max_losses=2)
    job = small.wait(job_id)
    assert job.failure is not None
    assert (job.attempt, job.failure.code) == (3, "worker-lost")


def test_an_urgent_job_overtakes_those_that_wait(small: Site) -> None:
    ordinary = [schedule(small.ledger, model="slow-0.5") for _ in range(3)]
    small.start()
    small.wait_until_begun(ordinary[0])
    urgent = small.add(priority=Priority.HIGH)
    for job_id in (*ordinary, urgent):
        small.wait(job_id)
    assert [job for job, _ in small.recorder.events("begun")] == [ordinary[0], urgent, *ordinary[1:]]


def test_progress_is_seen_while_a_job_runs(small: Site) -> None:
    small.start()
    job_id = small.add("slow-8")
    wait_until(lambda: 0 < small.ledger.get(job_id).progress < 100, what="progress")
    assert small.ledger.get(job_id).stage is Stage.INFER


def test_a_worker_told_to_stop_lets_a_short_job_end(small: Site) -> None:
    worker = small.start(grace=20.0)
    job_id = small.add("slow-2")
    waiting = small.add("slow-2")
    small.wait_until_begun(job_id)
    worker.terminate()
    assert worker.wait(30) == 0
    assert small.ledger.get(job_id).state is JobState.COMPLETED
    assert small.ledger.get(waiting).attempt == 0


def test_a_worker_told_to_stop_gives_a_long_job_back(small: Site) -> None:
    worker = small.start(grace=1.0)
    job_id = small.add("slow-60")
    small.wait_until_begun(job_id)
    worker.terminate()
    assert worker.wait(30) == 0
    job = small.ledger.get(job_id)
    assert (job.state, job.failure) == (JobState.SCHEDULED, None)
    assert small.ledger.claim("inference-cpu", "me", 30.0) is not None


def test_work_is_found_without_any_ring(small: Site) -> None:
    small.start()
    small.wait(small.add())
    job_id = schedule(small.ledger, model="quick")  # nobody rings
    assert small.wait(job_id).state is JobState.COMPLETED


def test_a_broker_that_is_away_loses_nothing_and_is_heard_again(
    sites: Callable[[str, str], Site], redis_server: RedisServer, tmp_path: Path
) -> None:
    site = sites(sqlite_url(tmp_path), redis_server.url)
    site.start(sweep=1.0)
    assert site.wait(site.add()).state is JobState.COMPLETED
    redis_server.kill()
    assert site.wait(site.add()).state is JobState.COMPLETED, "the sweep finds it"
    redis_server.start()
    redis_server.flush()
    assert site.wait(site.add()).state is JobState.COMPLETED
    assert site.log().count("doorbell is silent") <= 1


def test_a_broker_that_forgets_everything_loses_nothing(
    sites: Callable[[str, str], Site], redis_server: RedisServer, postgres_url: str
) -> None:
    site = sites(postgres_url, redis_server.url)
    made = [site.add() for _ in range(20)]
    for _ in range(2):
        site.start(sweep=1.0)
    for _ in range(10):
        redis_server.flush()
        made.append(site.add("slow-0.1"))
    for job_id in made:
        assert site.wait(job_id).state is JobState.COMPLETED
    assert sorted(site.recorder.events("begun")) == [(job_id, 1) for job_id in made]


def test_a_database_that_is_away_for_a_while_costs_neither_worker_nor_job(
    sites: Callable[[str, str], Site], postgres_server: PostgresServer
) -> None:
    site = sites(postgres_server.new_database(), "embedded")
    worker = site.start()
    job_id = site.add("slow-5")
    site.wait_until_begun(job_id)
    postgres_server.stop()
    time.sleep(2)
    postgres_server.start()
    assert site.wait(job_id).state is JobState.COMPLETED
    assert site.wait(site.add()).state is JobState.COMPLETED
    assert worker.poll() is None


def test_a_pipeline_that_cannot_be_made_leaves_the_jobs_waiting(small: Site) -> None:
    broken = Path(small.recorder.log + ".broken")
    broken.touch()
    small.start()
    job_id = small.add()
    wait_until(lambda: "no runner" in small.log(), what="the log says so")
    job = small.ledger.get(job_id)
    assert (job.state, job.attempt) == (JobState.SCHEDULED, 0)
    broken.unlink()
    assert small.wait(job_id).state is JobState.COMPLETED


def test_the_worker_itself_imports_no_model_library() -> None:
    code = (
        "import sys, imaging_ai.worker.worker;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'monai', 'highdicom', 'pynetdicom')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
