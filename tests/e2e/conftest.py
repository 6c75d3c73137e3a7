"""The server under test, on each pair of back ends. Starting one takes seconds, so the tests of a module share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from e2e.server import Server
from services.orthanc import Orthanc
from services.redis import RedisServer

ServerFactory = Callable[..., Server]


@pytest.fixture
def server_factory(tmp_path: Path) -> Iterator[ServerFactory]:
    """Makes servers, and stops what they started."""
    servers: list[Server] = []

    def make(settings: str = "", environment: Mapping[str, str] | None = None, name: str = "server") -> Server:
        server = Server(tmp_path / name, settings, environment)
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="module", params=["sqlite+embedded", "postgresql+redis"])
def back_ends(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The environment of a server on one pair of back ends."""
    if request.param == "sqlite+embedded":
        yield {}
        return
    redis = RedisServer()
    redis.start()
    database = request.getfixturevalue("postgres_server").new_database()
    yield {"IMAGING_AI_DATABASE_URL": database, "IMAGING_AI_BROKER_URL": redis.url}
    redis.kill()


@pytest.fixture(scope="module")
def pacs(_shared_orthanc: Orthanc) -> Orthanc:
    """A real Orthanc, empty when the module begins."""
    _shared_orthanc.reset()
    return _shared_orthanc
