"""The doorbell wakes workers, embedded and on Redis, and its failures harm nobody who rings."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dramatiq
import pytest
from dramatiq import Message, Worker

from imaging_ai.errors import ConfigError
from imaging_ai.queue.broker import Doorbell, make_broker
from services import free_port, wait_until
from services.redis import RedisServer

RING: Message[None] = Message("route", "route", (), {}, {})


@pytest.fixture(params=["embedded", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    return "embedded" if request.param == "embedded" else str(request.getfixturevalue("redis_url"))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / ("a folder whose path is longer than the address of a socket may be " * 2)


@pytest.fixture
def listen(url: str, run_dir: Path) -> Iterator[Callable[[], queue.SimpleQueue[float]]]:
    """Start a worker that notes when it was woken."""
    workers: list[Worker] = []

    def start() -> queue.SimpleQueue[float]:
        heard: queue.SimpleQueue[float] = queue.SimpleQueue()
        broker = make_broker(url, run_dir)
        dramatiq.actor(lambda: heard.put(time.monotonic()), actor_name="route", queue_name="route", broker=broker)
        worker = Worker(broker, worker_threads=1, worker_timeout=50)
        worker.start()
        workers.append(worker)
        bells = run_dir / "bells" / "route"
        if url == "embedded":
            wait_until(lambda: bells.is_dir() and len(list(bells.iterdir())) >= len(workers), what="the worker listens")
        return heard

    yield start
    for worker in workers:
        worker.stop(timeout=2000)
        worker.broker.close()


Listen = Callable[[], "queue.SimpleQueue[float]"]


def test_a_ring_wakes_a_worker(listen: Listen, url: str, run_dir: Path) -> None:
    heard = listen()
    Doorbell(make_broker(url, run_dir)).ring("route")
    assert heard.get(timeout=10)


@pytest.mark.parametrize("url", ["redis"], indirect=True)  # embedded, what nobody hears does not wait
def test_rings_that_wait_unheard_are_one(listen: Listen, url: str, run_dir: Path) -> None:
    broker = make_broker(url, run_dir)
    for _ in range(50):
        broker.enqueue(RING)
    heard = listen()
    assert heard.get(timeout=10)
    with pytest.raises(queue.Empty):
        heard.get(timeout=0.5)


def test_rings_while_a_worker_is_busy_are_heard_once_and_never_lost(url: str, run_dir: Path) -> None:
    broker, go, calls = make_broker(url, run_dir), threading.Event(), queue.SimpleQueue[None]()

    def busy() -> None:
        calls.put(None)
        go.wait(20)

    dramatiq.actor(busy, actor_name="route", queue_name="route", broker=broker)
    worker = Worker(broker, worker_threads=1, worker_timeout=50)
    worker.queue_prefetch = 1
    worker.start()
    outside = make_broker(url, run_dir)
    if url == "embedded":
        wait_until(lambda: list((run_dir / "bells").glob("route/*")), what="the worker listens")
    outside.enqueue(RING)
    calls.get(timeout=10)
    for _ in range(100):
        outside.enqueue(RING)
    go.set()
    calls.get(timeout=10)
    with pytest.raises(queue.Empty):
        calls.get(timeout=0.5)
    worker.stop(timeout=2000)


def test_a_delayed_message_comes_later(listen: Listen, url: str, run_dir: Path) -> None:
    heard, asked = listen(), time.monotonic()
    make_broker(url, run_dir).enqueue(RING, delay=300)
    assert heard.get(timeout=10) - asked >= 0.3


def test_every_process_of_the_host_hears_an_embedded_ring(tmp_path: Path) -> None:
    brokers = [make_broker("embedded", tmp_path) for _ in range(3)]
    ears = [broker.consume("route", timeout=2000) for broker in brokers]
    brokers[0].enqueue(RING)
    assert [next(ear).actor_name for ear in ears] == ["route"] * 3
    for ear in ears:
        ear.close()
    assert list((tmp_path / "bells" / "route").iterdir()) == []


def test_the_socket_of_a_dead_process_is_removed_by_the_next_ring(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, time; from imaging_ai.queue.broker import make_broker;"
        "ear = make_broker('embedded', pathlib.Path(sys.argv[1])).consume('route'); "
        "print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = tmp_path / "bells" / "route"
    assert len(list(folder.iterdir())) == 1
    make_broker("embedded", tmp_path).enqueue(RING)
    assert list(folder.iterdir()) == []


def test_a_full_ear_does_not_block_who_rings(tmp_path: Path) -> None:
    broker = make_broker("embedded", tmp_path)
    ear = broker.consume("route", timeout=100)
    for _ in range(5000):
        broker.enqueue(RING)
    assert next(ear) is not None
    ear.close()


def test_ringing_without_a_broker_is_harmless_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, redis_server: RedisServer
) -> None:
    bell = Doorbell(make_broker(redis_server.url, tmp_path))
    redis_server.kill()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            bell.ring("route")
            time.sleep(0.3)
        wait_until(lambda: caplog.messages, what="the silence is logged")
        redis_server.start()
        bell.ring("route")
        wait_until(lambda: len(caplog.messages) > 1, what="the return is logged")
    assert ["silent" in message for message in caplog.messages] == [True, False]


def test_a_doorbell_rings_in_a_forked_process_too(tmp_path: Path) -> None:
    broker = make_broker("embedded", tmp_path)
    ear, bell = broker.consume("route", timeout=5000), Doorbell(broker)
    bell.ring("route")
    assert next(ear) is not None
    ear.ack(None)
    child = os.fork()
    if child == 0:
        bell.ring("route")
        time.sleep(1)
        os._exit(0)
    os.waitpid(child, 0)
    assert next(ear) is not None
    ear.close()


def test_who_rings_imports_neither_torch_nor_redis_nor_actors(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from imaging_ai.queue.broker import Doorbell, make_broker;"
        "Doorbell(make_broker('embedded', pathlib.Path(sys.argv[1]))).ring('route');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'redis', 'imaging_ai.worker')))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


def test_an_unknown_broker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="redis://"):
        make_broker(f"amqp://127.0.0.1:{free_port()}", tmp_path)
