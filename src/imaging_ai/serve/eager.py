"""Requests begin in the thread that brings them: an answer that waits for nothing needs no event loop.

granian has a thread that makes the scope of a request, and the loop in another. To hand a request over takes two turns
of the loop, a task and a switch of threads, which is longer than to read a frame that is in memory. So a request runs
there until it has its answer, or until it awaits `the_loop`; from then on it is a task like any other.

granian has no setting for this: one function of its own is replaced (`granian._futures`, version 2.8). Where there is
no such function nothing is, and every request begins in the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from types import coroutine
from typing import Any

import granian._futures

__all__ = ["begin_where_they_come_in", "starter", "the_loop"]

Request = Coroutine[Any, Any, None]


@coroutine
def the_loop() -> Generator[None]:
    """Go on in the event loop, if this is not it."""
    if asyncio._get_running_loop() is None:
        yield


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
        try:
            within.run(request.send, None)
        except StopIteration:
            return
        loop.call_soon_threadsafe(go_on, request, within, watcher)

    return begin
