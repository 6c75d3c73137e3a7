"""The process that runs models, from its first line: the walls go up before anything is imported that starts a thread.

Started by `running.py` with the number of a socket. It leaves signals to the one that started it, which kills it when a
job must stop. Its standard output leads nowhere: what it has to say goes through the socket.
"""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection

import msgspec

from imaging_ai.process import keep_memory, keep_metrics
from imaging_ai.sandbox.confine import Within, confine

__all__ = ["KEPT_BYTES", "main"]

#: Of what a job frees, volumes too, how large a block (any) and how much is kept for the next layer and the next job.
KEPT_BYTES = (None, 512 << 20)


def main(descriptor: int) -> None:
    """Serve the process at the other end of a socket until it goes away."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)
    connection: Connection[object, object] = Connection(descriptor)
    within = msgspec.msgpack.decode(connection.recv_bytes(), type=Within)
    keep_metrics()
    keep_memory(*KEPT_BYTES)
    walls = confine(within)

    from imaging_ai.sandbox.serving import serve

    serve(connection, within, walls)
