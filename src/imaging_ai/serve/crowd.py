"""Connections in any number keep nobody out, and none is held for ever by who hardly takes what was asked for.

A web process accepts a bounded number of connections, and one that is silent counts as any other: a client that opens a
thousand and says nothing, or never ends what it says, would have the server for itself. Time-outs do not help against
one that says a little now and then. So every second it is counted (Linux: /proc, TCP_INFO of tcp(7)), and what is too
many is taken from the address that has most, the connection first that has been quiet for longest.

An answer that waits holds files and memory. So every minute it is looked which connections had something waiting for
them a minute ago, still have, and have taken next to nothing since: those are closed.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import stat
import struct
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from imaging_ai.core.addresses import IPNetwork, is_within, neighbourhood

__all__ = ["Connection", "Taken", "end_stalled", "make_room", "surplus", "watch_crowd"]

_log = logging.getLogger(__name__)
_DESCRIPTORS = Path("/proc/self/fd")
_EVERY_SECONDS, _LOOKS_A_MINUTE = 1.0, 60
#: So much must be taken in a minute of an answer that waits.
_LEAST_BYTES = 16 << 10
#: Of tcp_info: the twelve numbers of the beginning, bytes_acked, and notsent_bytes (Linux 4.6).
_INFO = struct.Struct("=8x12I64xQ16xI")
_LAST_SENT, _LAST_RECEIVED = 9, 11

#: What was not sent when it is closed is dropped.
_AT_ONCE = struct.pack("ii", 1, 0)

#: How many bytes were taken by each connection that others wait in, by its descriptor and its peer.
Taken = dict[tuple[int, object], int]


class Connection(NamedTuple):
    """A connection of this process: its descriptor, whose it is, and for how many milliseconds nothing went over it.

    `taken` bytes were acknowledged by its `peer`, and `waiting` ones could not be sent yet.
    """

    descriptor: int
    who: str
    quiet: int
    peer: object = None
    taken: int = 0
    waiting: int = 0


def watch_crowd(port: int, most: int, proxies: Collection[IPNetwork] = ()) -> None:
    """Begin to see to it that this process has hardly more than `most` connections to its `port`, and none for ever.

    Each connection of one of `proxies` may be somebody else's.
    """
    if _DESCRIPTORS.is_dir():
        threading.Thread(target=_watch, args=(port, most, proxies), name="crowd", daemon=True).start()


def _watch(port: int, most: int, proxies: Collection[IPNetwork]) -> None:
    taken: Taken = {}
    for look in itertools.count(1):
        time.sleep(_EVERY_SECONDS)
        try:
            if sum(1 for _ in _DESCRIPTORS.iterdir()) > most:
                make_room(port, most, proxies)
            if look % _LOOKS_A_MINUTE == 0:
                taken = end_stalled(port, taken)
        except OSError as error:  # of descriptors that come and go: in a second there is another look
            _log.debug("connections could not be counted: %s", error)


def make_room(port: int, most: int, proxies: Collection[IPNetwork] = ()) -> int:
    """Close what is too many, and say how many that were."""
    ended = surplus(list(_connections(port, proxies)), most)
    _end(ended, port, "too many")
    return len(ended)


def end_stalled(port: int, before: Taken) -> Taken:
    """Close what had something waiting before, still has, and took hardly any of it; return what others have taken."""
    ended: list[Connection] = []
    taken: Taken = {}
    for one in _connections(port):
        if not one.waiting:
            continue
        key = one.descriptor, one.peer
        if one.taken - before.get(key, -_LEAST_BYTES) < _LEAST_BYTES:
            ended.append(one)
        else:
            taken[key] = one.taken
    _end(ended, port, "that took nothing of their answers")
    return taken


def _end(ended: Sequence[Connection], port: int, why: str) -> None:
    for one in ended:
        with suppress(OSError), _borrowed(one.descriptor) as sock:
            if sock.getsockname()[1] == port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                sock.shutdown(socket.SHUT_RDWR)  # its owner hears of it, and closes
    if ended:
        (who, count), *_ = Counter(one.who for one in ended).most_common(1)
        _log.warning("%d connections %s were closed, %d of them from %s", len(ended), why, count, who)


def surplus(connections: Iterable[Connection], most: int) -> list[Connection]:
    """Choose those that have to go so that `most` remain."""
    of: dict[str, list[Connection]] = {}
    for one in sorted(connections, key=lambda one: one.quiet):
        of.setdefault(one.who, []).append(one)
    count = sum(map(len, of.values())) - most
    return [max(of.values(), key=_standing).pop() for _ in range(count)]


def _standing(theirs: list[Connection]) -> tuple[int, int]:
    return len(theirs), theirs[-1].quiet if theirs else 0


def _connections(port: int, proxies: Collection[IPNetwork] = ()) -> Iterator[Connection]:
    for descriptor in [int(one.name) for one in _DESCRIPTORS.iterdir()]:
        with suppress(OSError), _borrowed(descriptor) as sock:  # else no connection, or none any more
            if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getsockname()[1] == port:
                told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
                *times, taken, waiting = _INFO.unpack(told.ljust(_INFO.size, b"\0"))
                peer, quiet = sock.getpeername(), min(times[_LAST_SENT], times[_LAST_RECEIVED])
                who = f"{peer[0]} #{descriptor}" if is_within(peer[0], proxies) else neighbourhood(peer[0])
                yield Connection(descriptor, who, quiet, peer, taken, waiting)


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Hold a connection that is somebody else's, without closing it in the end.

    A descriptor of a file is left alone: to close one, a copy too, lets go every lock that this process has on that
    file (fcntl(2)), and those are what keeps the pages that SQLite reads from being written meanwhile.
    """
    _require_socket(descriptor)
    ours = os.dup(descriptor)
    _require_socket(ours)  # else it became a file just now, and stays open
    with socket.socket(fileno=ours) as sock:
        yield sock


def _require_socket(descriptor: int) -> None:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
