"""A lane works when woken, until nothing is left, and survives what goes wrong."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from imaging_ai.errors import DatabaseUnavailable
from imaging_ai.worker.lane import Lane
from services import wait_until

Start = Callable[..., Lane]


@pytest.fixture
def start() -> Iterator[Start]:
    lanes: list[Lane] = []

    def make(step: Callable[[], bool], **options: int) -> Lane:
        lanes.append(Lane("lane", step, **options))
        lanes[-1].start()
        return lanes[-1]

    yield make
    for lane in lanes:
        lane.stop()


def test_a_lane_looks_at_the_start_and_at_each_wake_until_nothing_is_left(start: Start) -> None:
    work: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(3):
        work.put(number)
    looked = threading.Semaphore(0)

    def step() -> bool:
        looked.release()
        return not work.empty() and work.get() is not None

    lane = start(step)
    for _ in range(4):
        assert looked.acquire(timeout=5), "three pieces of work and one look that finds none"
    lane.wake()
    assert looked.acquire(timeout=5)
    assert not looked.acquire(timeout=0.1)


def test_a_wake_while_all_threads_are_busy_is_remembered(start: Start) -> None:
    go, began = threading.Semaphore(0), threading.Semaphore(0)

    def step() -> bool:
        began.release()
        go.acquire()
        return False

    lane = start(step)
    assert began.acquire(timeout=5)
    for _ in range(5):
        lane.wake()
    go.release()
    assert began.acquire(timeout=5)
    go.release()
    assert not began.acquire(timeout=0.1), "five wakes are one"


def test_one_wake_brings_every_idle_thread(start: Start) -> None:
    together = threading.Barrier(4, timeout=10)  # three threads and the test
    armed = threading.Event()

    def step() -> bool:
        if armed.is_set():
            together.wait()
        return False

    lane = start(step, threads=3)
    lane.answer()
    time.sleep(0.05)
    armed.set()
    lane.wake()
    together.wait()


def test_the_actor_returns_only_when_the_lane_has_a_thread_to_spare(start: Start) -> None:
    go = threading.Event()
    lane = start(lambda: bool(go.wait(20)) and False)
    answered = threading.Thread(target=lane.answer)
    answered.start()
    answered.join(0.2)
    assert answered.is_alive()
    go.set()
    answered.join(10)
    assert not answered.is_alive()


def test_the_actor_returns_when_the_lane_stops(start: Start) -> None:
    go = threading.Event()
    lane = start(lambda: bool(go.wait(20)) and False)
    answered = threading.Thread(target=lane.answer)
    answered.start()
    lane.stop()
    answered.join(10)
    assert not answered.is_alive()
    assert not lane.join(time.monotonic() + 0.1)
    go.set()
    assert lane.join(time.monotonic() + 10)


def test_an_outage_is_logged_once_and_so_is_its_end(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    away, looks = threading.Event(), threading.Semaphore(0)
    away.set()

    def step() -> bool:
        looks.release()
        if away.is_set():
            raise DatabaseUnavailable("the database does not answer")
        return False

    with caplog.at_level(logging.INFO):
        lane = start(step)
        for _ in range(3):
            assert looks.acquire(timeout=5)
            lane.wake()
        away.clear()
        lane.wake()
        wait_until(lambda: "lane goes on" in caplog.messages, what="the return is logged")
    assert [message for message in caplog.messages if "waits" in message] == [
        "lane waits: the database does not answer"
    ]


def test_a_bug_is_logged_without_its_message_and_the_lane_goes_on(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    looks = threading.Semaphore(0)

    def step() -> bool:
        looks.release()
        raise ValueError("^".join(("Doe", "Jane")))

    lane = start(step)
    assert looks.acquire(timeout=5)
    wait_until(lambda: caplog.messages, what="the log says so")
    lane.wake()
    assert looks.acquire(timeout=5)
    assert "ValueError" in caplog.text
    assert "Doe^Jane" not in caplog.text
