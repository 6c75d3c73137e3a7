"""What the server needs goes away and comes back: nothing is lost, nobody is told otherwise, the roles stay up."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from e2e import chaos_checks as check
from e2e.chaos_modality import Modality, Pushed, phantom
from e2e.chaos_pacs import Pacs
from e2e.server import Server
from imaging_ai.core.job import JobState
from phantoms import threshold_bundle
from services import missing, wait_until
from services.postgres import PostgresServer
from services.redis import RedisServer

pytestmark = [pytest.mark.service, pytest.mark.slow]

SETTINGS = """
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}

[[rules]]
name = "bright things"
when = {{ Modality = "CT", instances = ">= 4" }}
run = ["threshold"]
send = ["pacs"]

[routing]
quiet_seconds = 0.3
silence_seconds = 2.0

[worker]
threads = 1
max_attempts = 5
"""

ROLES = ("receive", "describe", "work")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs()
    pacs.start()
    yield pacs
    pacs.stop()


@pytest.fixture
def started(tmp_path: Path, pacs: Pacs) -> Iterator[Callable[..., Server]]:
    """Starts the roles on given settings, and holds at the end that none of them died."""
    servers: list[Server] = []

    def start(environment: Mapping[str, str] | None = None, folder: Path | None = None, settings: str = "") -> Server:
        text = settings or SETTINGS.format(port=pacs.port)
        server = Server(folder or tmp_path / "server", text, {"OMP_NUM_THREADS": "1", **(environment or {})})
        servers.append(server)
        if not settings:
            threshold_bundle(server.models / "threshold")
        assert server.database
        for role in ROLES:
            server.start(role)
        wait_until(server.echo, 60, what="the receiver answers")
        return server

    yield start
    alive = [process.alive for server in servers for process in server.processes.values()]
    logs = "\n".join(server.logs() for server in servers)
    for server in servers:
        server.stop()
    assert all(alive), f"a role died\n{logs}"


def modality_of(server: Server, name: str, **options: int) -> Modality:
    def make(number: int) -> Pushed:
        return phantom(f"{name} {number}", slices=5, size=736 if number % 5 == 4 else 40)

    return Modality([server.dicom_port], make, **options)


def all_is_well(server: Server, modality: Modality, pacs: Pacs) -> None:
    wait_until(lambda: check.settled(server), 120, 0.2, what=f"everything settled\n{server.logs()}")
    assert modality.unexpected == []
    assert check.instances(server, modality.pushed) == []
    assert check.jobs(server, modality.pushed) == []
    assert check.deliveries(server, pacs) == []
    assert check.index(server) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["shut down", "crashed"])
def test_the_database_goes_away_in_the_middle_of_everything(
    how: signal.Signals, started: Callable[..., Server], postgres_server: PostgresServer, redis_url: str, pacs: Pacs
) -> None:
    url = postgres_server.new_database()
    server = started({"IMAGING_AI_DATABASE_URL": url, "IMAGING_AI_BROKER_URL": redis_url})
    modality = modality_of(server, f"database {how}")
    modality.start()
    wait_until(lambda: server.jobs(state=JobState.COMPLETED), 60, what=f"a job\n{server.logs()}")
    assert postgres_server.process is not None
    postgres_server.process.send_signal(how)
    try:
        postgres_server.process.wait(30)
        time.sleep(0.2)
        acknowledged = modality.acknowledgements
        time.sleep(8)  # longer than the receiver waits for it
        assert modality.acknowledgements == acknowledged, "success although nothing could be indexed"
    finally:
        postgres_server.start()
    assert modality.refused > 0, "told to come again"
    wait_until(lambda: modality.acknowledgements > acknowledged + 10, 30, what="instances are taken again")
    modality.finish(60)
    all_is_well(server, modality, pacs)


def test_redis_goes_away_comes_back_and_forgets(
    started: Callable[..., Server], redis_server: RedisServer, pacs: Pacs
) -> None:
    server = started({"IMAGING_AI_BROKER_URL": redis_server.url})
    modality = modality_of(server, "redis", pause=0.05)
    modality.start()
    done = completed(server)
    wait_until(lambda: completed(server) > done, 60, what=f"a job\n{server.logs()}")
    redis_server.kill()
    time.sleep(1)
    done, acknowledged = completed(server), modality.acknowledgements
    wait_until(lambda: modality.acknowledgements > acknowledged + 20, 30, what="instances are taken without Redis")
    wait_until(lambda: completed(server) > done, 30, what="jobs are done without Redis")
    redis_server.start()
    for _ in range(5):
        redis_server.flush()
        time.sleep(0.3)
    modality.finish(60)
    all_is_well(server, modality, pacs)
    assert "Traceback" not in server.logs()


def completed(server: Server) -> int:
    return len(server.jobs(state=JobState.COMPLETED))


def test_a_destination_vanishes_and_comes_back_by_itself_to_everything(
    started: Callable[..., Server], pacs: Pacs
) -> None:
    server = started()
    modality = modality_of(server, "destination", count=6)
    modality.start()
    wait_until(lambda: pacs.stores, 60, what=f"a delivery\n{server.logs()}")
    pacs.stop()
    modality.join(60)
    waiting = "SELECT count(*) AS n FROM delivery WHERE state = 'WAITING' AND attempts > 0 AND reason <> ''"
    wait_until(lambda: server.rows(waiting)[0].n, 60, what="a delivery that waits, with the reason")
    pacs.start()
    all_is_well(server, modality, pacs)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        missing("the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("reserve_mb", [0, 32])
def test_a_disk_that_fills_refuses_what_comes_and_nothing_that_came_is_lost(
    reserve_mb: int, small_disk: Path, started: Callable[..., Server], pacs: Pacs
) -> None:
    server = started({"IMAGING_AI_STORAGE_MIN_FREE_MB": str(reserve_mb)}, folder=small_disk / "server")
    modality = modality_of(server, f"disk {reserve_mb}", pause=0.05)
    modality.start()
    wait_until(lambda: completed(server), 60, what=f"a job\n{server.logs()}")
    ballast = small_disk / "ballast"
    fill(ballast)
    try:
        wait_until(lambda: modality.refused > 3, 60, what="instances are refused")
        time.sleep(2)
        assert server.echo()
    finally:
        ballast.unlink()
    acknowledged = modality.acknowledgements
    wait_until(lambda: modality.acknowledgements > acknowledged + 20, 60, what="instances are taken again")
    modality.finish(60)
    for job in server.jobs(state=JobState.CANCELED):
        if job.model and job.failure is not None and job.failure.code != "superseded":
            server.cli("jobs", "retry", str(job.id))  # the disk was full for longer than its attempts
    all_is_well(server, modality, pacs)
    assert server.rows("PRAGMA integrity_check")[0][0] == "ok"


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


RULE = """
[[rules]]
name = "{name}"
when = {{ Modality = "CT", SeriesDescription = "{name}" }}
run = ["{name}"]
"""
#: What each model does, and what the job then says.
MISBEHAVIOURS = {
    "raises": ("infer", "model-failed"),
    "answers-nan": ("infer", "model-failed"),
    "never-ends": ("infer", "time-limit"),
    "eats-memory": ("infer", "model-out-of-memory"),
}
LIMITS = """
[worker]
threads = 1
time_limit = 15
memory_limit_mb = 1500
max_attempts = 2

