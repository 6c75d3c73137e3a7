"""A request begins in the thread that brings it, and goes on in the loop from where it waits for something."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import granian._futures
import pytest

from imaging_ai.serve.eager import begin_where_they_come_in, in_a_thread, starter, the_loop

WHO = contextvars.ContextVar("who", default="nobody")


class Watcher:
    """Stands for what granian gives with a request: it is told of the task, and here of the end too."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.task: asyncio.Task[None] | None = None
        self.who: Future[str] = Future()

    def taskref(self, task: asyncio.Task[None]) -> None:
        self.task = task


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loop")
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def at_once(watcher: Watcher) -> None:
    WHO.set("at once")
    watcher.threads.append(threading.current_thread())
    watcher.who.set_result(WHO.get())


async def slowly(watcher: Watcher) -> None:
    WHO.set("slowly")
    watcher.threads.append(threading.current_thread())
    await the_loop()
    watcher.threads.append(threading.current_thread())
    await the_loop()
    await asyncio.sleep(0)
    watcher.who.set_result(WHO.get())


class Working:
    """A request for which a thread works: what it was given, and in which threads it ran."""

    def __init__(self, threads: ThreadPoolExecutor, *, in_the_loop: bool = False, then_the_loop: bool = False) -> None:
        self.threads, self.before, self.after = threads, in_the_loop, then_the_loop

    def work(self) -> str:
        return threading.current_thread().name

    async def __call__(self, watcher: Watcher) -> None:
        WHO.set("working")
        if self.before:
            await the_loop()
        there = await in_a_thread(self.threads, self.work)
        watcher.threads.append(threading.current_thread())
        if self.after:
            await the_loop()
        watcher.threads.append(threading.current_thread())
        watcher.who.set_result(f"{WHO.get()} {there}")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, "pool") as threads:
        yield threads


def begun(loop: asyncio.AbstractEventLoop, request: Any) -> Watcher:
    watcher = Watcher()
    starter(loop, contextvars.copy_context(), request)(watcher)
    return watcher


def test_what_waits_for_nothing_is_over_before_the_loop_hears_of_it(loop: asyncio.AbstractEventLoop) -> None:
    watcher = begun(loop, at_once)
    assert watcher.who.done()
    assert watcher.threads == [threading.current_thread()]
    assert watcher.task is None


def test_what_waits_goes_on_in_the_loop_as_a_task_that_granian_can_cancel(loop: asyncio.AbstractEventLoop) -> None:
    watcher = begun(loop, slowly)
    assert watcher.who.result(10) == "slowly"
    assert [thread.name for thread in watcher.threads] == [threading.current_thread().name, "loop"]
    assert watcher.task is not None


def test_a_request_goes_on_in_the_thread_that_works_for_it(
    loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor
) -> None:
    watcher = begun(loop, Working(threads))
    assert watcher.who.result(10) == "working pool_0"
    assert [thread.name for thread in watcher.threads] == ["pool_0", "pool_0"]
    assert watcher.task is None


def test_from_there_it_can_go_to_the_loop(loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor) -> None:
    watcher = begun(loop, Working(threads, then_the_loop=True))
    assert watcher.who.result(10) == "working pool_0"
    assert [thread.name for thread in watcher.threads] == ["pool_0", "loop"]
    assert watcher.task is not None


def test_what_is_in_the_loop_stays_there(loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor) -> None:
    watcher = begun(loop, Working(threads, in_the_loop=True))
    assert watcher.who.result(10) == "working pool_0"
    assert [thread.name for thread in watcher.threads] == ["loop", "loop"]


def test_what_goes_wrong_in_the_thread_goes_wrong_in_the_request(
    loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor
) -> None:
    async def told(watcher: Watcher) -> None:
        try:
            await in_a_thread(threads, lambda: 1 // 0)
        except ZeroDivisionError:
            watcher.who.set_result("told")

    assert begun(loop, told).who.result(10) == "told"


def test_without_threads_it_is_told_so(loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor) -> None:
    async def told(watcher: Watcher) -> None:
        try:
            await in_a_thread(threads, lambda: None)
        except RuntimeError:
            watcher.who.set_result("told")

    threads.shutdown()
    assert begun(loop, told).who.result(10) == "told"


def test_requests_know_nothing_of_each_other(loop: asyncio.AbstractEventLoop) -> None:
    begun(loop, slowly).who.result(10)
    begun(loop, at_once)
    assert WHO.get() == "nobody"


def test_granian_still_has_what_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granian._futures, "_cbsched_aioschedule", granian._futures._cbsched_aioschedule)
    begin_where_they_come_in()
    assert granian._futures._cbsched_aioschedule is starter


def test_another_granian_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(granian._futures, "_cbsched_aioschedule")
    begin_where_they_come_in()
    assert not hasattr(granian._futures, "_cbsched_aioschedule")
