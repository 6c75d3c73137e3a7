"""The process that all that run models are forked from: it loads their libraries once, which takes seconds.

What is forked from it starts at once, and shares the memory of the libraries until it writes there. It runs no model,
knows no secret and reads nothing but Python; and it starts neither a thread nor a GPU's driver, which do not outlive a
fork. Whoever has the other end of its socket may ask.

    worker (or command) ── zygote ── guardian ── a model's process, behind walls
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NoReturn

from imaging_ai.process import die_with_parent, keep_metrics
from imaging_ai.sandbox import child
from imaging_ai.sandbox.guardian import REQUEST, Life, guard

__all__ = ["main", "serve"]


def main(way: int, parent: int) -> None:
    """Load the libraries, then fork whenever asked, until nobody is left who could."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    keep_metrics()
    die_with_parent(parent)
    if sys.platform.startswith("linux"):  # elsewhere not all of them bear to be forked
        _load()
    serve(way, child.main)


def _load() -> None:
    from imaging_ai.sandbox.serving import load

    with suppress(Exception):  # each process that is forked tries it again, and can say what it is
        load()
    gc.collect()
    gc.freeze()  # a collection would write to memory that is shared


def serve(way: int, life: Life) -> None:
    """Fork whenever asked, until nobody is left who could; each process leads a `life`."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guardians are not waited for
    with socket.socket(fileno=way) as asked:
        while True:
            request, descriptors, _, _ = socket.recv_fds(asked, REQUEST.size, 2)
            if not request:
                return
            zygote = os.getpid()
            if os.fork() == 0:
                asked.close()
                _become_guardian(zygote, request, descriptors, life)
            for one in descriptors:
                os.close(one)


def _become_guardian(zygote: int, request: bytes, descriptors: list[int], life: Life) -> NoReturn:
    try:
        die_with_parent(zygote)
        (limit,), (model, line) = REQUEST.unpack(request), descriptors
        guard(Connection(line), model, limit, life)
    finally:
        os._exit(0)
