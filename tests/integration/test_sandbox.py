"""A hostile model on a real runner: what it tries fails, costs its own attempt, and the next honest job completes."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

import intruder
import phantoms
from imaging_ai import config, wiring
from imaging_ai.core.job import Failure, Job, JobState
from imaging_ai.queue.ledger import Ledger
from imaging_ai.sandbox.forked import Zygote
from imaging_ai.worker.child import Interrupt, Runner
from imaging_ai.worker.messages import PipelineSpec
from ledgers import claim, schedule
from services import wait_until
from shelf import keep

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the walls are those of Linux")

SETTINGS = """
[models]
allow_scripts = true
shipped = false
[worker]
device = "cpu"
threads = 1
memory_limit_mb = 1200
"""
#: A network that does what the brightest voxel of the image says.
NET = """
import json, os, pathlib
import torch
from scripts import intruder

class Net(torch.nn.Conv3d):
    def __init__(self):
        super().__init__(1, 2, 1)

    def forward(self, image):
        wish = round(float(image.max()))
        if wish == 1001:
            targets = json.loads((pathlib.Path(intruder.__file__).parent / "targets.json").read_text())
            left = [str(one) for one in pathlib.Path(".").glob("left*")]
            pathlib.Path("left behind").write_text("Doe^Jane")
            found = intruder.outcomes(targets | {"parent": os.getppid()})
            done = sorted(name for name, outcome in found.items() if outcome == "done")
            raise RuntimeError(f"done {done}, left {left}")
        if wish == 1002:
            intruder.crash()
        if wish == 1003:
            intruder.eat_unseen()
        if wish == 1004:
            intruder.hang()
        return super().forward(image)
