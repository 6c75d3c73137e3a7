"""HTTPS when a certificate is configured: HTTP/2 for those who ask, and tokens asked for on every door."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.server import Server
from services import require_program, wait_until

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = [require_program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Server]:
    settings = f"""
[http]
tls_certificate = "{certificate[0]}"
tls_key = "{certificate[1]}"
[auth]
mode = "token"
"""
    server = Server(tmp_path_factory.mktemp("https"), settings)
    server.start("web")
    try:
        wait_until(lambda: curl(server, certificate, "/health/live")[0] == 200, 60, what=f"HTTPS\n{server.logs()}")
        yield server
    finally:
        server.stop()


def curl(server: Server, certificate: tuple[Path, Path], path: str, *arguments: str) -> tuple[int, str, str]:
    """Return status, HTTP version and body."""
    told = "\n%{http_code} %{http_version}"
    command = [require_program("curl"), "--silent", "--cacert", str(certificate[0]), "--write-out", told, *arguments]
    done = subprocess.run(
        [*command, f"https://127.0.0.1:{server.http_port}{path}"], capture_output=True, text=True, check=False
    )
    body, _, last = done.stdout.rpartition("\n")
    status, version = last.split()
    return int(status), version, body


def test_whoever_asks_for_http_2_gets_it(server: Server, certificate: tuple[Path, Path]) -> None:
    assert curl(server, certificate, "/health/live", "--http2")[:2] == (200, "2")
    assert curl(server, certificate, "/health/live", "--http1.1")[:2] == (200, "1.1")


def test_old_tls_is_refused(server: Server, certificate: tuple[Path, Path]) -> None:
    assert ssl.HAS_TLSv1_1
    assert curl(server, certificate, "/health/live", "--tls-max", "1.1")[0] == 0


def test_a_refusal_of_a_large_body_is_heard_over_http_2(
    server: Server, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    for _ in range(5):
        posted = (
            "--http2",
            "-X",
            "POST",
            "--data-binary",
            f"@{tmp_path / 'large'}",
            "-H",
            "Content-Type: application/dicom",
        )
        assert curl(server, certificate, "/dicom-web/studies", *posted)[:2] == (401, "2")


def test_a_token_of_the_command_line_opens_what_its_role_may(server: Server, certificate: tuple[Path, Path]) -> None:
    def ask(secret: str, *arguments: str) -> int:
        return curl(server, certificate, "/dicom-web/studies", "-H", f"Authorization: Bearer {secret}", *arguments)[0]

    assert curl(server, certificate, "/dicom-web/studies")[0] == 401
    reader = server.cli("token", "create", "reader", "--role", "clinician").stdout.strip()
    watcher = server.cli("token", "create", "watcher", "--role", "auditor").stdout.strip()
    assert ask(reader) == 200
    assert ask(watcher) == 403
    assert ask(reader, "-X", "POST", "-H", "Content-Type: application/dicom", "--data", "x") == 403
    server.cli("token", "revoke", "reader")
    wait_until(lambda: ask(reader) == 401, 30, what="the revoked token to be refused")
    listed = json.loads(server.cli("token", "list", "--json").stdout)
    assert [(one["name"], bool(one["revoked"])) for one in listed] == [("reader", True), ("watcher", False)]
    assert reader not in json.dumps(listed)


def test_a_read_just_before_the_end_of_the_server_is_in_the_audit(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.start("web")
        wait_until(lambda: _listens(server), 60, what="the web server")
        assert server.get("/dicom-web/studies").status_code == 200
        server.stop()
        assert len(server.rows("SELECT * FROM audit_event WHERE action = 'search-studies'")) == 1


def _listens(server: Server) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.http_port)) == 0
