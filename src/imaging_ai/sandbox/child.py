"""The process that runs models, from when it was forked: the walls go up before anything of a model is read.

It leaves signals to its guardian, which kills it when a job must stop. Its standard output leads nowhere: what it has
to say goes through its socket.
"""

from __future__ import annotations

import os
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from imaging_ai.process import keep_memory
from imaging_ai.sandbox.confine import Within, confine, homes

__all__ = ["KEPT_BYTES", "main"]

#: Of what a job frees, volumes too, how large a block (any) and how much is kept for the next layer and the next job.
KEPT_BYTES = (None, 512 << 20)


def main(descriptor: int, parent: int) -> None:
    """Serve the process at the other end of a socket until it goes away, and never longer than `parent` lives."""
    os.setsid()  # so that a signal to a whole group reaches nobody else
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
    connection: Connection[object, object] = Connection(descriptor)
    within = msgspec.structs.replace(msgspec.msgpack.decode(connection.recv_bytes(), type=Within), parent=parent)
    keep_memory(*KEPT_BYTES)
    os.environ.update(homes(Path(within.scratch)))
    os.chdir(within.scratch)
    tempfile.tempdir = None  # what was found before is another's
    walls = confine(within)

    from imaging_ai.sandbox.serving import serve

    serve(connection, within, walls)
