"""Too many connections: whoever has most of them makes room, and a few of somebody else's are left alone."""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path

import pytest

from imaging_ai.serve.crowd import Connection, Taken, _connections, end_stalled, make_room, surplus


def test_nobody_has_to_go_while_there_is_room() -> None:
    assert surplus([Connection(1, "a", 5), Connection(2, "a", 9)], 2) == []


def test_the_quietest_of_whoever_has_most_go_first() -> None:
    crowd = [Connection(number, "crowd", number) for number in range(10)]
    few = [Connection(20, "viewer", 90_000), Connection(21, "viewer", 1)]
    assert [one.descriptor for one in surplus([*few, *crowd], 9)] == [9, 8, 7]
    assert [one.who for one in surplus([*few, *crowd], 2)].count("viewer") == 1, "in the end all are alike"
    assert len(surplus([*few, *crowd], 0)) == 12


def test_the_connections_of_a_proxy_are_everybodys_and_not_one_crowd() -> None:
    with ExitStack() as opened, socket.create_server(("127.0.0.1", 0), backlog=20) as server:
        port = server.getsockname()[1]
        clients = [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3)]
        taken = [opened.enter_context(server.accept()[0]) for _ in clients]
        assert len({one.who for one in _connections(port) if one.peer}) == 1
        proxied = {
            one.who for one in _connections(port, (ip_network("127.0.0.1"),)) if one.descriptor != server.fileno()
        }
        assert len(proxied) == len(taken)


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


def test_who_takes_next_to_nothing_of_an_answer_is_let_go_and_who_reads_on_is_not() -> None:
    with ExitStack() as opened, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        clients = [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3)]
        taken = [opened.enter_context(server.accept()[0]) for _ in clients]
        filled(taken[0])
        left = filled(taken[1])
        seen = settled(port)
        assert len(seen) == 2, "one has nothing to take, and who was not seen before has time"
        stalled, reads, idle = clients
        stalled.recv(1)
        while left:
            left -= len(reads.recv(min(left, 1 << 16)))
        filled(taken[1])
        assert len(end_stalled(port, seen)) == 1
        taken[0].close()
        with pytest.raises(ConnectionResetError):
            while stalled.recv(1 << 20):
                continue
        idle.sendall(b"still here")
        assert taken[2].recv(100) == b"still here"


def settled(port: int) -> Taken:
    """What was taken when nothing is on its way any more."""
    before = end_stalled(port, {})
    while time.sleep(0.05) or (now := end_stalled(port, {})) != before:
        before = now
    return before


def filled(sock: socket.socket) -> int:
    """Send more than is taken, and return how much found room."""
    sock.setblocking(False)
    size = 0
    try:
        while True:
            size += sock.send(bytes(1 << 16))
    except BlockingIOError:
        return size


def test_who_looks_for_connections_lets_go_no_lock_of_a_file(tmp_path: Path) -> None:
    """To close any descriptor of a file lets go every lock that the process has on it: SQLite would read torn pages."""
    with (tmp_path / "locked").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        list(_connections(1))
        program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        tried = subprocess.run([sys.executable, "-c", program, file.name], capture_output=True, check=False)
        assert b"BlockingIOError" in tried.stderr


def test_a_reader_of_the_index_stays_a_reader_while_connections_are_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("PRAGMA journal_mode=WAL")
    reader.execute("CREATE TABLE a (b)")
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM a").fetchall()
    list(_connections(1))
    mine = [line for line in Path("/proc/locks").read_text().splitlines() if f" {os.getpid()} " in line]
    inodes = {str(Path(f"{path}{end}").stat().st_ino) for end in ("", "-shm")}
    assert inodes <= {line.split()[5].rpartition(":")[2] for line in mine}
    reader.close()
