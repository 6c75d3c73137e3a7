"""Two receivers on one port and three workers, on PostgreSQL and Redis: what is to be done is done once."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from e2e import chaos_checks as check
from e2e.chaos_modality import Modality, phantom
from e2e.chaos_pacs import Pacs
from e2e.server import Server
from phantoms import threshold_bundle
from services import wait_until
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

[dicom]
share_port = true

[routing]
quiet_seconds = 0.5

[worker]
threads = 1
"""

SERIES = 30


def test_every_job_is_done_once_and_the_work_is_shared(
    tmp_path: Path, postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    pacs = Pacs()
    pacs.start()
    urls = {"IMAGING_AI_DATABASE_URL": postgres_server.new_database(), "IMAGING_AI_BROKER_URL": redis_server.url}
    server = Server(tmp_path / "server", SETTINGS.format(port=pacs.port), {**urls, "OMP_NUM_THREADS": "1"})
    threshold_bundle(server.models / "threshold", window=16, overlap=0.5)
    assert server.database
    receivers, workers = ("receive-1", "receive-2"), ("work-1", "work-2", "work-3")
    try:
        for name in (*receivers, "describe", *workers):
            server.start(name.split("-", maxsplit=1)[0], name)
        wait_until(lambda: all(_said(server, name, "receive: ") for name in receivers), 60, what="two receivers")
        wait_until(lambda: all(_said(server, name, "is ready") for name in workers), 150, what="three warm workers")
        modality = Modality([server.dicom_port], lambda n: phantom(f"many {n}"), count=SERIES, threads=6, pause=0.005)
        modality.start()
        modality.join(120)
        assert all(one.complete for one in modality.pushed)
        wait_until(lambda: check.settled(server), 120, 0.2, what=f"everything settled\n{server.logs()}")
        assert check.jobs(server, modality.pushed, at_most_attempts=1) == []
        assert check.instances(server, modality.pushed) == []
        assert check.deliveries(server, pacs) == []
        assert check.index(server) == []
        assert all(len(each) == 1 for each in pacs.held().values()), "nothing was sent twice"
        assert all(_said(server, name, "association with MODALITY ended by release") for name in receivers)
        begun = [_said(server, name, r"attempt \d+ begins") for name in workers]
        # A series whose association broke may have settled in two parts: then one row may say that no rule matched.
        assert sum(begun) == sum(job.attempt for job in server.jobs()) >= SERIES
        assert sum(count > 0 for count in begun) > 1, "one worker did everything"
    finally:
        server.stop()
        pacs.stop()


def _said(server: Server, name: str, pattern: str) -> int:
    """How many lines of a role's log match."""
    log = server.folder / f"{name}.log"
    return len(re.findall(pattern, log.read_text())) if log.exists() else 0
