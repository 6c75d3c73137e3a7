"""The sweeper sweeps at its interval, and rings alarms when they are due rather than at the next sweep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from imaging_ai.errors import DatabaseUnavailable
from imaging_ai.worker.sweeper import Alarm, Sweeper

Make = Callable[..., Sweeper]


@pytest.fixture
def start() -> Iterator[Make]:
    sweepers: list[Sweeper] = []

    def make(sweep: Callable[[], None], alarms: list[Alarm], interval: float) -> Sweeper:
        sweepers.append(Sweeper(sweep, alarms, interval=interval))
        sweepers[-1].start()
        return sweepers[-1]

    yield make
    for sweeper in sweepers:
        sweeper.stop()


def test_it_sweeps_at_once_and_then_at_every_interval(start: Make) -> None:
    swept = threading.Semaphore(0)
    start(swept.release, [], 0.05)
    for _ in range(4):
        assert swept.acquire(timeout=5)


def test_a_sweep_that_fails_is_not_the_last(start: Make) -> None:
    swept = threading.Semaphore(0)

    def sweep() -> None:
        swept.release()
        raise DatabaseUnavailable("away")

    start(sweep, [], 0.05)
    for _ in range(3):
        assert swept.acquire(timeout=5)


def test_an_alarm_rings_when_it_is_due_not_at_the_next_sweep(start: Make) -> None:
    times: list[float] = [time.time() + 0.3]
    rung: list[float] = []
    heard = threading.Event()

    def ring() -> None:
        rung.append(times.pop())
        heard.set()

    start(lambda: None, [Alarm(lambda: times[0] if times else None, ring)], 1000.0)
    assert heard.wait(10)
    assert time.time() >= rung[0]


def test_a_nudge_has_the_times_looked_at_again(start: Make) -> None:
    times: list[float] = []
    heard = threading.Event()
    sweeper = start(lambda: None, [Alarm(lambda: times[0] if times else None, heard.set)], 1000.0)
    assert not heard.wait(0.1)
    times.append(time.time())
    sweeper.nudge()
    assert heard.wait(10)


def test_an_alarm_that_stays_due_does_not_ring_without_pause(start: Make) -> None:
    rung = threading.Semaphore(0)
    start(lambda: None, [Alarm(lambda: 0.0, rung.release)], 1000.0)
    assert rung.acquire(timeout=5)
    time.sleep(0.5)
    count = 0
    while rung.acquire(blocking=False):
        count += 1
    assert count <= 4
