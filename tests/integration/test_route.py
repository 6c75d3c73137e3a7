"""From received instances to jobs in the ledger, over the real archive, on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from sqlalchemy import select, update
from sqlmodel import Session, SQLModel

import phantoms
from imaging_ai.archive.archive import Archive, Visit
from imaging_ai.archive.blobs import FolderStore
from imaging_ai.archive.gate import scan
from imaging_ai.catalog import Catalog, ModelEntry
from imaging_ai.core.job import JobRequest, JobState, Priority
from imaging_ai.db.engine import Database
from imaging_ai.queue.ledger import Ledger
from imaging_ai.route.completeness import QuietTimes, claim_due, released
from imaging_ai.route.router import Router
from imaging_ai.route.rules import parse_rules

STUDY = "1.2.826.0.1.3680043.8.498.1"
SERIES = SQLModel.metadata.tables["series"]


class House:
    """An archive, a ledger and models in a folder, with what a receiver would do."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.archive = Archive(database, FolderStore(folder / "objects", sync=False, min_free_bytes=0))
        self.ledger = Ledger(database)
        self.catalog = Catalog([folder / "models"])
        self.install("any", "")

    def install(self, name: str, toml: str) -> None:
        model = self.folder / "models" / name
        model.mkdir(parents=True)
        (model / "dicom.toml").write_text(f'{toml}\n[model]\nname = "{name}"\n')

    def router(self, *rules: dict[str, Any], ledger: Ledger | None = None) -> Router:
        tables = [{"name": f"rule {n}", "run": ["any"]} | rule for n, rule in enumerate(rules, 1)]
        return Router(self.database, self.archive, ledger or self.ledger, self.catalog, parse_rules(tables, "test"))

    def receive(self, instances: Sequence[Dataset], *, release: bool = True) -> list[int]:
        """Store the instances as one association does, and release it."""
        visit = Visit("SCANNER", "127.0.0.1", "dimse")
        for ds in instances:
            data = phantoms.to_bytes(ds)
            writer = self.archive.begin(len(data))
            writer.write(data)
            self.archive.keep(
                scan(data), writer, source="SCANNER", origin_address="127.0.0.1", door="dimse", visit=visit
            )
        if release:
            released(self.database, visit.series_uids.keys(), graceful=True, timing=QuietTimes(quiet=2, silence=10))
        return list(visit.series_uids)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    sqlite = request.param == "sqlite"
    database = Database(f"sqlite:///{tmp_path / 'index.db'}" if sqlite else request.getfixturevalue("postgres_url"))
    SQLModel.metadata.create_all(database.engine)
    yield database
    database.dispose()


@pytest.fixture
def house(database: Database, tmp_path: Path) -> Iterator[House]:
    house = House(database, tmp_path)
    yield house
    house.archive.close()


def images(name: str, count: int = 3, modality: str = "MR", **attributes: Any) -> list[Dataset]:
    instances = phantoms.series(np.zeros((count, 4, 4), np.float32), modality=modality, name=name)
    for ds in instances:
        ds.StudyInstanceUID = STUDY
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
    return instances


def later() -> float:
    return time.time() + 3


def test_a_complete_series_becomes_a_job_with_all_that_the_rule_says(house: House) -> None:
    instances = images("one")
    house.receive(instances)
    router = house.router({"when": {"Modality": "MR"}, "send": ["pacs"], "priority": "HIGH", "parameters": {"a": 1}})
    assert router.route_due(later()) == 1
    (job,) = house.ledger.find()
    assert (job.state, job.priority, job.queue) == (JobState.SCHEDULED, Priority.HIGH, "inference-cpu")
    assert (job.rule, job.model, job.model_digest) == ("rule 1", "any", house.catalog.get("any").digest)
    assert (job.study_instance_uid, job.series_instance_uids) == (STUDY, (instances[0].SeriesInstanceUID,))
    assert job.inputs == tuple(sorted(ds.SOPInstanceUID for ds in instances))
    assert (job.revision, job.destinations, job.parameters) == (1, ("pacs",), {"a": 1})


def test_a_series_with_its_expected_count_is_routed_at_the_release(house: House) -> None:
    house.receive(images("one", ImagesInAcquisition=3))
    assert house.router({}).route_due() == 1


def test_a_series_without_a_count_is_routed_after_the_quiet_time(house: House) -> None:
    house.receive(images("one"))
    router = house.router({})
    assert router.route_due() == 0
    settle = router.next_settle()
    assert settle is not None
    assert router.route_due(settle - 0.01) == 0
    assert router.route_due(settle) == 1
    assert router.next_settle() is None


def test_routing_again_makes_nothing_new(house: House) -> None:
    house.receive(images("one"))
    router = house.router({})
    assert [router.route_due(later()) for _ in range(3)] == [1, 0, 0]


def test_an_instance_sent_twice_makes_no_new_job(house: House) -> None:
    instances = images("one")
    for made in (1, 0):
        house.receive(instances)
        assert house.router({}).route_due(later()) == made


