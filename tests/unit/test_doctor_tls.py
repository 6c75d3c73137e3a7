"""What `imaging-ai doctor` says of certificates and of a receiver over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from imaging_ai import doctor
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.folder import FolderStore
from imaging_ai.core.tls import Identity, ServerTls
from imaging_ai.db.engine import Database
from imaging_ai.receive.peers import Peer
from imaging_ai.receive.policy import AssociationPolicy
from imaging_ai.receive.scp import StorageScp
from services import free_port
from services.certificates import Authority


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("clinic"))


def test_a_certificate_is_well_while_it_is_good_and_its_key_is_nobodys(clinic: Authority) -> None:
    good = clinic.issue("good", days=90)
    assert doctor.check_certificate("of DICOM", good).detail == "good for 90 days more"
    good.key.chmod(0o644)
    assert "chmod 600" in doctor.check_certificate("of DICOM", good).detail
    ending = doctor.check_certificate("of DICOM", clinic.issue("ending", days=3))
    assert (ending.ok, "is good for 3 days more" in ending.detail) == (False, True)
    mixed = Identity(clinic.issue("one").certificate, clinic.issue("other").key)
    assert "no certificate with its key" in doctor.check_certificate("of DICOM", mixed).detail


@contextmanager
def receiving(folder: Path, tls: ServerTls, peers: tuple[Peer, ...] = ()) -> Iterator[int]:
    database = Database(f"sqlite:///{folder}/index.db")
    SQLModel.metadata.create_all(database.engine)
    archive = Archive(database, FolderStore(folder / "store", min_free_bytes=0))
    port = free_port()
    scp = StorageScp(archive, AssociationPolicy(peers=peers), host="127.0.0.1", port=port, tls=tls, tls_port=port)
    scp.start()
    yield port
    scp.stop(0.5)
    archive.close()
    database.dispose()


def test_our_own_receiver_is_found_over_tls(tmp_path: Path, clinic: Authority) -> None:
    ours = clinic.issue("ours", host="imaging.clinic.example")
    with receiving(tmp_path, ServerTls(ours, clinic.ca_file)) as port:
        found = doctor.check_receiver("IMAGINGAI", "127.0.0.1", port, ours)
        assert (found.ok, found.detail) == (True, f"IMAGINGAI answers on 127.0.0.1:{port} over TLS")
        assert not doctor.check_receiver("IMAGINGAI", "127.0.0.1", port).ok, "nothing else is spoken there"


def test_a_receiver_for_others_is_well_too(tmp_path: Path, clinic: Authority) -> None:
    ours = clinic.issue("ours")
    devices = Authority(tmp_path / "devices")
    with receiving(tmp_path, ServerTls(ours, devices.ca_file)) as port:
        found = doctor.check_receiver("IMAGINGAI", "127.0.0.1", port, ours)
        assert (found.ok, "for the peers of its list only" in found.detail) == (True, True)
    with receiving(tmp_path, ServerTls(ours), (Peer("CT1"),)) as port:
        found = doctor.check_receiver("IMAGINGAI", "127.0.0.1", port, ours)
        assert (found.ok, "for the peers of its list only" in found.detail) == (True, True)
