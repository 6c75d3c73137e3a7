"""Connections that say nothing, in any number."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.sop_class import Verification
from sqlmodel import SQLModel

from imaging_ai.archive.archive import Archive
from imaging_ai.archive.folder import FolderStore
from imaging_ai.db.engine import Database
from imaging_ai.receive.policy import AssociationPolicy
from imaging_ai.receive.scp import StorageScp
from imaging_ai.receive.waiting import WaitingRoom
from services import wait_until


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


def crowd_of(scp: StorageScp, number: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", scp.port), timeout=20) for _ in range(number)]


def test_silent_connections_take_a_bounded_number_of_threads(scp: StorageScp) -> None:
    before = threading.active_count()
    crowd = crowd_of(scp, 65 + 40)
    for one in crowd[:40]:
        one.settimeout(10)  # long before the ARTIM timer
        assert one.recv(1) == b"", "closed when another came"
    wait_until(lambda: threading.active_count() - before < 65 + 40, what="their threads ended")
    for one in crowd[40:]:
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.recv(1)
    for one in crowd:
        one.close()


@pytest.mark.parametrize("silent", [2, 80])
def test_a_silent_crowd_keeps_nobody_out(scp: StorageScp, silent: int) -> None:
    crowd = crowd_of(scp, silent)
    entity = AE("CT1")
    entity.add_requested_context(Verification)
    assoc = entity.associate("127.0.0.1", scp.port, ae_title="IMAGINGAI")
    assert assoc.is_established, "more connections than associations may be, and none of them is one"
    heard: list[Any] = []
    listens: list[Any] = [(evt.EVT_PDU_RECV, lambda event: heard.append(event.pdu))]
    entity.associate("127.0.0.1", scp.port, ae_title="IMAGINGAI", evt_handlers=listens)
    # not `is_rejected`: on a busy machine the requestor takes a connection that is closed again for one that failed
    (rejection,) = heard
    assert isinstance(rejection, A_ASSOCIATE_RJ) and rejection.reason_str == "Local limit exceeded", "one may be"
    assoc.release()
    for one in crowd:
        one.close()


def test_who_opens_most_connections_is_the_one_that_is_crowded_out() -> None:
    told: list[str] = []
    room = WaitingRoom(3, told.append)
    pairs = [socket.socketpair() for _ in range(5)]
    with ExitStack() as opened:
        heard = [
            opened.enter_context(room.enter(ours, where))
            for (ours, _), where in zip(pairs, ("crowd", "modality", "crowd", "crowd"), strict=False)
        ]
        assert told == ["crowd"] and pairs[0][1].recv(1) == b""
        heard[2]()
        heard[3]()
        opened.enter_context(room.enter(pairs[4][0], "crowd"))
        assert told == ["crowd", "modality"], "who was heard is left alone"
        assert room.open == 5
    assert room.open == 0
    for pair in pairs:
        for one in pair:
            one.close()
