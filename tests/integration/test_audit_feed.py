"""The live feed: everything arrives in its order over TLS (RFC 5425), whatever the server does meanwhile."""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import text

from imaging_ai import audit
from imaging_ai.audit.anchor import anchors_in
from imaging_ai.audit.context import Source
from imaging_ai.audit.feed import Feed, Keeper
from imaging_ai.audit.keys import Keyring, open_keys
from imaging_ai.audit.rotation import rotate_key
from imaging_ai.audit.syslog import Receiver, packet
from imaging_ai.audit.trail import attach
from imaging_ai.audit.verify import feed_seal, verify
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.errors import ConfigError, DeliveryUnavailable
from services import free_port, require_program, wait_until

KEYS = Keyring.of(b"k" * 32)
SOURCE = Source("IMAGINGAI", "server.example")
SEQUENCE = re.compile(rb'type="sequence" value="([^"]+)"')


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a certificate for 127.0.0.1, which is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "syslog")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(serialization.Encoding.PEM, *plain)
    )
    return path


class Listener:
    """A TLS syslog server; `break_after` connections are reset after so many bytes, unread."""

    def __init__(self, certificate: Path, port: int = 0, *, broken: int = 0) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        self.socket = socket.create_server(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        self.broken = broken
        self.messages: list[bytes] = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                with contextlib.suppress(ssl.SSLError, OSError):
                    self.take(connection)

    def take(self, connection: socket.socket) -> None:
        with self.context.wrap_socket(connection, server_side=True) as stream:
            if self.broken > 0:
                self.broken -= 1
                stream.recv(100)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return
            data = b""
            while part := stream.recv(65_536):
                data += part
            self.messages += frames(data)
            with contextlib.suppress(OSError):
                stream.unwrap()

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(5)

    @property
    def sequences(self) -> list[int]:
        return sequences(self.messages)


def frames(data: bytes) -> list[bytes]:
    """Take octet-counted frames apart (RFC 5425 4.3)."""
    found = []
    while data:
        length, _, data = data.partition(b" ")
        found.append(data[: int(length)])
        assert len(found[-1]) == int(length)
        data = data[int(length) :]
    return found


def sequences(messages: list[bytes]) -> list[int]:
    return [int(base64.b64decode(found)) for one in messages for found in SEQUENCE.findall(one)]


@pytest.fixture
def listener(certificate: Path) -> Iterator[Listener]:
    listener = Listener(certificate)
    yield listener
    listener.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    attach(database, KEYS)
    migrate.upgrade(database)
    yield database
    database.dispose()


def write(database: Database, count: int) -> None:
    with database.write() as session:
        for number in range(count):
            audit.record(session, "read-frames", object_type="series", object_uid=f"1.2.{number}", actor="jörg")


def feed(database: Database, port: int, certificate: Path, owner: str = "me") -> Feed:
    return Feed(database, Receiver.parse(f"tls://127.0.0.1:{port}", str(certificate)), SOURCE, owner)


def test_every_event_arrives_once_and_in_order_and_new_ones_later(
    database: Database, listener: Listener, certificate: Path
) -> None:
    one = feed(database, listener.port, certificate)
    assert not one.send_some(), "nothing to send"
    write(database, 1_200)
    assert [one.send_some(), one.send_some(), one.send_some(), one.send_some()] == [True, True, False, False]
    write(database, 3)
    one.send_some()
    assert listener.sequences == list(range(1, 1_204))


def test_a_message_has_the_header_that_dicom_wants(database: Database, listener: Listener, certificate: Path) -> None:
    write(database, 1)
    feed(database, listener.port, certificate).send_some()
    (told,) = listener.messages
    header, mark, xml = told.partition(b"\xef\xbb\xbf")
    assert re.fullmatch(
        rb"<85>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z server\.example imaging-ai \d+ DICOM\+RFC3881 - ", header
    )
    assert mark and xml.startswith(b"<AuditMessage>") and "jörg".encode() in xml


def test_a_batch_that_the_server_did_not_read_to_its_end_is_sent_again(database: Database, certificate: Path) -> None:
    listener = Listener(certificate, broken=2)
    one = feed(database, listener.port, certificate)
    write(database, 400)
    for _ in range(2):
        with pytest.raises(DeliveryUnavailable):
            one.send_some()
    one.send_some()
    assert listener.sequences == list(range(1, 401))
    listener.close()


def test_another_process_goes_on_where_one_died_and_never_beside_it(
    database: Database, listener: Listener, certificate: Path
) -> None:
    write(database, 2)
    first, second = (feed(database, listener.port, certificate, owner) for owner in ("first", "second"))
    first.send_some()
    write(database, 2)
    second.send_some()
    assert listener.sequences == [1, 2], "the lease is the first one's"
    with database.write() as session:
        session.connection().exec_driver_sql("UPDATE audit_feed SET lease_until = 0")
    second.send_some()
    assert listener.sequences == [1, 2, 3, 4]


def test_a_trail_that_was_cut_off_is_told_and_sent_once_more(
    database: Database, listener: Listener, certificate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = feed(database, listener.port, certificate)
    write(database, 5)
    one.send_some()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_event_kept")
        connection.exec_driver_sql("DELETE FROM audit_event WHERE id > 3")
    one.send_some()
    assert "event 5 of the audit trail was sent and is gone" in caplog.text
    assert listener.sequences == [1, 2, 3, 4, 5, 1, 2, 3]


@pytest.mark.parametrize("seal", ["", "0" * 64, feed_seal(b"an earlier key, or somebody's own!", "syslog", 9)])
def test_who_moves_on_what_was_sent_has_it_all_sent_and_is_told_of(
    database: Database, listener: Listener, certificate: Path, caplog: pytest.LogCaptureFixture, seal: str
) -> None:
    one = feed(database, listener.port, certificate)
    write(database, 3)
    one.send_some()
    write(database, 6)
    assert verify(database, KEYS).whole
    with database.write() as session:
        values = {"seal": seal}
        session.connection().execute(text("UPDATE audit_feed SET sent = 9, seal = :seal"), values)
    (told,) = verify(database, KEYS).broken
    assert (told.sequence, "not what was noted" in told.reason) == (9, True)
    one.send_some()
    assert "noted by somebody else" in caplog.text
    assert listener.sequences == [1, 2, 3, *range(1, 10)]
    assert not one.send_some()
    assert verify(database, KEYS).whole


def test_a_note_that_was_good_once_only_has_events_sent_again(
    database: Database, listener: Listener, certificate: Path
) -> None:
    one = feed(database, listener.port, certificate)
    write(database, 2)
    one.send_some()
    with database.read() as session:
        (old,) = session.connection().exec_driver_sql("SELECT sent, seal FROM audit_feed").all()
    write(database, 2)
    one.send_some()
    with database.write() as session:
        session.connection().execute(text("UPDATE audit_feed SET sent = :sent, seal = :seal"), old._asdict())
    one.send_some()
    assert listener.sequences == [1, 2, 3, 4, 3, 4]


def test_nobody_holds_the_feed_for_ever(database: Database, listener: Listener, certificate: Path) -> None:
    one = feed(database, listener.port, certificate)
    write(database, 1)
    one.send_some()
    write(database, 1)
    with database.write() as session:
        session.connection().exec_driver_sql("UPDATE audit_feed SET owner = 'nobody', lease_until = 1e12")
    one.send_some()
    assert listener.sequences == [1, 2]


def test_a_rotation_of_the_key_loses_and_repeats_nothing(
    database: Database, listener: Listener, certificate: Path, tmp_path: Path
) -> None:
    (tmp_path / "audit.key").write_text(KEYS.key.hex() + "\n")
    (tmp_path / "audit.key").chmod(0o600)
    attach(database, open_keys(tmp_path / "audit.key"))
    one = feed(database, listener.port, certificate)
    write(database, 2)
    one.send_some()
    keys = rotate_key(database, tmp_path / "audit.key", actor="root")
    write(database, 2)
    one.send_some()
    assert listener.sequences == [1, 2, 3, 4, 5]
    assert verify(database, keys).whole
    with database.write() as session:
        values = {"seal": feed_seal(KEYS.key, "syslog", 9)}
        session.connection().execute(text("UPDATE audit_feed SET sent = 9, seal = :seal"), values)
    assert not verify(database, keys).whole, "the old key notes nothing any more"


@pytest.mark.parametrize("url", ["http://x", "tls://", "tls://x:port", "tls://x/path", "udp://x:70000", "x:514"])
def test_an_address_that_is_none_is_refused_with_its_setting(url: str) -> None:
    with pytest.raises(ConfigError, match=r"audit\.syslog"):
        Receiver.parse(url)


def test_a_server_that_is_not_who_it_should_be_gets_nothing(
    database: Database, listener: Listener, certificate: Path
) -> None:
    write(database, 1)
    stranger = Feed(database, Receiver.parse(f"tls://127.0.0.1:{listener.port}"), SOURCE, "me")
    with pytest.raises(DeliveryUnavailable, match="self-signed"):
        stranger.send_some()
    misnamed = Feed(database, Receiver.parse(f"tls://localhost:{listener.port}", str(certificate)), SOURCE, "me")
    with pytest.raises(DeliveryUnavailable, match="localhost"):
        misnamed.send_some()
    assert listener.messages == []


def test_a_server_that_is_away_or_silent_holds_nobody_up(
    database: Database, certificate: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections and never says a word
    keeper = Keeper(database, tmp_path / "anchors", feed(database, silent.getsockname()[1], certificate))
    write(database, 3)
    for _ in range(5):
        keeper.nudge()
        write(database, 1)
    wait_until(lambda: (tmp_path / "anchors").exists(), what="the end is anchored all the same")
    silent.close()
    assert keeper._thread is not None
    keeper._thread.join(15)
    keeper.step()
    keeper.step()
    assert caplog.text.count("the feed of the audit trail waits") <= 2, "said once for each reason"
    listener = Listener(certificate)
    gone_on = Keeper(database, tmp_path / "anchors", feed(database, listener.port, certificate))
    with database.write() as session:
        session.connection().exec_driver_sql("UPDATE audit_feed SET lease_until = 0")
    gone_on.step()
    assert listener.sequences == list(range(1, 9))
    assert [one and one.sequence for one in anchors_in(tmp_path / "anchors")][-1] == 8
    listener.close()


def test_datagrams_carry_one_message_each() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        Receiver.parse(f"udp://127.0.0.1:{receiver.getsockname()[1]}").deliver([packet(b"<x/>", 0.0, SOURCE)])
        assert receiver.recv(1_000).endswith(
            b"1970-01-01T00:00:00.000Z server.example imaging-ai %d DICOM+RFC3881 - \xef\xbb\xbf<x/>" % os.getpid()
        )


# -- a real server


@pytest.fixture
def rsyslog(tmp_path: Path, certificate: Path) -> Iterator[tuple[int, int, Path]]:
    """Rsyslog with TLS and UDP: its ports, and the file that it writes."""
    program = require_program("rsyslogd")
    tls, udp, log = free_port(), free_port(), tmp_path / "audit.log"
    text = certificate.read_text()
    end = "-----END CERTIFICATE-----\n"
    (tmp_path / "cert.pem").write_text(text.partition(end)[0] + end)
    (tmp_path / "key.pem").write_text(text.partition(end)[2])
    (tmp_path / "rsyslog.conf").write_text(f"""
global(workDirectory="{tmp_path}" maxMessageSize="64k" defaultNetstreamDriver="ossl"
  defaultNetstreamDriverCAFile="{tmp_path}/cert.pem" defaultNetstreamDriverCertFile="{tmp_path}/cert.pem"
  defaultNetstreamDriverKeyFile="{tmp_path}/key.pem")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
module(load="imudp")
input(type="imtcp" address="127.0.0.1" port="{tls}")
input(type="imudp" address="127.0.0.1" port="{udp}")
template(name="plain" type="string" string="%msgid% %hostname% %app-name% %msg%\\n")
action(type="omfile" file="{log}" template="plain")
""")
    process = subprocess.Popen([program, "-n", "-f", str(tmp_path / "rsyslog.conf"), "-i", str(tmp_path / "pid")])
    wait_until(lambda: listens(tls), what="rsyslog listens")
    yield tls, udp, log
    process.terminate()
    process.wait(20)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.mark.service
def test_rsyslog_takes_the_feed_over_tls_and_single_messages_over_udp(
    database: Database, rsyslog: tuple[int, int, Path], certificate: Path
) -> None:
    tls, udp, log = rsyslog
    write(database, 700)
    one = feed(database, tls, certificate)
    while one.send_some():
        pass
    wait_until(lambda: log.exists() and log.read_bytes().count(b"\n") >= 700, what="rsyslog has written them")
    lines = log.read_bytes().splitlines()
    assert sequences(lines) == list(range(1, 701))
    assert all(line.startswith(b"DICOM+RFC3881 server.example imaging-ai ") for line in lines)
    Receiver.parse(f"udp://127.0.0.1:{udp}").deliver([packet(b"<x/>", time.time(), SOURCE)])
    wait_until(lambda: b"<x/>" in log.read_bytes(), what="the datagram is written")
