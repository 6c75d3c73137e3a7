"""The HTTP server as a process of its own: the real granian, on a free port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlmodel import SQLModel

import ledgers
from imaging_ai.db.engine import Database
from imaging_ai.queue.ledger import Ledger
from services import free_port, wait_until

_PROGRAM = """
import sys
from functools import partial
from imaging_ai import logs
from imaging_ai.serve.server import serve_http

def app(url):
    from imaging_ai.db.engine import Database
    from imaging_ai.queue.ledger import Ledger
    from imaging_ai.serve.app import make_app
    logs.configure()
    database = Database(url)
    return make_app(database, Ledger(database))

if __name__ == "__main__":
    serve_http(partial(app, sys.argv[1]), "127.0.0.1", int(sys.argv[2]), processes=int(sys.argv[3]))
"""


class Server:
    """A running server and the database behind it."""

    def __init__(self, folder: Path, processes: int = 1) -> None:
        self.database = Database(f"sqlite:///{folder / 'index.db'}")
        SQLModel.metadata.create_all(self.database.engine)
        self.port = free_port()
        program = folder / "server.py"
        program.write_text(_PROGRAM)
        self.log = folder / "log.txt"
        command = [sys.executable, str(program), self.database.url, str(self.port), str(processes)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}")
        wait_until(self.answers, what=f"the server answers; {self.log.read_text()}")

    def answers(self) -> bool:
        try:
            return self.client.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def workers(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in listed]

    def stop(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        self.database.dispose()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


def test_the_server_answers_from_the_database(server: Server) -> None:
    job = ledgers.schedule(Ledger(server.database))
    assert [one["id"] for one in server.client.get("/api/jobs").json()["jobs"]] == [job]
    assert server.client.get("/health/ready").json()["status"] == "ready"
    assert "imaging_ai_ledger_jobs" in server.client.get("/metrics").text
    assert server.client.get("/nowhere").headers["content-type"] == "application/problem+json"


def test_requests_in_parallel_are_all_answered(server: Server) -> None:
    for _ in range(20):
        ledgers.schedule(Ledger(server.database))
    with httpx.Client(base_url=server.client.base_url) as other:
        answers = [client.get("/api/studies") for _ in range(20) for client in (server.client, other)]
    assert {answer.status_code for answer in answers} == {200}


def test_the_server_is_light(server: Server) -> None:
    server.client.get("/api/jobs")
    for pid in (server.process.pid, *server.workers()):
        status = Path(f"/proc/{pid}/status").read_text()
        kilobytes = int(status.split("VmHWM:")[1].split()[0])
        assert kilobytes < 250 << 10


def test_the_log_has_no_requests_in_it(server: Server) -> None:
    server.client.get("/api/jobs?study=1.2.3.4.5")
    server.client.get("/nowhere?PatientName=Secret")
    assert "Secret" not in server.log.read_text()


def test_the_server_stops_when_asked_and_lets_go_of_its_port(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert not server.answers()


def test_a_killed_server_leaves_no_worker_behind(server: Server) -> None:
    workers = server.workers()
    assert workers
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not any(_lives(pid) for pid in workers), what="the workers are gone")


def test_a_worker_that_dies_is_replaced(server: Server) -> None:
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: server.workers() not in ([], [worker]) and server.answers(), what="a new worker answers")


def _lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
