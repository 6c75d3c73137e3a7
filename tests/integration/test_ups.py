"""Work items on SQLite and PostgreSQL: two who claim at once, events among many writers, runs that are asked for."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

import ledgers
import phantoms
from imaging_ai.archive.archive import Archive, Visit
from imaging_ai.archive.blobs import FolderStore
from imaging_ai.archive.gate import scan
from imaging_ai.catalog import Catalog
from imaging_ai.core.identity import new_uid
from imaging_ai.core.job import JobState, Priority
from imaging_ai.db.engine import Database
from imaging_ai.queue.broker import WORKLIST, Doorbell, make_broker
from imaging_ai.queue.ledger import Ledger
from imaging_ai.queue.workitem_elements import Elements, code, elements, first, items, said
from imaging_ai.queue.workitem_feed import Feed
from imaging_ai.queue.workitem_inputs import readiness
from imaging_ai.queue.workitem_rules import check_new
from imaging_ai.queue.workitem_runs import run_request
from imaging_ai.queue.workitem_views import Views, find
from imaging_ai.queue.workitem_watch import Watch
from imaging_ai.queue.workitems import Conflict, Who, WorkItems
from imaging_ai.route.completeness import QuietTimes, released
from imaging_ai.route.requested import RequestedRuns
from imaging_ai.route.router import Router
from services.redis import RedisServer
from services.worklist import AE_TITLE, model_item, new_item

GLOBAL = "1.2.840.10008.5.1.4.34.5"
WHO = Who("tester", "127.0.0.1")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = ledgers.sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    database = ledgers.open_database(url)
    yield database
    database.dispose()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database, ae_title=AE_TITLE)


@pytest.fixture
def work_items(database: Database, ledger: Ledger) -> WorkItems:
    return WorkItems(database, ledger, AE_TITLE)


def create(work_items: WorkItems, uid: str = "") -> str:
    uid = uid or new_uid()
    work_items.create(uid, check_new(new_item(), time.time()), None, WHO)
    return uid


# -- two at once


def test_of_many_who_claim_at_once_one_has_the_item(database: Database, work_items: WorkItems) -> None:
    for _ in range(5):
        uid = create(work_items)
        ready = threading.Barrier(4)

        def claim(transaction: str, uid: str = uid, ready: threading.Barrier = ready) -> str:
            ready.wait()
            try:
                work_items.change_state(uid, JobState.IN_PROGRESS, transaction, WHO)
            except Conflict:
                return ""
            return transaction

        with ThreadPoolExecutor(4) as pool:
            (winner,) = [one for one in pool.map(claim, ["1.1", "1.2", "1.3", "1.4"]) if one]
        work_items.change_state(uid, JobState.CANCELED, winner, WHO)
        with database.read() as session:
            assert find(session.connection(), uid).state is JobState.CANCELED


def test_of_two_who_create_the_same_uid_at_once_one_does(work_items: WorkItems) -> None:
    uid = new_uid()
    ready = threading.Barrier(2)

    def make(_: int) -> bool:
        ready.wait()
        try:
            create(work_items, uid)
        except Exception as error:
            assert "exists already" in str(error)
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(make, range(2))) == [False, True]


# -- events among many writers


class Reader(threading.Thread):
    """A subscriber whose connection breaks all the time, and who confirms what it has, sometimes."""

    def __init__(self, feed: Feed, ae_title: str, seed: int) -> None:
        super().__init__(name=f"reader-{ae_title}", daemon=True)
        self.feed, self.ae_title = feed, ae_title
        self.heard: dict[int, Elements] = {}
        self.connections = 0
        self.enough = threading.Event()
        self._random = random.Random(seed)

    def run(self) -> None:
        while not self.enough.is_set():
            name, number = self.feed.open(self.ae_title), 0
            self.connections += 1
            for _ in range(self._random.randint(1, 4)):
                self.feed.dispatch()
                for one in self.feed.after(self.ae_title, name, number) or ():
                    assert one.number > number
                    number = one.number
                    assert number in self.heard or number > max(self.heard, default=0)
                    self.heard[number] = json.loads(one.data)
                if self._random.random() < 0.4:
                    self.feed.acknowledge(self.ae_title, name, number)

    @property
    def states(self) -> dict[str, list[str]]:
        """What it has heard of each item, in order."""
        found: dict[str, list[str]] = defaultdict(list)
        for number in sorted(self.heard):
            report = self.heard[number]
            if first(report, "EventTypeID") == 1:
                found[said(report, "AffectedSOPInstanceUID")].append(said(report, "ProcedureStepState"))
        return found


def test_subscribers_hear_everything_in_order_among_writers_and_broken_connections(
    database: Database, ledger: Ledger, work_items: WorkItems
) -> None:
    watch = Watch(database, AE_TITLE)
    readers = [Reader(Feed(database, AE_TITLE), f"READER{n}", n) for n in range(2)]
    for reader in readers:
        watch.subscribe(GLOBAL, reader.ae_title, lock=False)
        reader.start()

    def lives(_: int) -> list[str]:
        made = []
        for _ in range(6):
            uid, transaction = create(work_items), new_uid()
            work_items.change_state(uid, JobState.IN_PROGRESS, transaction, WHO)
            work_items.change_state(uid, JobState.CANCELED, transaction, WHO)
            ledgers.schedule(ledger)
            while (job := ledger.claim("inference-cpu", "elsewhere:1:a", 30.0)) is None:
                continue  # another thread has taken it, and its own is a moment too young
            ledgers.complete(ledger, job)
            made += [uid, job.job_uid]
        return made

    with ThreadPoolExecutor(3) as pool:
        made = [uid for each in pool.map(lives, range(3)) for uid in each]
    jobs = {job.job_uid for job in ledger.find(limit=1000)}
    expected = {uid: ["SCHEDULED", "IN PROGRESS", "COMPLETED" if uid in jobs else "CANCELED"] for uid in [*made, *jobs]}
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not all(reader.states == expected for reader in readers):
        time.sleep(0.05)
    for reader in readers:
        reader.enough.set()
    for reader in readers:
        reader.join()
    for reader in readers:
        assert reader.states == expected
        assert reader.connections > 1


def test_who_subscribes_while_things_change_misses_no_change(
    database: Database, ledger: Ledger, work_items: WorkItems
) -> None:
    """The state told first and the changes told after make an unbroken chain to the last state."""
    watch, feed = Watch(database, AE_TITLE), Feed(database, AE_TITLE)
    for round_number in range(12):
        uid, transaction, ae_title = create(work_items), new_uid(), f"LATE{round_number}"

        def change(uid: str = uid, transaction: str = transaction) -> None:
            work_items.change_state(uid, JobState.IN_PROGRESS, transaction, WHO)
            work_items.change_state(uid, JobState.CANCELED, transaction, WHO)

        changing = threading.Thread(target=change)
        changing.start()
        watch.subscribe(uid, ae_title, lock=False)
        changing.join()
        feed.dispatch()
        reports = [json.loads(one.data) for one in feed.after(ae_title, feed.open(ae_title), 0) or ()]
        states = [said(report, "ProcedureStepState") for report in reports]
        assert states[-1] == "CANCELED"
        chain = ["SCHEDULED", "IN PROGRESS", "CANCELED"]
        assert [state for state in chain if state in states] == chain[chain.index(states[0]) :]


def test_two_dispatchers_hand_each_event_on_once(database: Database, ledger: Ledger) -> None:
    Watch(database, AE_TITLE).subscribe(GLOBAL, "WATCHER", lock=False)
    for _ in range(30):
        ledgers.schedule(ledger)
    feeds = [Feed(database, AE_TITLE) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        handed = sum(pool.map(lambda feed: feed.dispatch(), feeds))
    assert handed == 60  # a state and an assignment each
    name, number, heard = feeds[0].open("WATCHER"), 0, 0
    while batch := feeds[0].after("WATCHER", name, number):
        number, heard = batch[-1].number, heard + len(batch)
    assert heard == 60


# -- rings


@pytest.mark.parametrize("kind", ["embedded", "redis"])
def test_a_ring_is_heard_by_every_web_process(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    url = "embedded" if kind == "embedded" else request.getfixturevalue("redis_url")
    brokers = [make_broker(url, tmp_path) for _ in range(3)]
    ears = [broker.listen(WORKLIST) for broker in brokers[1:]]
    for ear in ears:
        assert not ear.heard(0.05)
    bell = Doorbell(brokers[0])
    for _ in range(2):
        bell.ring(WORKLIST)
        assert all(ear.heard(10) for ear in ears)
    for ear in ears:
        ear.heard(0.2)  # an echo of the second ring may have waited
        assert not ear.heard(0.05)
        ear.close()
    for broker in brokers:
        broker.close()


def test_an_ear_outlives_redis_and_hears_again(redis_server: RedisServer, tmp_path: Path) -> None:
    broker = make_broker(redis_server.url, tmp_path)
    ear = broker.listen(WORKLIST)
    assert not ear.heard(0.05)
    redis_server.kill()
    assert not ear.heard(0.05)
    redis_server.start()
    bell = Doorbell(broker)
    deadline = time.monotonic() + 20
    heard = False
    while not heard and time.monotonic() < deadline:
        bell.ring(WORKLIST)
        heard = ear.heard(0.2)
    assert heard
    ear.close()


# -- runs that are asked for


class House:
    """An archive with a model, and what receiver and worker would do."""

    def __init__(self, database: Database, ledger: Ledger, folder: Path) -> None:
        self.database, self.ledger, self.folder = database, ledger, folder
        self.archive = Archive(database, FolderStore(folder / "objects", sync=False, min_free_bytes=0))
        self.catalog = Catalog([folder / "models"])
        self.items = WorkItems(database, ledger, AE_TITLE)
        self.runs = RequestedRuns(self.archive, ledger, self.catalog, AE_TITLE, {"PACS": "the pacs"})
        self.install("liver", '[accepts]\nModality = "CT"\n')

    def install(self, name: str, toml: str) -> None:
        (self.folder / "models" / name).mkdir(parents=True)
        (self.folder / "models" / name / "dicom.toml").write_text(toml)

    def receive(self, instances: Sequence[Dataset], *, settle: bool = True) -> None:
        visit = Visit("SCANNER", "127.0.0.1", "dimse")
        for ds in instances:
            data = phantoms.to_bytes(ds)
            writer = self.archive.begin(len(data))
            writer.write(data)
            self.archive.keep(scan(data), writer, source="S", origin_address="127.0.0.1", door="dimse", visit=visit)
        released(self.database, visit.series_uids.keys(), graceful=True, timing=QuietTimes(quiet=2, silence=10))
        if settle:
            Router(self.database, self.archive, self.ledger, self.catalog, ()).route_due(time.time() + 5)

    def ask(self, body: dict[str, Any]) -> str:
        """Create a work item as the web does."""
        uid = new_uid()
        dataset = check_new(body, time.time())
        run = run_request(dataset, AE_TITLE, self.catalog.names())
        assert run is not None
        with self.database.read() as session:
            dataset |= elements(InputReadinessState=readiness(session.connection(), run))
        self.items.create(uid, dataset, run, WHO)
        return uid

    def item(self, uid: str) -> Elements:
        with self.database.read() as session:
            views = Views(session.connection(), AE_TITLE, "http://here/dicom-web")
            return views.dataset(find(session.connection(), uid))


@pytest.fixture
def house(database: Database, ledger: Ledger, tmp_path: Path) -> Iterator[House]:
    house = House(database, ledger, tmp_path)
    yield house
    house.archive.close()


def images(count: int = 3, modality: str = "CT", name: str = "one") -> list[Dataset]:
    return phantoms.series(np.zeros((count, 4, 4), np.float32), modality=modality, name=name)


def asked(instances: Sequence[Dataset], model: str = "liver", **values: Any) -> dict[str, Any]:
    series = dict.fromkeys(str(ds.SeriesInstanceUID) for ds in instances)
    return model_item(model, str(instances[0].StudyInstanceUID), *series, **values)


def reports(database: Database, ae_title: str) -> list[tuple[int, str, str]]:
    feed = Feed(database, AE_TITLE)
    feed.dispatch()
    heard = [json.loads(one.data) for one in feed.after(ae_title, feed.open(ae_title), 0) or ()]
    return [
        (first(one, "EventTypeID"), said(one, "ProcedureStepState"), said(one, "InputReadinessState")) for one in heard
    ]


def test_a_work_item_runs_its_model_under_its_own_uid(house: House) -> None:
    instances = images()
    house.receive(instances)
    uid = house.ask(asked(instances, ScheduledProcedureStepPriority="HIGH", WorklistLabel="Mine"))
    assert house.runs.start_due() == 1
    assert house.runs.start_due() == 0
    (job,) = house.ledger.find(model="liver")
    assert (job.job_uid, job.priority, job.model) == (uid, Priority.HIGH, "liver")
    assert job.inputs == tuple(sorted(ds.SOPInstanceUID for ds in instances))
    running = ledgers.claim(house.ledger)
    assert said(house.item(uid), "ProcedureStepState") == "IN PROGRESS"
    ledgers.complete(house.ledger, running)
    dataset = house.item(uid)
    assert said(dataset, "ProcedureStepState") == "COMPLETED"
    assert said(dataset, "WorklistLabel") == "Mine"
    assert said(dataset, "PatientID") == "4711"
    (performed,) = items(dataset, "UnifiedProcedureStepPerformedProcedureSequence")
    assert said(items(performed, "PerformedStationNameCodeSequence")[0], "CodeValue") == AE_TITLE


def test_a_work_item_whose_inputs_are_not_here_waits_for_them(house: House) -> None:
    instances = images()
    uid = house.ask(asked(instances))
    Watch(house.database, AE_TITLE).subscribe(uid, "WATCHER", lock=False)
    assert said(house.item(uid), "InputReadinessState") == "UNAVAILABLE"
    assert house.runs.start_due() == 0
    house.receive(instances, settle=False)
    assert house.runs.start_due() == 0
    house.receive([], settle=True)
    assert house.runs.start_due() == 1
    assert said(house.item(uid), "InputReadinessState") == "READY"
    assert reports(house.database, "WATCHER") == [(1, "SCHEDULED", "UNAVAILABLE"), (1, "SCHEDULED", "READY")]


def test_a_work_item_that_names_instances_runs_on_those_and_waits_for_each(house: House) -> None:
    instances = images(4)
    wanted = [
        elements(ReferencedSOPClassUID=str(ds.SOPClassUID), ReferencedSOPInstanceUID=str(ds.SOPInstanceUID))
        for ds in instances[:3]
    ]
    body = asked(instances)
    items(body, "InputInformationSequence")[0] |= elements(ReferencedSOPSequence=wanted)
    house.ask(body)
    house.receive([*instances[:2], instances[3]])
    assert house.runs.start_due() == 0
    house.receive([instances[2]])
    assert house.runs.start_due() == 1
    (job,) = house.ledger.find(model="liver")
    assert job.inputs == tuple(sorted(ds.SOPInstanceUID for ds in instances[:3]))


def test_what_the_model_does_not_accept_is_canceled_with_the_reason(house: House) -> None:
    instances = images(modality="MR")
    house.receive(instances)
    uid = house.ask(asked(instances))
    Watch(house.database, AE_TITLE).subscribe(uid, "WATCHER", lock=False)
    assert house.runs.start_due() == 0
    dataset = house.item(uid)
    (progress,) = items(dataset, "ProcedureStepProgressInformationSequence")
    assert said(dataset, "ProcedureStepState") == "CANCELED"
    assert "Modality" in said(progress, "ReasonForCancellation")
    states = [state for _, state, _ in reports(house.database, "WATCHER")]
    assert states == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    assert not house.ledger.find(model="liver")


def test_several_series_go_to_the_inputs_of_a_model_that_fit_them(house: House) -> None:
    house.install("both", '[inputs.a]\nModality = "CT"\n[inputs.b]\nModality = "PT"\n')
    ct, pt = images(), images(modality="PT", name="two")
    for ds in pt:
        ds.StudyInstanceUID = ct[0].StudyInstanceUID
    house.receive([*pt, *ct])
    house.ask(asked([*pt, *ct], "both"))
    assert house.runs.start_due() == 1
    (job,) = house.ledger.find(model="both")
    assert job.parameters["channels"] == {"a": ct[0].SeriesInstanceUID, "b": pt[0].SeriesInstanceUID}
    uid = house.ask(asked([*pt, *ct]))
    assert house.runs.start_due() == 0
    assert said(house.item(uid), "ProcedureStepState") == "CANCELED"


def output_to(ae_title: str) -> list[Elements]:
    return [elements(DICOMStorageSequence=[elements(DestinationAE=ae_title)])]


def test_results_go_where_the_work_item_says(house: House) -> None:
    instances = images()
    house.receive(instances)
    house.ask(asked(instances, OutputDestinationSequence=output_to("PACS")))
    refused = house.ask(asked(instances, OutputDestinationSequence=output_to("NOBODY")))
    assert house.runs.start_due() == 1
    (job,) = house.ledger.find(model="liver")
    assert job.destinations == ("the pacs",)
    assert said(house.item(refused), "ProcedureStepState") == "CANCELED"


def test_two_work_items_on_the_same_series_are_two_runs_and_neither_supersedes_the_other(house: House) -> None:
    instances = images()
    house.receive(instances)
    uids = {house.ask(asked(instances)) for _ in range(2)}
    assert house.runs.start_due() == 2
    assert {job.job_uid for job in house.ledger.find(state=JobState.SCHEDULED)} == uids


def test_a_work_item_that_was_canceled_while_it_waited_does_not_run(house: House) -> None:
    instances = images()
    uid = house.ask(asked(instances))
    house.items.request_cancel(uid, {}, WHO)
    house.receive(instances)
    assert house.runs.start_due() == 0
    assert said(house.item(uid), "ProcedureStepState") == "CANCELED"


def test_two_workers_start_a_run_once(house: House) -> None:
    instances = images()
    house.receive(instances)
    for _ in range(3):
        house.ask(asked(instances))
    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(lambda _: house.runs.start_due(), range(2))) == 3
    assert len(house.ledger.find(model="liver")) == 3


def test_a_change_of_the_model_is_seen_and_a_model_that_has_gone_is_a_reason(house: House) -> None:
    instances = images()
    house.install("kidney", "")
    uid = house.ask(asked(instances))
    changes = elements(ScheduledWorkitemCodeSequence=[code("kidney", "99IMAGINGAI", "kidney")])
    house.items.update(uid, changes, "", lambda one: run_request(one, AE_TITLE, house.catalog.names()), WHO)
    (house.folder / "models" / "kidney" / "dicom.toml").unlink()
    house.receive(instances)
    assert house.runs.start_due() == 0
    assert said(house.item(uid), "ProcedureStepState") == "CANCELED"
