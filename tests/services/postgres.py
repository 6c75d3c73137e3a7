"""A throw-away PostgreSQL cluster, and in it a fresh database for each test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services import free_port, require_program, wait_until

#: PostgreSQL refuses to run as root.
USER = "postgres" if os.geteuid() == 0 else None


class PostgresServer:
    """A cluster of its own on loopback, which can be stopped and started again."""

    def __init__(self) -> None:
        self.postgres, initdb = require_program("postgres"), require_program("initdb")
        self.folder = Path(tempfile.mkdtemp(prefix="imaging-ai-postgres-"))
        self.port = free_port()
        if USER:
            shutil.chown(self.folder, USER)
        command = [initdb, "-D", str(self.folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, user=USER, cwd=self.folder)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "max_connections": 200,
        }
        command = [self.postgres, "-D", str(self.folder / "data")]
        for key, value in options.items():
            command += ["-c", f"{key}={value}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, user=USER, cwd=self.folder)
        wait_until(self.answers, what="PostgreSQL answers")

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Cut every connection and end: SIGINT is a fast shutdown, SIGQUIT an immediate one without a checkpoint."""
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(60)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The cluster that tests share. A test that stops it must start it again."""
    server = PostgresServer()
    server.start()
    yield server
    server.stop(signal.SIGQUIT)
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of a database that nobody else has."""
    return postgres_server.new_database()