def test_late_instances_make_one_new_run_that_supersedes_the_old(house: House) -> None:
    instances = images("one", 6)
    router = house.router({})
    house.receive(instances[:3])
    router.route_due(later())
    for late in instances[3:]:
        house.receive([late])
        router.route_due()
    assert router.route_due(later()) == 1
    new, old = house.ledger.find()
    assert (new.state, new.revision, len(new.inputs)) == (JobState.SCHEDULED, 2, 6)
    assert old.state is JobState.CANCELED and old.failure is not None and old.failure.code == "superseded"


def test_where_nothing_runs_the_job_list_says_why_and_nothing_of_the_patient(house: House) -> None:
    house.install("ct only", '[accepts]\nModality = "CT"')
    house.receive(images("one", PatientName="Secret^Name", SeriesDescription="Secret"))
    router = house.router(
        {"when": {"PatientName": "Somebody", "SeriesDescription": "*t1*"}}, {"when": {}, "run": ["ct only"]}
    )
    assert router.route_due(later()) == 0
    (job,) = house.ledger.find()
    assert (job.state, job.model) == (JobState.CANCELED, "")
    assert job.failure is not None and job.failure.permanent
    assert job.failure.reason == (
        "rule 'rule 1': PatientName is not as wanted; SeriesDescription is other, wanted *t1*. "
        "rule 'rule 2', model 'ct only': Modality is MR, wanted CT"
    )


def test_without_rules_the_job_list_says_so(house: House) -> None:
    house.receive(images("one"))
    assert house.router().route_due(later()) == 0
    (job,) = house.ledger.find()
    assert job.failure is not None and "there are no rules" in job.failure.reason


def test_our_own_results_are_settled_in_silence(house: House) -> None:
    house.receive(images("one", Modality="SEG"))
    with house.database.write() as session:
        session.connection().execute(update(SERIES).values(origin="result"))
    router = house.router({"when": {"Modality": "SEG"}})
    assert router.route_due(later()) == 0
    assert house.ledger.find() == []
    assert router.next_settle() is None


def test_a_rule_may_ask_for_what_the_index_does_not_keep(house: House) -> None:
    house.receive(images("one", EchoTime=30, ImageComments="x" * 2_000_000))
    house.receive(images("two", EchoTime=3))
    assert house.router({"when": {"EchoTime": "> 10"}}).route_due(later()) == 1


def test_an_enhanced_instance_tells_its_shared_attributes(house: House) -> None:
    ds = phantoms.enhanced(np.zeros((3, 4, 4), np.float32), spacing=(2.0, 1.0, 1.0))
    house.receive([ds])
    assert house.router({"when": {"SliceThickness": "= 2"}}).route_due(later()) == 1


def test_a_rule_may_ask_who_sent_it(house: House) -> None:
    house.receive(images("one"))
    router = house.router(
        {"when": {"SourceApplicationEntityTitle": "SCANNER"}}, {"when": {"SourceApplicationEntityTitle": "OTHER"}}
    )
    assert router.route_due(later()) == 1


BRATS = '[inputs.t1]\nSeriesDescription = "*t1*"\n[inputs.flair]\nSeriesDescription = "*flair*"'


def test_a_model_of_two_series_runs_once_when_both_are_there(house: House) -> None:
    house.install("brats", BRATS)
    router = house.router({"run": ["brats"]})
    t1, flair = images("t1", SeriesDescription="t1"), images("flair", SeriesDescription="flair")
    house.receive(t1)
    assert router.route_due(later()) == 0
    house.receive(flair)
    assert router.route_due(later()) == 1
    job = house.ledger.find()[0]
    uids = {"t1": t1[0].SeriesInstanceUID, "flair": flair[0].SeriesInstanceUID}
    assert job.parameters == {"channels": uids}
    assert set(job.series_instance_uids) == set(uids.values())
    assert len(job.inputs) == 6


def test_a_selection_waits_for_the_rest_of_the_study_and_is_made_once(house: House) -> None:
    router = house.router({"select": "largest"})
    small, large = images("small", 2), images("large", 5)
    house.receive(small)
    house.receive(large, release=False)
    assert router.route_due(later()) == 0
    assert house.ledger.find() == []
    assert router.route_due(time.time() + 11) == 1
    note, job = sorted(house.ledger.find(), key=lambda one: one.model)
    assert job.series_instance_uids == (large[0].SeriesInstanceUID,)
    assert note.failure is not None and "the largest of 2 matching series is taken" in note.failure.reason


class BreakingLedger(Ledger):
    """A ledger whose process dies in the middle of the transaction."""

    def schedule(self, session: Session, request: JobRequest) -> int | None:
        super().schedule(session, request)
        raise RuntimeError("killed")


def test_a_series_never_settles_without_its_jobs(house: House) -> None:
    house.receive(images("one"))
    now = later()
    assert house.router({}, ledger=BreakingLedger(house.database)).route_due(now) == 0
    assert house.ledger.find() == []
    router = house.router({})
    assert router.route_due(now) == 0  # left alone for a while
    assert router.route_due(now + 31) == 1


