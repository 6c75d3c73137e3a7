"""The entrance over a database on disk, and a clock that a test moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from entering import open_entrance
from imaging_ai.db.engine import Database
from imaging_ai.people.entrance import Entrance
from ledgers import Clock


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'people.db'}")
    SQLModel.metadata.create_all(database.engine)
    yield database
    database.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def entrance(database: Database, clock: Clock) -> Entrance:
    return open_entrance(database, clock=clock)