"""
PROBE, CRASH, EAT, HANG, NOTHING = 1001.0, 1002.0, 1003.0, 1004.0, 300.0


def _ignore(_percent: int, _stage: object) -> None:
    pass


class Site:
    """A runner on settings of its own, a hostile bundle, and a database whose name that bundle knows."""

    def __init__(self, folder: Path) -> None:
        (folder / "imaging-ai.toml").write_text(SETTINGS)
        self.settings = config.load(folder / "imaging-ai.toml", {"IMAGING_AI_DATA_DIR": str(folder / "data")})
        self.database = wiring.make_current_database(self.settings)
        self.archive = wiring.make_archive(self.settings, self.database)
        self.ledger = Ledger(self.database)
        models = self.settings.data_path / "models"
        targets = {"secret": str(self.settings.data_path / "imaging-ai.db"), "folder": str(models), "port": "9"}
        self._make_hostile(models / "hostile", targets | {"socket": str(folder / "socket")})
        phantoms.threshold_bundle(models / "threshold")
        self.catalog = wiring.make_catalog(self.settings)
        self.zygote = Zygote()
        self.runner = Runner(PipelineSpec("imaging_ai.wiring:make_pipeline", self.settings), self.zygote)

    def _make_hostile(self, bundle: Path, targets: dict[str, str]) -> None:
        phantoms.threshold_bundle(bundle)
        scripts = bundle / "scripts"
        scripts.mkdir()
        (scripts / "__init__.py").write_text("")
        (scripts / "net.py").write_text(NET)
        (scripts / "targets.json").write_text(json.dumps(targets))
        (scripts / "intruder.py").write_text(Path(intruder.__file__).read_text())
        inference = bundle / "configs" / "inference.json"
        inference.write_text(
            json.dumps(json.loads(inference.read_text()) | {"network_def": {"_target_": "scripts.net.Net"}})
        )

    def run(
        self, wish: float, model: str = "hostile", *, digest: str = "", seconds: float = 60.0
    ) -> tuple[Job, Failure | Interrupt | None]:
        """Run one attempt on an image that has a wish; start a runner if there is none."""
        if not self.runner.alive:
            assert self.runner.start() is None
        job = self.order(wish, model, digest=digest)
        deadline = time.monotonic() + seconds
        check = lambda: Interrupt.CANCELLED if time.monotonic() > deadline else None  # noqa: E731
        end = self.runner.run(job, _ignore, check)
        if isinstance(end, Failure):
            self.ledger.fail(job.id, job.attempt, replace(end, permanent=True))  # no second attempt here
        return self.ledger.get(job.id), end

    def order(self, wish: float, model: str = "hostile", *, digest: str = "") -> Job:
        """Schedule a job on an image that has a wish, and claim it."""
        series = phantoms.series(
            np.where(phantoms.ball((6, 20, 20)) > 0, wish, 0.0).astype(np.float32), name=f"{model} {time.monotonic()}"
        )
        for ds in series:
            keep(self.archive, phantoms.to_bytes(ds))
        schedule(
            self.ledger,
            study_instance_uid=str(series[0].StudyInstanceUID),
            series_instance_uids=(str(series[0].SeriesInstanceUID),),
            inputs=tuple(str(ds.SOPInstanceUID) for ds in series),
            model=model,
            model_digest=digest or self.catalog.get(model).digest,
        )
        return claim(self.ledger)

    def model_processes(self) -> set[int]:
        """The processes that run models: each has a guardian, which the zygote has forked."""
        guardians = psutil.Process(self.zygote.pid).children()
        return {process.pid for guardian in guardians for process in guardian.children()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.runner.kill()
    made.zygote.end()
    made.archive.close()
    made.database.dispose()


def test_a_bundle_that_was_changed_since_is_refused_and_says_so(site: Site) -> None:
    _, end = site.run(NOTHING, "threshold", digest="0" * 64)
    assert isinstance(end, Failure) and (end.code, end.permanent) == ("bundle-invalid", True)
    assert "the job wants 000000000000: its files were changed" in end.reason


def test_no_model_runs_where_another_has_run_and_each_stays_warm(site: Site) -> None:
    assert site.run(NOTHING, "threshold")[0].state is JobState.COMPLETED
    before = site.model_processes()
    assert site.run(NOTHING)[0].state is JobState.COMPLETED
    both = site.model_processes()
    assert len(both - before) == 1
    for model in ("threshold", "hostile"):
        assert site.run(NOTHING, model)[0].state is JobState.COMPLETED
    assert site.model_processes() == both
    assert psutil.Process(site.zygote.pid).num_threads() == 1, "what is forked would lack the others"


def test_a_model_s_own_code_can_do_nothing_but_answer(site: Site) -> None:
    for _ in range(2):
        _, end = site.run(PROBE)
        assert isinstance(end, Failure) and end.code == "model-failed"
        assert "done [], left []" in end.reason, "nor does it find what the job before has left"
    assert site.run(NOTHING)[0].state is JobState.COMPLETED


@pytest.mark.parametrize(
    ("wish", "code", "said"),
    [(CRASH, "model-process-died", "SIGSEGV"), (EAT, "model-out-of-memory", "grew to")],
)
def test_a_model_that_crashes_or_grows_costs_one_attempt(site: Site, wish: float, code: str, said: str) -> None:
    site.run(NOTHING)
    before, zygote = site.model_processes(), site.zygote.pid
    _, end = site.run(wish)
    assert isinstance(end, Failure)
    assert (end.code, end.permanent) == (code, False), end.reason
    assert said in end.reason
    assert site.run(NOTHING)[0].state is JobState.COMPLETED
    assert not before & site.model_processes()
    assert site.zygote.pid == zygote, "what was loaded is loaded still"


def test_a_process_that_was_killed_while_it_was_idle_costs_no_attempt(site: Site) -> None:
    site.run(NOTHING)
    for process in map(psutil.Process, site.model_processes()):
        process.kill()
        wait_until(lambda one=process: not one.is_running() or one.status() == psutil.STATUS_ZOMBIE)  # type: ignore[misc]
    job, end = site.run(NOTHING)
    assert (job.state, job.attempt, end) == (JobState.COMPLETED, 1, None)


def test_a_model_that_hangs_ends_with_its_runner(site: Site) -> None:
    site.run(NOTHING)
    assert site.model_processes()
    _, end = site.run(HANG, seconds=1.0)
    assert end is Interrupt.CANCELLED
    wait_until(lambda: not site.model_processes())


def test_two_run_at_once_and_the_end_of_one_is_nothing_to_the_other(site: Site) -> None:
    other = Runner(PipelineSpec("imaging_ai.wiring:make_pipeline", site.settings), site.zygote)
    try:
        assert other.start() is None
        hanging = site.order(HANG)
        ends: list[Failure | Interrupt | None] = []
        stop = threading.Event()
        check = lambda: Interrupt.CANCELLED if stop.is_set() else None  # noqa: E731
        thread = threading.Thread(target=lambda: ends.append(other.run(hanging, _ignore, check)))
        thread.start()
        assert site.run(NOTHING, "threshold")[0].state is JobState.COMPLETED
        stop.set()
        thread.join(30)
        assert ends == [Interrupt.CANCELLED]
        assert site.run(NOTHING, "threshold")[0].state is JobState.COMPLETED
    finally:
        other.kill()
