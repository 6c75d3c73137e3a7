"""How the jobs that ended are counted."""

from __future__ import annotations

from pathlib import Path

from imaging_ai import metrics
from imaging_ai.core.job import JobState
from imaging_ai.queue.ledger import Ledger
from imaging_ai.worker.inference import Inference, Limits
from imaging_ai.worker.messages import PipelineSpec
from ledgers import open_database, schedule, sqlite_url

OUTCOMES = {
    "quick": ("completed", JobState.COMPLETED),
    "report": ("refused", JobState.CANCELED),
    "refuse": ("gantry-tilt", JobState.CANCELED),
    "forget": ("incomplete", JobState.CANCELED),
}


def counted(model: str, outcome: str) -> float:
    return metrics.JOBS.labels(model, outcome)._value.get()


def test_a_job_counts_as_what_became_of_it(tmp_path: Path) -> None:
    database = open_database(sqlite_url(tmp_path))
    ledger = Ledger(database)
    before = {model: counted(model, outcome) for model, (outcome, _) in OUTCOMES.items()}
    jobs = {schedule(ledger, model=model): model for model in OUTCOMES}
    inference = Inference(
        ledger,
        "here",
        ["inference-cpu"],
        PipelineSpec("worker_parts:make_pipeline", (sqlite_url(tmp_path), str(tmp_path / "runs"))),
        warm_up=False,
        lease_seconds=30.0,
        limits=Limits(),
        ring=lambda _queue: None,
        on_complete=lambda: None,
    )
    try:
        assert all(inference.step() for _ in jobs)
    finally:
        inference.close()
    for job_id, model in jobs.items():
        outcome, state = OUTCOMES[model]
        assert ledger.get(job_id).state is state
        assert counted(model, outcome) == before[model] + 1
    database.dispose()
