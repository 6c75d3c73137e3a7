"""A runner as its worker sees it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from imaging_ai.core.job import JobState, Stage
from imaging_ai.queue.ledger import Ledger
from imaging_ai.sandbox.forked import Zygote
from imaging_ai.worker.child import Runner
from imaging_ai.worker.messages import PipelineSpec
from ledgers import claim, open_database, schedule, sqlite_url
from services import wait_until
from zygotes import let_live


def test_a_runner_whose_watcher_fails_has_no_word_left_for_the_next_job(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    ledger = Ledger(open_database(url))
    runner = Runner(PipelineSpec("worker_parts:make_pipeline", (url, str(tmp_path / "log"))))
    schedule(ledger, model="slow-0.5")
    schedule(ledger, model="refuse")

    def fail(_percent: int, _stage: Stage) -> None:
        raise LookupError("a bug")

    try:
        assert runner.start() is None
        with pytest.raises(LookupError):
            runner.run(claim(ledger), fail, lambda: None)
        assert not runner.alive
        assert not runner.busy
        assert runner.start() is None
        job = claim(ledger)
        end = runner.run(job, lambda _percent, _stage: None, lambda: None)
        assert getattr(end, "code", None) == "gantry-tilt", "its own end, and not that of the job before"
        assert ledger.get(job.id).state is JobState.IN_PROGRESS
    finally:
        runner.kill()
        ledger.database.dispose()


def test_a_runner_whose_zygote_is_gone_is_not_ready_for_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_live(monkeypatch, "pass")
    zygote = Zygote()
    runner = Runner(PipelineSpec("worker_parts:make_pipeline", (sqlite_url(tmp_path), str(tmp_path / "log"))), zygote)
    try:
        for _ in range(2):
            assert runner.start() is None
            assert runner.alive
            assert zygote.pid is not None
            os.kill(zygote.pid, signal.SIGKILL)
            wait_until(lambda: not runner.alive, what="it is noticed")
    finally:
        runner.kill()
        zygote.end()
