"""Too many connections: whoever has most of them makes room, and a few of somebody else's are left alone."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

from imaging_ai.serve.crowd import Connection, make_room, surplus


def test_nobody_has_to_go_while_there_is_room() -> None:
    assert surplus([Connection(1, "a", 5), Connection(2, "a", 9)], 2) == []


def test_the_quietest_of_whoever_has_most_go_first() -> None:
    crowd = [Connection(number, "crowd", number) for number in range(10)]
    few = [Connection(20, "viewer", 90_000), Connection(21, "viewer", 1)]
    assert [one.descriptor for one in surplus([*few, *crowd], 9)] == [9, 8, 7]
    assert [one.who for one in surplus([*few, *crowd], 2)].count("viewer") == 1, "in the end all are alike"
    assert len(surplus([*few, *crowd], 0)) == 12


def test_room_is_made_by_closing_what_says_nothing() -> None:
    with ExitStack() as opened, socket.create_server(("127.0.0.1", 0), backlog=20) as server:
        port = server.getsockname()[1]
        clients = [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(6)]
        taken = [opened.enter_context(server.accept()[0]) for _ in clients]
        time.sleep(0.05)
        clients[0].sendall(b"the eldest, and it speaks")
        held = set(Path("/proc/self/fd").iterdir())
        assert make_room(port, 10) == 0
        assert make_room(port, 2) == 4
        assert set(Path("/proc/self/fd").iterdir()) == held, "descriptors are the owner's to close"
        assert taken[0].recv(100) == b"the eldest, and it speaks"
        closed = 0
        for client in clients:
            client.settimeout(0.2)
            try:
                closed += client.recv(1) == b""
            except TimeoutError:
                continue
        assert closed == 4
        clients[0].sendall(b"and goes on")
        assert taken[0].recv(100) == b"and goes on"
