"""A throw-away Redis server on a free port, which can be killed, started again and flushed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
import redis

from services import free_port, require_program, wait_until


class RedisServer:
    """A server that keeps nothing on disk: what it holds dies with it."""

    def __init__(self) -> None:
        self.program = require_program("redis-server")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self.answers, what="Redis answers")

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def flush(self) -> None:
        """Make it forget everything."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A server for one test."""
    server = RedisServer()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a server that nobody else uses."""
    return redis_server.url
