"""What waits for a subscriber: how long it is kept, what is told of what was given up, and when work items go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import ledgers
from imaging_ai.core.identity import new_uid
from imaging_ai.core.job import JobState
from imaging_ai.db.engine import Database
from imaging_ai.errors import Gone, WrongState
from imaging_ai.queue.events import GLOBAL, prune
from imaging_ai.queue.ledger import Ledger
from imaging_ai.queue.workitem_elements import first, said
from imaging_ai.queue.workitem_feed import Feed
from imaging_ai.queue.workitem_rules import check_new
from imaging_ai.queue.workitem_views import find
from imaging_ai.queue.workitem_watch import Watch
from imaging_ai.queue.workitems import Who, WorkItems
from services.worklist import AE_TITLE, new_item

DAY = 86_400.0
WHO = Who()


class House:
    """A worklist with a clock to turn."""

    def __init__(self, database: Database) -> None:
        self.database, self.clock = database, ledgers.Clock()
        self.ledger = Ledger(database, clock=self.clock)
        self.items = WorkItems(database, self.ledger, AE_TITLE, clock=self.clock)
        self.watch = Watch(database, AE_TITLE, clock=self.clock)
        self.feed = Feed(database, AE_TITLE, clock=self.clock, most=5)

    def create(self) -> str:
        uid = new_uid()
        self.items.create(uid, check_new(new_item(), self.clock()), None, WHO)
        return uid

    def canceled(self) -> str:
        uid = self.create()
        self.items.request_cancel(uid, {}, WHO)
        return uid

    def waiting(self, ae_title: str = "WATCHER") -> list[tuple[int, str]]:
        self.feed.dispatch()
        found, number = [], 0
        name = self.feed.open(ae_title)
        while batch := self.feed.after(ae_title, name, number):
            number = batch[-1].number
            reports = [json.loads(one.data) for one in batch]
            found += [(first(one, "EventTypeID"), said(one, "AffectedSOPInstanceUID")) for one in reports]
        return found

    def is_gone(self, uid: str) -> bool:
        try:
            with self.database.read() as session:
                find(session.connection(), uid)
        except Gone:
            return True
        return False


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    database = ledgers.open_database(ledgers.sqlite_url(tmp_path))
    yield House(database)
    database.dispose()


def test_what_waits_too_long_is_given_up_and_the_subscriber_told(house: House) -> None:
    house.watch.subscribe(GLOBAL, "WATCHER", lock=False)
    house.create()
    house.feed.dispatch()
    house.clock.advance(6 * DAY)
    later = house.create()
    house.feed.dispatch()
    house.clock.advance(2 * DAY)
    house.feed.prune()
    assert house.waiting() == [(1, later), (4, GLOBAL)]
    assert house.waiting() == [(1, later), (4, GLOBAL)]  # told once, and it waits as the others do


def test_of_too_much_the_newest_is_kept(house: House) -> None:
    house.watch.subscribe(GLOBAL, "WATCHER", lock=False)
    house.waiting()
    made = [house.create() for _ in range(8)]
    house.feed.dispatch()
    house.feed.prune()
    assert house.waiting() == [(1, uid) for uid in made[3:]] + [(4, GLOBAL)]


def test_events_that_no_web_process_hands_on_are_forgotten_in_the_end(house: House) -> None:
    house.watch.subscribe(GLOBAL, "WATCHER", lock=False)
    house.create()
    house.clock.advance(8 * DAY)
    kept = house.create()
    prune(house.database, house.clock())
    assert house.waiting() == [(1, kept)]


def test_numbers_do_not_come_twice_though_everything_was_confirmed(house: House) -> None:
    house.watch.subscribe(GLOBAL, "WATCHER", lock=False)
    numbers = []
    for _ in range(3):
        house.create()
        house.feed.dispatch()
        name = house.feed.open("WATCHER")
        (one,) = house.feed.after("WATCHER", name, 0) or ()
        numbers.append(one.number)
        house.feed.acknowledge("WATCHER", name, one.number)
    assert numbers == sorted(set(numbers))


def test_a_connection_that_was_taken_over_confirms_nothing(house: House) -> None:
    house.watch.subscribe(GLOBAL, "WATCHER", lock=False)
    uid = house.create()
    house.feed.dispatch()
    older = house.feed.open("WATCHER")
    (one,) = house.feed.after("WATCHER", older, 0) or ()
    house.feed.open("WATCHER")
    house.feed.acknowledge("WATCHER", older, one.number)
    assert house.feed.after("WATCHER", older, 0) is None
    assert house.waiting() == [(1, uid)]


def test_a_start_of_the_server_is_told_once_whatever_the_number_of_processes(house: House) -> None:
    house.feed.started("first")
    house.watch.subscribe(GLOBAL, "WATCHER", lock=False)
    house.feed.started("first")
    assert house.waiting() == []
    for _ in range(3):
        house.feed.started("second")
    assert house.waiting() == [(4, GLOBAL)]


def test_an_item_that_ended_long_ago_is_gone_and_its_uid_stays_taken(house: House) -> None:
    uid, waits = house.canceled(), house.create()
    house.clock.advance(29 * DAY)
    house.feed.prune()
    assert not house.is_gone(uid)
    house.clock.advance(2 * DAY)
    house.feed.prune()
    assert house.is_gone(uid)
    assert not house.is_gone(waits)
    with pytest.raises(WrongState, match="exists already"):
        house.items.create(uid, check_new(new_item(), 0.0), None, WHO)
    for act in (
        lambda: house.items.change_state(uid, JobState.IN_PROGRESS, "1.2", WHO),
        lambda: house.items.request_cancel(uid, {}, WHO),
        lambda: house.watch.subscribe(uid, "WATCHER", lock=False),
    ):
        with pytest.raises(Gone):
            act()


@pytest.mark.parametrize("everything", [False, True])
def test_a_deletion_lock_keeps_an_item_until_it_is_released_or_forgotten(house: House, everything: bool) -> None:
    uid = house.create()
    target = GLOBAL if everything else uid
    house.watch.subscribe(target, "WATCHER", lock=True)
    house.items.request_cancel(uid, {}, WHO)
    house.clock.advance(60 * DAY)
    house.feed.prune()
    assert not house.is_gone(uid)
    house.watch.subscribe(target, "WATCHER", lock=False)
    house.feed.prune()
    assert house.is_gone(uid)


def test_a_deletion_lock_that_nobody_releases_does_not_keep_an_item_for_ever(house: House) -> None:
    uid = house.create()
    house.watch.subscribe(uid, "WATCHER", lock=True)
    house.items.request_cancel(uid, {}, WHO)
    house.clock.advance(121 * DAY)
    house.feed.prune()
    assert house.is_gone(uid)


def test_a_job_canceled_and_run_again_by_an_operator_tells_so(house: House) -> None:
    job = house.ledger.get(ledgers.schedule(house.ledger))
    house.watch.subscribe(job.job_uid, "WATCHER", lock=False)
    house.ledger.cancel(job.id)
    house.ledger.retry(job.id)
    assert house.waiting() == [(1, job.job_uid)] * 4  # as it was, in progress, canceled, scheduled
