"""Connections in any number keep nobody out: when there are too many, whoever has most of them makes room.

A web process accepts a bounded number of connections, and one that is silent counts as any other: a client that opens a
thousand and says nothing, or never ends what it says, would have the server for itself. Time-outs do not help against
one that says a little now and then. So every second it is counted (Linux: /proc, TCP_INFO of tcp(7)), and what is too
many is taken from the address that has most, the connection first that has been quiet for longest.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from imaging_ai.serve.rates import neighbourhood

__all__ = ["Connection", "make_room", "surplus", "watch_crowd"]

_log = logging.getLogger(__name__)
_DESCRIPTORS = Path("/proc/self/fd")
_EVERY_SECONDS = 1.0
_INFO = struct.Struct("8x12I")
_LAST_SENT, _LAST_RECEIVED = 9, 11


class Connection(NamedTuple):
    """A connection of this process: its descriptor, whose it is, and for how many milliseconds nothing went over it."""

    descriptor: int
    who: str
    quiet: int


def watch_crowd(port: int, most: int) -> None:
    """Begin to see to it that this process has hardly more than `most` connections to its `port`."""
    if _DESCRIPTORS.is_dir():
        threading.Thread(target=_watch, args=(port, most), name="crowd", daemon=True).start()


def _watch(port: int, most: int) -> None:
    while True:
        time.sleep(_EVERY_SECONDS)
        if sum(1 for _ in _DESCRIPTORS.iterdir()) > most:
            try:
                make_room(port, most)
            except OSError as error:  # of descriptors that come and go: in a second there is another look
                _log.debug("connections could not be counted: %s", error)


def make_room(port: int, most: int) -> int:
    """Close what is too many, and say how many that were."""
    ended = surplus(list(_connections(port)), most)
    for one in ended:
        with suppress(OSError), _borrowed(one.descriptor) as sock:
            if sock.getsockname()[1] == port:
                sock.shutdown(socket.SHUT_RDWR)  # its owner hears of it, and closes
    if ended:
        (who, count), *_ = Counter(one.who for one in ended).most_common(1)
        _log.warning("%d connections too many were closed, %d of them from %s", len(ended), count, who)
    return len(ended)


def surplus(connections: Iterable[Connection], most: int) -> list[Connection]:
    """Choose those that have to go so that `most` remain."""
    of: dict[str, list[Connection]] = {}
    for one in sorted(connections, key=lambda one: one.quiet):
        of.setdefault(one.who, []).append(one)
    count = sum(map(len, of.values())) - most
    return [max(of.values(), key=_standing).pop() for _ in range(count)]


def _standing(theirs: list[Connection]) -> tuple[int, int]:
    return len(theirs), theirs[-1].quiet if theirs else 0


def _connections(port: int) -> Iterator[Connection]:
    for descriptor in [int(one.name) for one in _DESCRIPTORS.iterdir()]:
        with suppress(OSError), _borrowed(descriptor) as sock:  # else no connection, or none any more
            if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getsockname()[1] == port:
                told = _INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))
                who = neighbourhood(sock.getpeername()[0])
                yield Connection(descriptor, who, min(told[_LAST_SENT], told[_LAST_RECEIVED]))


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Hold a connection that is somebody else's, without closing it in the end."""
    ours = os.dup(descriptor)
    try:
        sock = socket.socket(fileno=ours)
    except OSError:  # it is something else
        os.close(ours)
        raise
    with sock:
        yield sock