def test_a_study_that_cannot_be_routed_does_not_hold_up_the_others(house: House) -> None:
    broken, sound = images("broken"), images("sound")
    for ds in sound:
        ds.StudyInstanceUID = f"{STUDY}.2"
    house.receive(broken)
    house.receive(sound)
    for instance in house.archive.instances(broken[0].SeriesInstanceUID):
        house.archive.store.delete(instance.blob)
    assert house.router({"when": {"EchoTime": "present"}}).route_due(later()) == 1


class InterruptedCatalog(Catalog):
    """A catalog that lets something happen while the rules are applied."""

    def __init__(self, folder: Path, happens: Callable[[], object]) -> None:
        super().__init__([folder])
        self._happens = [happens]

    def get(self, name: str) -> ModelEntry:
        while self._happens:
            self._happens.pop()()
        return super().get(name)


def test_an_instance_that_arrives_while_the_rules_are_applied_starts_no_job_without_it(house: House) -> None:
    instances = images("one", 4)
    house.receive(instances[:3])
    late = InterruptedCatalog(house.folder / "models", lambda: house.receive(instances[3:], release=False))
    rules = parse_rules([{"name": "all", "run": ["any"]}], "test")
    router = Router(house.database, house.archive, house.ledger, late, rules)
    assert router.route_due(later()) == 0
    assert house.ledger.find() == []
    assert router.route_due(time.time() + 11) == 1
    assert len(house.ledger.find()[0].inputs) == 4


def test_a_series_that_another_router_is_claiming_is_left_to_it(house: House) -> None:
    (series,) = house.receive(images("one"))
    claims: list[dict[int, int]] = []

    def other() -> None:
        with house.database.write() as session:
            claims.append(claim_due(session, later()))

    with house.database.write() as session:
        claims.append(claim_due(session, later()))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.3)
    thread.join()
    assert claims == [{series: 1}, {}]


def _at_once(work: Callable[[], int], times: int) -> list[int]:
    results: list[int] = []
    start = threading.Barrier(times)

    def run() -> None:
        start.wait()
        results.append(work())

    threads = [threading.Thread(target=run) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_many_routers_at_once_make_each_job_once(house: House) -> None:
    house.install("brats", BRATS)
    for number in range(8):
        house.receive(images(f"t1 {number}", 1, SeriesDescription="t1"))
    house.receive(images("flair", 1, SeriesDescription="flair"))
    now = later()
    made = _at_once(lambda: house.router({}, {"run": ["brats"]}).route_due(now), 4)
    jobs = [job for job in house.ledger.find() if job.model]
    assert sum(made) == len(jobs) == 10
    assert len({(job.model, job.series_instance_uids) for job in jobs}) == 10


def test_a_series_uid_that_is_in_two_studies_is_two_series(house: House) -> None:
    here, there = images("one", 3), images("one", 2, modality="CT")
    for number, ds in enumerate(there):
        ds.StudyInstanceUID, ds.SOPInstanceUID = f"{STUDY}.2", f"{STUDY}.2.{number}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    house.receive(here)
    house.receive(there)
    assert house.router({"when": {"Modality": "MR", "instances": "= 3"}}).route_due(later()) == 1
    (job,) = house.ledger.find(study=STUDY)
    assert job.inputs == tuple(sorted(ds.SOPInstanceUID for ds in here))
    (other,) = house.ledger.find(study=f"{STUDY}.2")
    assert other.failure is not None
    assert "CT" in other.failure.reason
    house.receive(images("one", 5))
    assert house.router({"when": {"Modality": "CT"}}).route_due(later()) == 0
    assert len(house.ledger.find(study=STUDY, model="")) == 1, "why nothing ran is noted for each study"


def test_a_series_without_instances_does_not_hold_up_its_study(house: House) -> None:
    (series_id,) = house.receive(images("one"))
    with house.database.write() as session:
        row = dict(session.connection().execute(select(SERIES).where(SERIES.c.id == series_id)).mappings().one())
        empty = {"id": series_id + 1, "series_instance_uid": "1.2.3.4", "instance_count": 0}
        session.connection().execute(SERIES.insert().values(row | empty))
    router = house.router({"select": "newest"})
    assert router.route_due(later()) == 1
    assert len(house.ledger.find()) == 1
    assert router.next_settle() is None


def test_content_that_was_replaced_is_run_anew(house: House) -> None:
    house.archive = Archive(house.database, house.archive.store, conflict="replace")
    instances = images("one")
    house.receive(instances)
    router = house.router({})
    assert router.route_due(later()) == 1
    instances[1].SliceThickness = "3"
    house.receive(instances)
    assert router.route_due(later()) == 1
    newer, older = house.ledger.find()
    assert newer.inputs == older.inputs
    assert older.failure is not None
    assert (older.state, older.failure.code) == (JobState.CANCELED, "superseded")
