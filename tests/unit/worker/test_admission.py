"""Which jobs run at once: the arithmetic, and the door."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from imaging_ai.core.job import Job, JobState, Priority, Stage
from imaging_ai.worker.admission import Admission, Shares
from imaging_ai.worker.child import Interrupt
from services import wait_until


def test_what_is_not_known_takes_all() -> None:
    shares = Shares()
    assert shares.of("lung", 100) == 1.0
    shares.took("lung", 100, 0.2)
    assert shares.of("liver", 100) == 1.0
    assert shares.of("lung", 1000) == 1.0, "a larger series may take more"


def test_a_job_takes_what_the_largest_of_its_size_took_and_a_tenth() -> None:
    shares = Shares()
    for share in (0.2, 0.3, 0.1):
        shares.took("lung", 100, share)
    assert shares.of("lung", 100) == shares.of("lung", 120) == pytest.approx(0.33)
    assert shares.of("lung", 10) == pytest.approx(0.33), "a smaller series takes no more"
    shares.took("lung", 10, 0.05)
    assert shares.of("lung", 10) == pytest.approx(0.055)
    shares.took("lung", 500, 0.99)
    assert shares.of("lung", 500) == 1.0
    assert shares.of("lung", 100) == pytest.approx(0.33)


def test_a_model_that_had_too_little_is_measured_anew() -> None:
    shares = Shares()
    shares.took("lung", 100, 0.2)
    shares.took("liver", 100, 0.2)
    shares.forget("lung")
    assert shares.of("lung", 100) == 1.0
    assert shares.of("liver", 100) < 1.0


def a_job(number: int, digest: str) -> Job:
    return Job(
        id=number,
        job_uid=f"2.25.{number}",
        state=JobState.IN_PROGRESS,
        priority=Priority.MEDIUM,
        queue="inference-cpu",
        study_instance_uid="1.2",
        series_instance_uids=("1.2.3",),
        revision=1,
        rule="all",
        model=digest,
        model_digest=digest,
        destinations=(),
        attempt=1,
        max_attempts=3,
        progress=0,
        stage=Stage.QUEUE,
        created_at=0.0,
        not_before=0.0,
        inputs=("1.2.3.4",) * 100,
    )


class House:
    """An admission, and threads that are let in by it and stay until they are let out."""

    def __init__(self) -> None:
        self.admission = Admission()
        self.inside: list[int] = []
        self.most = 0
        self._out: dict[int, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def know(self, model: str, share: float) -> None:
        self.admission.took(a_job(0, model), share, too_much=False)

    def come(self, number: int, model: str, check: Callable[[], Interrupt | None] = lambda: None) -> None:
        job, self._out[number] = a_job(number, model), threading.Event()
        waiting = len(self.admission._waiting) + len(self.inside)

        def visit() -> None:
            with self.admission.admitted(job, check) as stopped:
                if stopped is None:
                    self.inside.append(number)
                    self._out[number].wait(30)
                    self.inside.remove(number)

        self._threads.append(threading.Thread(target=visit))
        self._threads[-1].start()
        wait_until(
            lambda: len(self.admission._waiting) + len(self.inside) > waiting or not self._threads[-1].is_alive(),
            what="it has come",
        )

    def leave(self, *numbers: int) -> None:
        for number in numbers:
            self._out[number].set()

    def holds(self, *numbers: int) -> None:
        wait_until(lambda: sorted(self.inside) == list(numbers), what=f"{numbers} are inside, not {self.inside}")

    def empty(self) -> None:
        self.leave(*self._out)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture
def house() -> House:
    return House()


def test_jobs_run_at_once_as_long_as_they_fit(house: House) -> None:
    house.know("small", 0.3)
    for number in (1, 2, 3, 4):
        house.come(number, "small")
    house.holds(1, 2, 3)
    house.leave(2)
    house.holds(1, 3, 4)
    house.empty()


def test_one_that_is_not_known_runs_alone_and_is_not_overtaken(house: House) -> None:
    house.know("small", 0.3)
    house.come(1, "small")
    house.come(2, "new")
    house.come(3, "small")
    house.holds(1)
    house.leave(1)
    house.holds(2)
    house.leave(2)
    house.holds(3)
    house.empty()


def test_one_that_is_stopped_while_it_waits_lets_the_next_pass(house: House) -> None:
    house.know("small", 0.3)
    house.come(1, "small")
    house.come(2, "new", check=lambda: Interrupt.CANCELLED)
    house.come(3, "small")
    house.holds(1, 3)
    house.empty()
