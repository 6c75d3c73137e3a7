"""Requests begin in the thread that brings them: an answer that waits for nothing needs no event loop.

granian has a thread that makes the scope of a request, and the loop in another. To hand a request over takes two turns
of the loop, a task and a switch of threads, which is longer than to read a frame that is in memory. So a request runs
there until it has its answer, or until it awaits `the_loop`; from then on it is a task like any other. What takes
longer goes to a thread of its kind (`in_a_thread`), and the request goes on in that one, again without the loop.

granian has no setting for this: one function of its own is replaced (`granian._futures`, version 2.8). Where there is
no such function nothing is, and every request begins in the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context
from types import coroutine
from typing import Any, TypeVar, cast

import granian._futures

__all__ = ["begin_where_they_come_in", "in_a_thread", "starter", "the_loop"]

Request = Coroutine[Any, Any, None]
Result = TypeVar("Result")
Work = Callable[[], Result]


@coroutine
def the_loop() -> Generator[None]:
    """Go on in the event loop, if this is not it."""
    if asyncio._get_running_loop() is None:
        yield


async def in_a_thread(threads: Executor, work: Work[Result]) -> Result:
    """Return what work gives that one of some threads does; outside the event loop, go on in that thread."""
    if asyncio._get_running_loop() is not None:
        return await asyncio.get_running_loop().run_in_executor(threads, work)
    return await _there(threads, work)


@coroutine
def _there(threads: Executor, work: Work[Result]) -> Generator[Any, Any, Result]:
    return cast("Result", (yield threads, work))


def begin_where_they_come_in() -> None:
    """Have granian begin requests so, in this process; before it serves."""
    if hasattr(granian._futures, "_cbsched_aioschedule"):
        granian._futures._cbsched_aioschedule = starter


def starter(loop: asyncio.AbstractEventLoop, context: Context, made: Callable[[Any], Request]) -> Callable[[Any], None]:
    """Return what begins a request, which `made` makes of what granian calls a watcher."""

    def go_on(request: Request, within: Context, watcher: Any) -> None:
        watcher.taskref(loop.create_task(request, context=within))

    def begin(watcher: Any) -> None:
        request, within = made(watcher), context.copy()

        def on(step: Callable[[Any], Any], given: Any) -> None:
            """Run the request until it has its answer, or waits."""
            try:
                wanted = within.run(step, given)
            except StopIteration:
                return
            if not isinstance(wanted, tuple):  # not `in_a_thread`
                loop.call_soon_threadsafe(go_on, request, within, watcher)
                return
            threads, work = wanted
            try:
                threads.submit(do, work)
            except RuntimeError as error:  # the threads are ending, and this process with them
                on(request.throw, error)

        def do(work: Work[Any]) -> None:
            try:
                done = work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the request's
                on(request.throw, error)
            else:
                on(request.send, done)

        on(request.send, None)

    return begin
