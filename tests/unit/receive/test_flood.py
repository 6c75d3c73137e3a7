"""Connections that say nothing, in any number."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from imaging_ai.archive.archive import Archive
from imaging_ai.archive.folder import FolderStore
from imaging_ai.db.engine import Database
from imaging_ai.receive.policy import AssociationPolicy
from imaging_ai.receive.scp import StorageScp


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[StorageScp]:
    database = Database(f"sqlite:///{tmp_path}/index.db")
    SQLModel.metadata.create_all(database.engine)
    archive = Archive(database, FolderStore(tmp_path / "store", min_free_bytes=0))
    started = StorageScp(archive, AssociationPolicy(max_associations=1), host="127.0.0.1")
    started.start()
    yield started
    started.stop(0.0)
    archive.close()
    database.dispose()


def test_silent_connections_take_a_bounded_number_of_threads(scp: StorageScp) -> None:
    before = threading.active_count()
    crowd = [socket.create_connection(("127.0.0.1", scp.port), timeout=20) for _ in range(65)]
    late = [socket.create_connection(("127.0.0.1", scp.port), timeout=20) for _ in range(40)]
    for one in late:
        one.settimeout(10)  # long before the ARTIM timer
        assert one.recv(1) == b"", "closed at once"
    assert threading.active_count() - before < 65 + 40
    for one in crowd + late:
        one.close()
