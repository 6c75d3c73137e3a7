"""The application over a database on disk, asked without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from sqlmodel import SQLModel

from imaging_ai.db.engine import Database
from imaging_ai.queue.ledger import Ledger
from imaging_ai.serve.app import make_app


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'index.db'}")
    SQLModel.metadata.create_all(database.engine)
    yield database
    database.dispose()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


@pytest.fixture
def client(database: Database, ledger: Ledger) -> Iterator[TestClient[Litestar]]:
    app = make_app(database, ledger)
    with TestClient(app, raise_server_exceptions=False) as client:
        client.headers["host"] = "localhost:8080"
        yield client
