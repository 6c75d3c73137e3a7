"""Results over TLS: to DCMTK, Orthanc and pynetdicom, and never to somebody who only says that it is them."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imaging_ai.core.tls import Identity, server_context
from imaging_ai.errors import ConfigError, DeliveryUnavailable
from imaging_ai.send import scu
from imaging_ai.send.answers import Verdict
from imaging_ai.send.destinations import Destination, DicomDestination
from imaging_ai.send.peer import connect, echo
from services.certificates import Authority
from services.orthanc import OrthancFactory
from services.peers import CT, SEG, RecordingPeer, read, small_object, stored, storescp


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("clinic"))


@pytest.fixture(scope="module")
def pacs(clinic: Authority) -> Identity:
    return clinic.issue("pacs")


@pytest.fixture(scope="module")
def ours(clinic: Authority) -> Identity:
    return clinic.issue("imaging-ai")


def over_tls(port: int, clinic: Authority, ours: Identity | None = None, **settings: object) -> DicomDestination:
    table: dict[str, object] = {"name": "pacs", "ae_title": "PEER", "host": "127.0.0.1", "port": port, "timeout": 10}
    table |= {"tls": True, "ca_file": str(clinic.ca_file)}
    if ours is not None:
        table |= {"certificate": str(ours.certificate), "key": str(ours.key)}
    made = Destination.parse({**table, **settings}, "test")
    assert isinstance(made, DicomDestination)
    return made


def send(destination: Destination, *paths: Path) -> list[Verdict]:
    instances = [stored(path) for path in paths]
    with connect(destination, instances) as peer:
        return [peer.store(instance, read(instance)).verdict for instance in instances]


def objects(folder: Path) -> list[Path]:
    small = [small_object(folder, SEG, f"1.2.3.{number}") for number in range(3)]
    large = small_object(folder, CT, "1.2.3.9")
    return [*small, large]


def test_pynetdicom_gets_every_byte_over_tls(tmp_path: Path, clinic: Authority, pacs: Identity, ours: Identity) -> None:
    context = server_context(pacs, clinic.ca_file)
    with RecordingPeer(ssl_context=context) as peer:
        assert send(over_tls(peer.port, clinic, ours), *objects(tmp_path)) == [Verdict.STORED] * 4
        echo(over_tls(peer.port, clinic, ours))
    assert peer.uids == ["1.2.3.0", "1.2.3.1", "1.2.3.2", "1.2.3.9"]


def test_dcmtk_stores_and_wants_our_certificate(
    tmp_path: Path, clinic: Authority, pacs: Identity, ours: Identity
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    options = ["+tls", str(pacs.key), str(pacs.certificate), "+cf", str(clinic.ca_file), "-rc"]
    with storescp(kept, options=options) as port:
        assert send(over_tls(port, clinic, ours, check_back=False), *objects(tmp_path)) == [Verdict.STORED] * 4
        with pytest.raises(DeliveryUnavailable, match="another certificate of ours"):
            send(over_tls(port, clinic, check_back=False), *objects(tmp_path))
    assert len(list(kept.iterdir())) == 4


def test_orthanc_stores_shows_and_knows_us_by_certificate(
    tmp_path: Path, orthanc_factory: OrthancFactory, clinic: Authority, pacs: Identity, ours: Identity
) -> None:
    tls = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(pacs.certificate),
        "DicomTlsPrivateKey": str(pacs.key),
        "DicomTlsTrustedCertificates": str(clinic.ca_file),
    }
    orthanc = orthanc_factory(**tls)
    destination = over_tls(orthanc.dicom_port, clinic, ours, ae_title=orthanc.ae_title)
    file = small_object(tmp_path, SEG, "1.2.3.7")
    with connect(destination, [stored(file)]) as peer:
        assert peer.store(stored(file), read(stored(file))).verdict is Verdict.STORED
        assert peer.holds([stored(file)]) == {"1.2.3.7"}
    with pytest.raises(DeliveryUnavailable):
        scu.echo(over_tls(orthanc.dicom_port, clinic, ae_title=orthanc.ae_title))


# -- who is not believed


def test_nothing_goes_to_a_peer_that_cannot_show_who_it_is(tmp_path: Path, clinic: Authority) -> None:
    stranger = Authority(tmp_path / "stranger")
    (file,) = [small_object(tmp_path, SEG, "1.2.3.1")]
    told = {
        stranger.issue("pacs"): "not trusted",
        clinic.issue("expired", days=-1): "not trusted .*expired",
        clinic.issue("elsewhere", host="other.example"): "not trusted .*IP address mismatch",
    }
    for identity, why in told.items():
        with RecordingPeer(ssl_context=server_context(identity)) as peer:
            with pytest.raises(DeliveryUnavailable, match=why):
                send(over_tls(peer.port, clinic), file)
            assert peer.associations == 0
    with RecordingPeer() as plain, pytest.raises(DeliveryUnavailable, match="no TLS"):
        send(over_tls(plain.port, clinic), file)


def test_a_private_authority_may_vouch_for_devices_whatever_they_are_called(clinic: Authority) -> None:
    elsewhere = clinic.issue("moved", host="other.example")
    with RecordingPeer(ssl_context=server_context(elsewhere)) as peer:
        echo(over_tls(peer.port, clinic, check_host_name=False))
        assert peer.associations == 1


def test_a_peer_of_old_tls_is_not_talked_to(clinic: Authority, pacs: Identity) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pacs.load_into(old)
    with pytest.warns(DeprecationWarning):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with RecordingPeer(ssl_context=old) as peer, pytest.raises(DeliveryUnavailable, match="no TLS"):
        echo(over_tls(peer.port, clinic))


def test_a_key_that_is_not_of_its_certificate_is_named(clinic: Authority, pacs: Identity, ours: Identity) -> None:
    wrong = over_tls(1, clinic, Identity(ours.certificate, pacs.key))
    with pytest.raises(ConfigError, match=r"destination pacs: .*imaging-ai\.pem .*no certificate with its key"):
        echo(wrong)


# -- DICOMweb


@contextmanager
def https(context: ssl.SSLContext) -> Iterator[str]:
    """A DICOMweb service that finds nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}/dicom-web"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_dicomweb_service_may_want_our_certificate(clinic: Authority, pacs: Identity, ours: Identity) -> None:
    with https(server_context(pacs, clinic.ca_file)) as url:
        table = {"name": "web", "url": url, "ca_file": str(clinic.ca_file)}
        with pytest.raises(DeliveryUnavailable):
            echo(Destination.parse(table, "test"))
        shown = {"certificate": str(ours.certificate), "key": str(ours.key)}
        echo(Destination.parse({**table, **shown}, "test"))
