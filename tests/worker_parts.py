"""A worker process for tests, and the pipeline of its runners: the name of a job's model says what happens to it.

``python -m worker_parts URL BROKER RUN_DIR LOG [JSON options]`` runs a worker until it gets SIGTERM.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging_ai.core.job import Failure, Stage
from imaging_ai.db.engine import Database
from imaging_ai.errors import ModelOutOfMemory, SeriesRefused
from imaging_ai.queue.broker import make_broker
from imaging_ai.queue.ledger import Ledger
from imaging_ai.queue.presence import Presence
from imaging_ai.worker.inference import Limits
from imaging_ai.worker.messages import PipelineSpec, Report
from imaging_ai.worker.worker import Tasks, Worker, WorkerOptions

_TILTED = Failure(Stage.READ, "gantry-tilt", "the gantry is tilted", permanent=True)


@dataclass(frozen=True)
class Recorder:
    """Where runs are recorded: one line ``job attempt event`` each, appended in one write."""

    url: str
    log: str

    def write(self, *words: object) -> None:
        with Path(self.log).open("a") as log:
            log.write(" ".join(map(str, words)) + "\n")

    def events(self, event: str) -> list[tuple[int, int]]:
        lines = [line.split() for line in Path(self.log).read_text().splitlines()] if Path(self.log).exists() else []
        return [(int(job), int(attempt)) for job, attempt, what in lines if what == event]


class TestPipeline:
    """Does what the model of the job says: `quick`, `slow-SECONDS`, `forget` (to complete), or a method below.

    `report` is refused with a report, and thus completes.
    """

    __test__ = False

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.ledger = Ledger(Database(recorder.url, pool_size=2))

    def run(self, job_id: int, attempt: int, report: Report) -> float | None:
        self.recorder.write(job_id, attempt, "begun")
        report(10, Stage.INFER)
        job = self.ledger.get(job_id)
        model = job.model
        if model.startswith("slow-"):
            for percent in range(10, 100, 10):
                time.sleep(float(model.removeprefix("slow-")) / 10)
                report(percent, Stage.INFER)
        elif hasattr(self, f"_{model}"):
            getattr(self, f"_{model}")()
        if model != "forget":
            with self.ledger.database.write() as session:
                self.ledger.complete(session, job_id, attempt, {}, _TILTED if model == "report" else None)
        self.recorder.write(job_id, attempt, "completed")
        return job.parameters.get("share")  # type: ignore[return-value]

    def _gil(self) -> None:
        re.match(r"(a|a)*b", "a" * 26)  # the regular expression engine never gives the interpreter away

    def _hang(self) -> None:
        time.sleep(60)

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def _slay(self) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(30)

    def _refuse(self) -> None:
        raise SeriesRefused("gantry-tilt", "the gantry is tilted")

    def _memory(self) -> None:
        raise ModelOutOfMemory("no memory left")

    def _crash(self) -> None:
        raise ValueError("^".join(("Doe", "Jane")))  # a message of others may carry anything


def make_pipeline(given: tuple[str, str], _zygote: int = -1) -> TestPipeline:
    recorder = Recorder(*given)
    if Path(recorder.log + ".broken").exists():
        raise ImportError("the pipeline cannot be made")
    return TestPipeline(recorder)


def main(url: str, broker: str, run_dir: str, log: str, options: str = "{}") -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    given: dict[str, Any] = json.loads(options)
    limits = Limits(lambda _: given.get("time_limit", 60.0))
    database = Database(url)
    ledger = Ledger(database, retry_after=given.get("retry_after", 0.1), max_losses=given.get("max_losses", 20))
    worker = Worker(
        ledger,
        make_broker(broker, Path(run_dir)),
        Presence(Path(run_dir), host=given.get("host")),
        Tasks(PipelineSpec("worker_parts:make_pipeline", (url, log))),
        WorkerOptions(
            queues=("inference-cpu",),
            slots=given.get("slots", 1),
            warm_up=given.get("warm_up", False),
            lease_seconds=given.get("lease", 30.0),
            sweep_interval=given.get("sweep", 0.5),
            grace_seconds=given.get("grace", 5.0),
            limits=limits,
        ),
    )
    worker.handle_signals()
    worker.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
