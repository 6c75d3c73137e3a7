"""Processes forked by a zygote, as the side that asks for them sees them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from imaging_ai.errors import ModelProcessDied
from imaging_ai.sandbox import watch
from imaging_ai.sandbox.forked import Forked, Zygote
from imaging_ai.sandbox.guardian import Over
from imaging_ai.sandbox.watch import Watch
from services import wait_until
from zygotes import let_live

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looked at by /proc")

#: Does what its socket says.
LIFE = """
while word := os.read(socket, 100):
    exec(word)
    os.write(socket, b"done")
"""

Fork = Callable[..., tuple[Forked, socket.socket]]


@pytest.fixture
def zygote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zygote]:
    let_live(monkeypatch, LIFE)
    made = Zygote()
    yield made
    made.end()


@pytest.fixture
def fork(zygote: Zygote) -> Iterator[Fork]:
    made: list[tuple[Forked, socket.socket]] = []

    def start(limit: int = 0) -> tuple[Forked, socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            made.append((Forked(zygote, theirs, limit), ours))
        return made[-1]

    yield start
    for one, way in made:
        one.end()
        way.close()


def told(way: socket.socket, code: str) -> bytes:
    way.sendall(code.encode())
    return way.recv(100)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("code", "status"), [("os._exit(3)", 3), ("os.kill(os.getpid(), 11)", -signal.SIGSEGV), ("1 / 0", 1)]
)
def test_how_a_process_ended_is_told(fork: Fork, code: str, status: int) -> None:
    process, way = fork()
    assert process.alive
    assert told(way, code) == b"", "who has the other end hears of it"
    assert process.wait(10.0) == Over(status)
    assert not process.alive


def test_a_process_is_ended_when_told(fork: Fork) -> None:
    process, way = fork()
    pid = process.pid
    assert pid is not None and told(way, "pass") == b"done"
    process.end()
    assert gone(pid)
    assert process.wait(0.0) == Over(-signal.SIGKILL)
    process.end()


def test_a_process_ends_with_the_one_that_asked_for_it(fork: Fork) -> None:
    process, way = fork()
    pid = process.pid
    assert pid is not None and told(way, "signal.signal(signal.SIGTERM, signal.SIG_IGN)") == b"done"
    process._line.close()  # as when that is killed
    wait_until(lambda: gone(pid), what="it is gone")


def test_all_end_with_their_zygote_and_the_next_is_of_another(fork: Fork, zygote: Zygote) -> None:
    processes = [fork()[0] for _ in range(2)]
    pids, first = [one.pid for one in processes], zygote.pid
    assert None not in pids and first is not None
    os.kill(first, signal.SIGKILL)
    assert [one.wait(10.0) for one in processes] == [Over(-signal.SIGKILL)] * 2
    wait_until(lambda: all(gone(pid) for pid in pids if pid), what="they are gone")
    wait_until(lambda: not psutil.pid_exists(first), what="the zygote is gone")
    assert told(fork()[1], "pass") == b"done"
    assert zygote.pid != first


def test_a_zygote_outlives_the_thread_that_needed_it_first(fork: Fork, zygote: Zygote) -> None:
    thread = threading.Thread(target=lambda: told(fork()[1], "pass"))
    thread.start()
    thread.join()
    first = zygote.pid
    time.sleep(0.1)
    assert told(fork()[1], "pass") == b"done"
    assert zygote.pid == first


def test_the_zygote_of_another_process_that_is_gone_is_named(fork: Fork, zygote: Zygote) -> None:
    fork()
    shared = Zygote.of_another(os.dup(zygote.way().fileno()))
    zygote.end()
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ModelProcessDied, match="is gone"):
        Forked(shared, theirs, 0)
    shared.end()


def test_what_a_process_holds_is_measured_and_its_most_is_told_once(fork: Fork) -> None:
    process, way = fork()
    before = process.held()
    assert told(way, "life.held = bytearray(os.urandom(1)) * (60 << 20)") == b"done"
    grown = process.held()
    assert grown.own - before.own > 50 << 20
    assert grown.most > grown.own
    assert told(way, "del life.held") == b"done"
    process.held()
    assert process.held().most < grown.most - (50 << 20)
    process.end()
    assert (process.held().own, process.held().most) == (0, 0)


def test_a_process_that_grows_is_ended_from_outside(fork: Fork) -> None:
    process, way = fork(150 << 20)
    way.sendall(b"held = bytearray(os.urandom(1)) * (200 << 20); time.sleep(60)")
    over = process.wait(30.0)
    assert over is not None and over.status == -signal.SIGKILL
    assert "grew to " in over.reason


def test_a_process_of_too_many_threads_must_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Watch(os.getpid(), 0).objection() == ""
    monkeypatch.setattr(watch, "_MOST_THREADS", 0)
    assert "threads" in Watch(os.getpid(), 0).objection()


def test_a_forked_process_has_a_socket_and_nothing_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = tmp_path / "report"
    let_live(
        monkeypatch,
        "class Serving:\n"
        "    def serve(*_):\n"
        "        opened = os.listdir('/proc/self/fd')\n"
        f"        open({str(report)!r}, 'x').write(str(opened))\n"
        "sys.modules['imaging_ai.sandbox.serving'] = Serving\n"
        "child.main(socket, guardian)",
    )
    zygote = Zygote()
    others = [socket.socketpair() for _ in range(2)]
    kept = [Forked(zygote, theirs, 0) for _, theirs in others]
    within = b"\x86\xa4mode\xa3off\xa4read\x90\xa7scratch\xa1/\xadscratch_bytes\x00\xacmemory_bytes\x00\xa3gpu\xc2"
    others[1][0].sendall(len(within).to_bytes(4, "big") + within)
    assert kept[1].wait(10.0) == Over(0)
    opened = set(map(int, eval(report.read_text()))) - {0, 1, 2}
    assert len(opened) == 2, "its socket, and what it listed them with"
    zygote.end()


def test_a_signal_to_a_group_reaches_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    let_live(monkeypatch, "os.setsid()\nos.read(socket, 1)\nos.kill(0, signal.SIGKILL)")
    zygote = Zygote()
    pairs = [socket.socketpair() for _ in range(2)]
    one, other = [Forked(zygote, theirs, 0) for _, theirs in pairs]
    pairs[0][0].sendall(b"x")
    assert one.wait(10.0) == Over(-signal.SIGKILL)
    assert other.alive
    zygote.end()
