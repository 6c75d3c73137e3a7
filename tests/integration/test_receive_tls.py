"""DICOM over TLS: real senders that are let in, and connections that are not."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification
from sqlalchemy import text
from sqlmodel import SQLModel

import phantoms
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.folder import FolderStore
from imaging_ai.core.tls import Identity, ServerTls, client_context
from imaging_ai.db.engine import Database
from imaging_ai.receive.peers import Certificate, Peer, parse_certificate
from imaging_ai.receive.policy import AssociationPolicy
from imaging_ai.receive.scp import StorageScp
from services import free_port, require_program, wait_until
from services.certificates import Authority, fingerprint
from services.dcmtk import Dcmtk


class Receiver:
    """A Storage SCP with TLS, one port of each kind."""

    def __init__(self, folder: Path, tls: ServerTls, policy: AssociationPolicy, *, only_tls: bool = False) -> None:
        folder.mkdir()
        self.database = Database(f"sqlite:///{folder}/index.db")
        SQLModel.metadata.create_all(self.database.engine)
        self.archive = Archive(self.database, FolderStore(folder / "store", sync=False, min_free_bytes=0))
        tls_port = free_port()
        port = tls_port if only_tls else 0
        self.scp = StorageScp(self.archive, policy, host="127.0.0.1", port=port, tls=tls, tls_port=tls_port)
        self.scp.start()
        self.port, self.tls_port = self.scp.port, self.scp.tls_port

    def close(self) -> None:
        self.scp.stop(grace_seconds=0.5)
        self.archive.close()
        self.database.dispose()

    @property
    def instances(self) -> int:
        with self.database.read() as session:
            return int(session.connection().execute(text("SELECT count(*) FROM instance")).scalar_one())

    @property
    def refusals(self) -> list[str]:
        with self.database.read() as session:
            rows = session.connection().execute(text("SELECT detail FROM audit_event WHERE outcome = 'refused'"))
            return [row.detail for row in rows]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("clinic"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def server(clinic: Authority) -> Identity:
    return clinic.issue("server")


@pytest.fixture(scope="module")
def modality(clinic: Authority) -> Identity:
    return clinic.issue("ct1")


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory, clinic: Authority) -> Iterator[Receiver]:
    """Asks for no certificates; its own has an RSA key, with which old suites would be possible."""
    policy = AssociationPolicy(artim_seconds=1.0)
    with closing(
        Receiver(tmp_path_factory.mktemp("r") / "open", ServerTls(clinic.issue("rsa", rsa_bits=2048)), policy)
    ) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, server: Identity, clinic: Authority) -> Iterator[Receiver]:
    """Asks for certificates, and knows CT1 by its own."""
    peers = (
        Peer("CT1", certificates=(parse_certificate("O=Clinic, CN=ct1"),)),
        Peer("CT2", certificates=(Certificate("0" * 64),)),
    )
    tls = ServerTls(server, clinic.ca_file)
    policy = AssociationPolicy(peers=peers)
    folder = tmp_path_factory.mktemp("r") / "asking"
    with closing(Receiver(folder, tls, policy, only_tls=True)) as receiver:
        yield receiver


def instances(count: int, name: str) -> list[Dataset]:
    return phantoms.series(np.zeros((count, 16, 16), np.float32), name=name)


def associate(port: int, context: ssl.SSLContext | None, calling: str = "CT1", handlers: Any = None) -> Any:
    entity = AE(calling)
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    entity.add_requested_context(Verification)
    tls = (context, "localhost") if context else None
    return entity.associate("127.0.0.1", port, ae_title="IMAGINGAI", tls_args=tls, evt_handlers=handlers)


def options(identity: Identity | None, ca_file: Path) -> list[str]:
    ours = ["+tls", str(identity.key), str(identity.certificate)] if identity else ["+tla"]
    return [*ours, "+cf", str(ca_file), "-aec", "IMAGINGAI", "-aet", "CT1"]


# -- who is let in


@pytest.mark.parametrize("profile", ["+px", "+py", "+pz"])
def test_dcmtk_stores_over_tls_by_every_profile_of_bcp_195(
    open_to_all: Receiver, clinic: Authority, modality: Identity, dcmtk: Dcmtk, tmp_path: Path, profile: str
) -> None:
    before = open_to_all.instances
    files = []
    for number, ds in enumerate(instances(3, f"dcmtk {profile}")):
        files.append(tmp_path / f"{number}.dcm")
        files[-1].write_bytes(phantoms.to_bytes(ds))
    done = dcmtk.store(open_to_all.tls_port, files, *options(modality, clinic.ca_file), profile)
    assert done.returncode == 0, done.stdout + done.stderr
    assert open_to_all.instances == before + 3


@pytest.mark.parametrize("data_path", ["fast", "plain"])
def test_pynetdicom_stores_over_tls_on_both_data_paths(
    tmp_path: Path, server: Identity, clinic: Authority, data_path: str
) -> None:
    policy = AssociationPolicy(data_path=data_path)
    with closing(Receiver(tmp_path / data_path, ServerTls(server), policy)) as receiver:
        assoc = associate(receiver.tls_port, client_context(clinic.ca_file))
        (large,) = instances(1, f"large over {data_path}")
        large.PixelData = bytes(range(256)) * 8000
        assert [assoc.send_c_store(ds).Status for ds in [*instances(3, f"small over {data_path}"), large]] == [0] * 4
        assert assoc.send_c_echo().Status == 0
        assoc.release()
        found = receiver.archive.instances(large.SeriesInstanceUID)
        assert large.PixelData in receiver.archive.read(found[0])
        plain = associate(receiver.port, None)
        assert plain.send_c_echo().Status == 0, "plain associations are served beside"
        plain.release()


def test_a_client_certificate_makes_a_title_a_name(
    asking: Receiver, clinic: Authority, modality: Identity, dcmtk: Dcmtk
) -> None:
    good = dcmtk.echo(asking.tls_port, *options(modality, clinic.ca_file))
    assert good.returncode == 0, good.stdout + good.stderr
    other = client_context(clinic.ca_file, clinic.issue("somebody"))
    assoc = associate(asking.tls_port, other)
    assert assoc.is_rejected
    answer = assoc.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, 1)
    assert associate(asking.tls_port, client_context(clinic.ca_file, modality), "CT2").is_rejected
    wait_until(lambda: asking.refusals.count("not-the-certificate-of-this-peer") >= 1, what="the refusal is recorded")


def test_the_fingerprint_that_openssl_shows_is_the_one_that_counts(
    tmp_path: Path, server: Identity, clinic: Authority, modality: Identity
) -> None:
    peers = (Peer("CT1", certificates=(parse_certificate(f"sha256:{fingerprint(modality)}"),)),)
    tls = ServerTls(server, clinic.ca_file, require_certificate=False)
    with closing(Receiver(tmp_path / "pinned", tls, AssociationPolicy(peers=peers))) as receiver:
        assoc = associate(receiver.tls_port, client_context(clinic.ca_file, modality))
        assert assoc.is_established
        assoc.release()
        assert associate(receiver.tls_port, client_context(clinic.ca_file)).is_rejected, "without a certificate"
        assert associate(receiver.port, None).is_rejected, "without TLS"


# -- who is not


@pytest.mark.parametrize(
    "arguments",
    [
        ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1", "-cipher", "ALL:@SECLEVEL=0"),
        ("-tls1_2", "-cipher", "NULL:@SECLEVEL=0"),
        ("-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"),
        ("-tls1_2", "-cipher", "AES128-SHA:AES256-GCM-SHA384"),
        ("-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA384"),
    ],
)
def test_old_versions_and_weak_suites_are_refused(open_to_all: Receiver, arguments: tuple[str, ...]) -> None:
    assert "Cipher is (NONE)" in s_client(open_to_all.tls_port, *arguments)


@pytest.mark.parametrize("arguments", [("-tls1_3",), ("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256")])
def test_the_suites_of_bcp_195_are_taken(open_to_all: Receiver, arguments: tuple[str, ...]) -> None:
    said = s_client(open_to_all.tls_port, *arguments)
    assert "Cipher is (NONE)" not in said
    assert "Cipher is " in said


def s_client(port: int, *arguments: str) -> str:
    command = [require_program("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", *arguments]
    return subprocess.run(command, input=b"", capture_output=True, check=False, timeout=30).stdout.decode()


def test_whoever_has_no_certificate_of_the_authority_does_not_get_in(
    asking: Receiver, clinic: Authority, stranger: Authority, dcmtk: Dcmtk
) -> None:
    for identity in (None, stranger.issue("ct1"), clinic.issue("was-ct1", days=-1)):
        assoc = associate(asking.tls_port, client_context(clinic.ca_file, identity))
        assert not assoc.is_established
        assert not assoc.is_rejected, "not even a word of DICOM"
    wait_until(lambda: "tls-certificate-verify-failed" in asking.refusals, what="the audit has it")
    assert "tls-peer-did-not-return-a-certificate" in asking.refusals
    assert dcmtk.echo(asking.port, "-aec", "IMAGINGAI").returncode != 0, (
        "one port for TLS: nothing else is spoken there"
    )


def test_who_connects_and_never_speaks_holds_nobody_up(asking: Receiver, clinic: Authority, modality: Identity) -> None:
    silent = [socket.create_connection(("127.0.0.1", asking.tls_port), 10) for _ in range(20)]
    assoc = associate(asking.tls_port, client_context(clinic.ca_file, modality))
    assert assoc.is_established
    assoc.release()
    for one in silent:
        one.setblocking(False)
        with pytest.raises(BlockingIOError):  # they still wait for their handshakes
            one.recv(1)
        one.close()


def test_who_connects_and_never_speaks_is_dropped_after_the_artim_time(open_to_all: Receiver) -> None:
    silent, half = (socket.create_connection(("127.0.0.1", open_to_all.tls_port), 20) for _ in range(2))
    half.sendall(b"\x16\x03\x01\x02\x00\x01\x00")  # the beginning of a ClientHello
    for one in (silent, half):
        while one.recv(100):  # a TLS alert may come before the end
            continue
        one.close()


def test_who_shakes_hands_and_then_is_silent_is_dropped(open_to_all: Receiver, clinic: Authority) -> None:
    sock = socket.create_connection(("127.0.0.1", open_to_all.tls_port), 10)
    with client_context(clinic.ca_file).wrap_socket(sock, server_hostname="localhost") as connection:
        connection.settimeout(20)
        assert connection.recv(10) == b""


@pytest.mark.parametrize("data_path", ["fast", "plain"])
def test_an_association_that_goes_silent_over_tls_is_aborted(
    tmp_path: Path, server: Identity, clinic: Authority, data_path: str
) -> None:
    policy = AssociationPolicy(idle_seconds=0.5, data_path=data_path)
    with closing(Receiver(tmp_path / "idle", ServerTls(server), policy)) as receiver:
        assoc = associate(receiver.tls_port, client_context(clinic.ca_file))
        assert assoc.is_established
        wait_until(lambda: not assoc.is_established, 20, what="it is ended")
        wait_until(lambda: not receiver.scp._waiting.open, 20, what="its place is free")


# -- certificates change


def test_a_renewed_certificate_needs_no_restart_and_a_broken_one_changes_nothing(
    tmp_path: Path, clinic: Authority
) -> None:
    identity = clinic.issue("renewed")
    with closing(Receiver(tmp_path / "renewed", ServerTls(identity), AssociationPolicy())) as receiver:

        def shown() -> bytes:
            sock = socket.create_connection(("127.0.0.1", receiver.tls_port), 10)
            with client_context(clinic.ca_file).wrap_socket(sock, server_hostname="localhost") as connection:
                return connection.getpeercert(binary_form=True) or b""

        first = shown()
        assert shown() == first
        clinic.issue("renewed")
        second = shown()
        assert second != first
        identity.certificate.write_text("half a certif")
        assert shown() == second


def test_stopping_says_goodbye_in_tls_and_not_beside_it(tmp_path: Path, server: Identity, clinic: Authority) -> None:
    receiver = Receiver(tmp_path / "stopping", ServerTls(server), AssociationPolicy())
    heard: list[str] = []
    handlers = [(evt.EVT_PDU_RECV, lambda event: heard.append(type(event.pdu).__name__))]
    assoc = associate(receiver.tls_port, client_context(clinic.ca_file), handlers=handlers)
    receiver.close()
    wait_until(lambda: not assoc.is_established, 10, what="the association ends")
    assert heard == ["A_ASSOCIATE_AC", "A_ABORT_RQ"]
