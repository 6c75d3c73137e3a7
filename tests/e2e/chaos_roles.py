"""Killing roles at random moments and starting them again at once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import psutil

from e2e.chaos_modality import Modality
from e2e.server import Process, Server

__all__ = ["Killer", "runners_of"]

#: How long a killer waits for something worth interrupting before it kills anyway.
_PATIENCE = 60.0


def runners_of(worker: Process) -> list[psutil.Process]:
    """The runner processes of a worker, and the zygote of their models' processes."""
    try:
        return psutil.Process(worker.pid).children()
    except psutil.NoSuchProcess:
        return []


class Killer:
    """Two threads: one kills the receiver, the other the worker, its runner, or worker and receiver together."""

    def __init__(self, server: Server, modality: Modality, seed: int, flush: Callable[[], None] | None = None) -> None:
        self.kills: Counter[str] = Counter()
        self.failures: list[str] = []
        self._server, self._modality, self._flush, self._seed = server, modality, flush, seed
        self._restarting = threading.Lock()

    def run(self, kills: int) -> None:
        """Kill so many times, and return when all roles have been started again."""
        receiver_kills = kills * 3 // 5
        plans = ((self._receiver, receiver_kills), (self._worker, kills - receiver_kills))
        threads = [threading.Thread(target=self._repeat, args=plan, daemon=True) for plan in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _repeat(self, kill: Callable[[random.Random], None], times: int) -> None:
        rng = random.Random(f"{kill.__name__} {self._seed}")
        for _ in range(times):
            try:
                kill(rng)
            except Exception as error:  # the edge of a thread: the test must hear of it
                self.failures.append(f"{kill.__name__}: {error!r}")
                return

    def _receiver(self, rng: random.Random) -> None:
        """Kill it while it receives: after it acknowledged some more, or as it starts."""
        if rng.random() < 0.85:
            enough = self._modality.acknowledgements + rng.randint(1, 60)
            self._wait(lambda: self._modality.acknowledgements >= enough)
            time.sleep(rng.uniform(0, 0.1))
        else:
            time.sleep(rng.uniform(0, 1.5))
        self._kill("receive")
        self.kills["receiver"] += 1
        if rng.random() < 0.2:  # with it, and not for it: the describer reads what recovery may move
            self._kill("describe")

    def _worker(self, rng: random.Random) -> None:
        """Kill it while a job runs, after it did some, or as it starts, routes and delivers."""
        if rng.random() < 0.6:
            enough = self._completed() + rng.randint(0, 4)
            self._wait(lambda: self._completed() >= enough and self._job_runs())
            time.sleep(rng.uniform(0, 1.0))
        else:
            time.sleep(rng.uniform(0.1, 3.0))
        if self._flush is not None and rng.random() < 0.4:
            self._flush()
            self.kills["(flush)"] += 1
        victim = rng.choices(("runner", "worker", "both"), (4, 4, 2))[0]
        runners = runners_of(self._server.processes["work"])
        if victim == "runner" and runners:
            rng.choice(runners).kill()
        else:
            victim = "worker" if victim == "runner" else victim
            if victim == "both":
                self._kill("receive", "work")
            else:
                self._kill("work")
        self.kills[victim] += 1

    def _kill(self, *roles: str) -> None:
        with self._restarting:
            for role in roles:
                self._server.processes[role].kill()
            for role in roles:
                self._server.start(role)

    def _job_runs(self) -> bool:
        owner = f"%:{self._server.processes['work'].pid}:%"
        query = "SELECT count(*) AS n FROM job WHERE state = 'IN PROGRESS' AND lease_owner LIKE :owner"
        return bool(self._server.rows(query, owner=owner)[0].n)

    def _completed(self) -> int:
        return int(self._server.rows("SELECT count(*) AS n FROM job WHERE state = 'COMPLETED'")[0].n)

    @staticmethod
    def _wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and not condition():
            time.sleep(0.03)