[routing]
quiet_seconds = 0.3
"""


def bundles(folder: Path) -> None:
    """A well-behaved model, and one for each way to go wrong."""
    threshold_bundle(folder / "well-behaved")
    threshold_bundle(folder / "raises")
    inference = folder / "raises" / "configs" / "inference.json"
    inference.write_text(inference.read_text().replace('"in_channels": 1', '"in_channels": 3'))
    torch.save({"weight": torch.zeros(2, 3, 1, 1, 1), "bias": torch.zeros(2)}, folder / "raises/models/model.pt")
    threshold_bundle(folder / "answers-nan")
    broken = {"weight": torch.full((2, 1, 1, 1, 1), 3e38), "bias": torch.zeros(2)}
    torch.save(broken, folder / "answers-nan/models/model.pt")
    threshold_bundle(folder / "never-ends", window=4, overlap=0.75)
    threshold_bundle(folder / "eats-memory", pixdim=(0.04, 0.04, 0.04))


@pytest.fixture
def misbehaving(started: Callable[..., Server], tmp_path: Path) -> Server:
    folder = tmp_path / "server"
    bundles(folder / "data" / "models")
    rules = "".join(RULE.format(name=name) for name in ("well-behaved", *MISBEHAVIOURS))
    return started(folder=folder, settings=rules + LIMITS)


def test_a_model_that_misbehaves_is_named_in_the_job_and_the_next_job_runs(misbehaving: Server) -> None:
    server = misbehaving
    for name, expected in MISBEHAVIOURS.items():
        bad, good = described(name, size=160 if name == "never-ends" else 48), described("well-behaved", name)
        for one in (bad, good):
            modality = Modality([server.dicom_port], lambda _n, one=one: one, count=1, threads=1)
            modality.start()
            modality.join(60)
        (failed,) = server.wait_jobs(1, bad.study_instance_uid, timeout=120)
        assert failed.state is JobState.CANCELED
        assert failed.failure is not None
        assert (failed.failure.stage, failed.failure.code) == expected, failed.failure
        assert failed.failure.permanent
        assert len(failed.failure.reason) > 10
        assert not re.search(r"Phantom|PHANTOM", failed.failure.reason)
        (done,) = server.wait_jobs(1, good.study_instance_uid, timeout=120)
        assert done.state is JobState.COMPLETED, done.failure
        assert failed.failure.reason in server.cli("jobs", "show", str(failed.id)).stdout
    assert server.rows("SELECT count(*) AS n FROM result")[0].n == 2 * len(MISBEHAVIOURS)


def described(name: str, more: str = "", size: int = 48) -> Pushed:
    """A series whose description names the model that shall run."""
    one = phantom(f"misbehaviour {name} {more}", slices=40 if size > 100 else 6, size=size)
    for ds in one.instances:
        ds.SeriesDescription = name
    return one
