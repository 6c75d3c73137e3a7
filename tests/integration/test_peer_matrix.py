"""Every peer and every DIMSE service: what `may` says is done, and everything else is refused, on both data paths."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    PatientRootQueryRetrieveInformationModelFind,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    UnifiedProcedureStepPush,
    Verification,
)
from sqlalchemy import text
from sqlmodel import SQLModel

from imaging_ai.archive.archive import Archive
from imaging_ai.archive.folder import FolderStore
from imaging_ai.db.engine import Database
from imaging_ai.receive.peers import Peer
from imaging_ai.receive.policy import AssociationPolicy
from imaging_ai.receive.scp import StorageScp
from storing import ct

#: What nobody is offered: C-FIND, C-MOVE, C-GET, N-ACTION, N-CREATE.
NOT_OFFERED = (
    StudyRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelFind,
    ModalityWorklistInformationFind,
    StudyRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelGet,
    StorageCommitmentPushModel,
    ModalityPerformedProcedureStep,
    UnifiedProcedureStepPush,
)
#: Results of a presentation context (PS3.8 9.3.3.2), and a status (PS3.7 C.5).
USER_REJECTION, NO_ABSTRACT_SYNTAX, NOT_AUTHORIZED = 1, 3, 0x0124
MAY: dict[str, frozenset[str]] = {
    "BOTH": frozenset({"echo", "store"}),
    "ECHO": frozenset({"echo"}),
    "STORE": frozenset({"store"}),
    "NOTHING": frozenset(),
}


@dataclass(frozen=True)
class Receiver:
    """A Storage SCP that knows four peers."""

    scp: StorageScp
    database: Database

    def associate(self, calling: str, *classes: Any) -> Any:
        entity = AE(calling)
        for one in classes:
            entity.add_requested_context(one, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        return entity.associate("127.0.0.1", self.scp.port, ae_title="IMAGINGAI")

    def held(self) -> int:
        with self.database.read() as session:
            return int(session.connection().scalar(text("SELECT count(*) FROM instance")) or 0)


@pytest.fixture(scope="module", params=["fast", "plain"])
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    folder = tmp_path_factory.mktemp("peers")
    database = Database(f"sqlite:///{folder}/index.db")
    SQLModel.metadata.create_all(database.engine)
    archive = Archive(database, FolderStore(folder / "store", sync=False, min_free_bytes=0))
    policy = AssociationPolicy(peers=tuple(Peer(title, may=may) for title, may in MAY.items()), data_path=request.param)
    scp = StorageScp(archive, policy, lambda _series, _graceful: None, host="127.0.0.1")
    scp.start()
    yield Receiver(scp, database)
    scp.stop(grace_seconds=1)
    archive.close()
    database.dispose()


@pytest.mark.parametrize("title", [*MAY, "STRANGER"])
def test_a_peer_does_what_it_may_and_nothing_else(receiver: Receiver, title: str) -> None:
    may, (image,) = MAY.get(title, frozenset()), ct(1, title)
    assoc, before = receiver.associate(title, Verification, CTImageStorage, *NOT_OFFERED), receiver.held()
    if title == "STRANGER":
        assert not assoc.is_established
        return
    accepted = {str(one.abstract_syntax) for one in assoc.accepted_contexts}
    rejected = {str(one.abstract_syntax): one.result for one in assoc.rejected_contexts}
    answered = {}
    if Verification in accepted:
        answered["echo"] = assoc.send_c_echo().Status
    if CTImageStorage in accepted:
        answered["store"] = assoc.send_c_store(image).Status
    assoc.abort()
    assert {rejected.pop(uid) for uid in NOT_OFFERED} == {NO_ABSTRACT_SYNTAX}
    assert set(rejected.values()) <= {USER_REJECTION}
    assert {what for what, status in answered.items() if status == 0x0000} == may
    assert {status for what, status in answered.items() if what not in may} <= {NOT_AUTHORIZED}
    assert receiver.held() - before == ("store" in may)


@pytest.mark.parametrize("title", ["ECHO", "STORE"])
def test_a_service_is_not_had_over_the_context_of_another(receiver: Receiver, title: str) -> None:
    """A peer that negotiates what it may, and then sends what it may not."""
    (image,) = ct(1, f"smuggled-{title}")
    own, other = (Verification, CTImageStorage) if title == "ECHO" else (CTImageStorage, Verification)
    assoc, before = receiver.associate(title, own), receiver.held()
    (context,) = assoc.accepted_contexts
    context._abstract_syntax = other  # what the library believes was agreed
    answer = assoc.send_c_store(image) if title == "ECHO" else assoc.send_c_echo()
    assoc.abort()
    assert answer.get("Status", "aborted") != 0x0000
    assert receiver.held() == before


def test_who_is_refused_leaves_nothing_open(receiver: Receiver) -> None:
    for _ in range(5):
        assert not receiver.associate("STRANGER", Verification).is_established
    with socket.create_connection(("127.0.0.1", receiver.scp.port)):
        assoc = receiver.associate("BOTH", Verification)
        assert assoc.send_c_echo().Status == 0x0000
        assoc.release()
