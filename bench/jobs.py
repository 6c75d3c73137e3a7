"""A queue of jobs on one worker, with one or more at once, and what a cold start costs: `python bench/jobs.py`.

    python bench/jobs.py BUNDLE SERIES [--jobs 8] [--slots 1 2] [--kill]

A worker process (SQLite, embedded queue) runs the bundle on the series so many times. Printed for each number of slots:
seconds from the start of the worker to its first result; the first job and one that follows it; jobs a minute and
processor seconds a job of the queue that follows; with `--kill`, the job after the model's process was killed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from pydicom import dcmread

from e2e.server import Server
from imaging_ai import config, wiring
from imaging_ai.catalog import Catalog
from imaging_ai.core.job import Job, JobState
from imaging_ai.queue.broker import Doorbell, make_broker
from ledgers import schedule
from shelf import keep


class Bench:
    """A worker, and what it shall run."""

    def __init__(self, folder: Path, bundle: Path, series: Path, slots: int) -> None:
        self.server = Server(folder, f"[worker]\nslots = {slots}\n", {"IMAGING_AI_WORKER_WARM_UP": "true"})
        shutil.copytree(bundle, self.server.models / "bench")
        settings = config.load(self.server.config, self.server.environment)
        self.database = wiring.make_current_database(settings)
        self.ledger = wiring.make_ledger(settings, self.database)
        archive = wiring.make_archive(settings, self.database)
        files = [file for file in sorted(series.rglob("*")) if file.is_file()]
        headers = [dcmread(file, stop_before_pixels=True) for file in files]
        for file in files:
            keep(archive, file.read_bytes())
        archive.close()
        self.given: dict[str, Any] = {
            "study_instance_uid": str(headers[0].StudyInstanceUID),
            "series_instance_uids": (str(headers[0].SeriesInstanceUID),),
            "inputs": tuple(str(ds.SOPInstanceUID) for ds in headers),
            "model": "bench",
            "model_digest": Catalog([self.server.models]).get("bench").digest,
        }

    def run(self, count: int) -> list[Job]:
        """Run so many jobs and return them as they ended."""
        ledger = self.ledger
        made = [schedule(ledger, **self.given) for _ in range(count)]
        Doorbell(make_broker("embedded", self.server.folder / "data" / "run")).ring("inference-cpu")
        jobs = [ledger.get(one) for one in made]
        while not all(job.state in (JobState.COMPLETED, JobState.CANCELED) for job in jobs):
            time.sleep(0.02)
            jobs = [ledger.get(one) for one in made]
        assert all(job.state is JobState.COMPLETED for job in jobs), [job.failure for job in jobs]
        return jobs

    def processes(self) -> list[psutil.Process]:
        """The worker, and all that it has started."""
        worker = psutil.Process(self.server.processes["work"].pid)
        return [worker, *worker.children(recursive=True)]

    def busy(self) -> float:
        """Processor seconds of all of them, so far."""
        return sum(sum(one.cpu_times()[:2]) for one in self.processes())


def seconds(job: Job) -> float:
    """From the claim to the end."""
    assert job.started_at is not None and job.finished_at is not None
    return job.finished_at - job.started_at


def measure(bench: Bench, count: int, *, kill: bool) -> dict[str, Any]:
    """Start the worker and run what is asked."""
    began = time.time()
    bench.server.start("work")
    (first,) = bench.run(1)
    (second,) = bench.run(1)
    assert first.finished_at is not None
    found: dict[str, Any] = {"first_result_s": first.finished_at - began, "first_job_s": seconds(first)}
    found["warm_job_s"] = seconds(second)
    if kill:
        largest = max(bench.processes(), key=lambda one: one.memory_info().rss)
        largest.kill()
        largest.wait(30)
        began = time.time()
        (after,) = bench.run(1)
        assert after.finished_at is not None
        found["after_a_kill_s"] = after.finished_at - began
    if count:
        busy = bench.busy()
        jobs = bench.run(count)
        ends = [job.finished_at or 0.0 for job in jobs]
        starts = [job.started_at or 0.0 for job in jobs]
        found["jobs_a_minute"] = 60 * count / (max(ends) - min(starts))
        found["cpu_s_a_job"] = (bench.busy() - busy) / count
        parts = [job.provenance["seconds"] for job in jobs]
        found["stages"] = {name: statistics.median(one[name] for one in parts) for name in parts[0]}  # type: ignore[index, attr-defined]
    found["memory_mb"] = sum(one.memory_full_info().uss for one in bench.processes()) >> 20
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("series", type=Path)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    for slots in options.slots:
        with tempfile.TemporaryDirectory() as name:
            bench = Bench(Path(name), options.bundle, options.series, slots)
            try:
                found = measure(bench, options.jobs, kill=options.kill)
            finally:
                bench.server.stop()
        print(json.dumps({"slots": slots, **found}, default=float))


if __name__ == "__main__":
    main()
