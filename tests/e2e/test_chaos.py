"""Nothing that was acknowledged is lost, and every series ends with one set of results, whatever is killed when.

`CHAOS_KILLS` says how often (`make chaos`: 200 on each pair of back ends), `CHAOS_SEED` repeats a run's choices.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from e2e import chaos_checks as check
from e2e.chaos_modality import Modality, Pushed, phantom
from e2e.chaos_pacs import Pacs
from e2e.chaos_roles import Killer
from e2e.server import Server
from phantoms import threshold_bundle
from services import wait_until

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("CHAOS_KILLS", "16"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)

SETTINGS = """
[[destinations]]
name = "pacs"
ae_title = "{ae_title}"
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
max_attempts = 20  # a runner that is killed counts as an attempt that failed

[storage]
min_free_mb = 64
"""

#: So many series may wait for results before the modality sends only what no rule takes.
_BACKLOG = 12


@pytest.fixture(autouse=True)
def _quiet() -> None:
    """Thousands of connections are refused while the receiver is dead; pynetdicom would tell of each."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs()
    pacs.start()
    yield pacs
    pacs.stop()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, back_ends: dict[str, str], pacs: Pacs) -> Iterator[Server]:
    settings = SETTINGS.format(ae_title=pacs.ae_title, port=pacs.port)
    server = Server(tmp_path_factory.mktemp("chaos"), settings, {**back_ends, "OMP_NUM_THREADS": "1"})
    threshold_bundle(server.models / "threshold")
    assert server.database  # its tables, before two roles would make them at once
    for role in ("receive", "describe", "work"):
        server.start(role)
    wait_until(server.echo, 60, what="the receiver answers")
    yield server
    server.stop()


def series_maker(server: Server) -> Callable[[int], Pushed]:
    """Makes series of all kinds: for the log and for files of their own, for the model and for nobody."""
    rng = random.Random(f"series {SEED}")

    def make(number: int) -> Pushed:
        waiting = server.rows("SELECT count(*) AS n FROM job WHERE state IN ('SCHEDULED', 'IN PROGRESS')")[0].n
        modality = "CT" if waiting < _BACKLOG and rng.random() < 0.7 else "MR"
        size = 736 if rng.random() < 0.15 else rng.randint(32, 64)
        return phantom(f"chaos {SEED} {number}", modality=modality, slices=rng.randint(4, 8), size=size)

    return make


def test_nothing_is_lost_and_nothing_is_done_twice_whatever_is_killed(
    server: Server, back_ends: dict[str, str], pacs: Pacs
) -> None:
    broker = back_ends.get("IMAGING_AI_BROKER_URL")
    flush = redis.Redis.from_url(broker).flushall if broker else None
    modality = Modality([server.dicom_port], series_maker(server), seed=SEED)
    killer = Killer(server, modality, SEED, flush)
    began = time.monotonic()
    modality.start()
    killer.run(KILLS)
    killed = time.monotonic()
    modality.finish(120)
    acknowledged = time.monotonic()
    try:
        assert not killer.failures
        assert not modality.unexpected
        assert all(one.complete for one in modality.pushed), "not everything was acknowledged at last"
        wait_until(lambda: check.settled(server), 180, 0.5, what=f"everything settled\n{server.logs()}")
        assert check.instances(server, modality.pushed) == []
        assert check.jobs(server, modality.pushed) == []
        assert check.deliveries(server, pacs) == []
        assert check.index(server) == []
        for process in server.processes.values():
            process.stop()
        recover(server)
        assert check.index(server) == []
        assert check.files(server) == []
    except BaseException:
        print(f"repeat with CHAOS_SEED={SEED} CHAOS_KILLS={KILLS}")
        raise
    finally:
        print(f"\n{figures(server, modality, killer, pacs)}")
        spent = f"{killed - began:.0f} s of kills, {acknowledged - killed:.0f} s to the last answer"
        print(f"{spent}, {time.monotonic() - acknowledged:.0f} s to settle and check; seed {SEED}")


def recover(server: Server) -> None:
    """Start a receiver, which recovers what others left, and end it again."""
    receiver = server.start("receive")
    wait_until(server.echo, 60, what="the receiver answers")
    receiver.stop()


def figures(server: Server, modality: Modality, killer: Killer, pacs: Pacs) -> str:
    """What happened, in one line."""
    (row,) = server.rows(
        "SELECT count(*) AS jobs, sum(CASE WHEN state = 'COMPLETED' THEN 1 ELSE 0 END) AS completed, "
        "sum(CASE WHEN attempt > 1 THEN attempt - 1 ELSE 0 END) AS again, max(attempt) - 1 AS most FROM job"
    )
    kills = ", ".join(f"{count} {what}" for what, count in sorted(killer.kills.items()))
    stores = pacs.held().values()
    return (
        f"kills: {kills}; instances acknowledged: {modality.acknowledgements} of {len(modality.pushed)} series, "
        f"{modality.lost} answers lost, {modality.refused} refused for now; "
        f"jobs: {row.jobs}, {row.completed} completed, {row.again} further attempts (at most {row.most} for one); "
        f"delivered: {len(stores)} results, "
        f"{sum(len(each) - 1 for each in stores)} sent again before they were confirmed"
    )
