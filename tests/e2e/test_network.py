"""The whole server on a hospital's network: TLS, peers and limits as the settings say, for DICOM and HTTP."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

import phantoms
from e2e.server import Server
from imaging_ai.core.tls import Identity, client_context
from services import free_port, require_program, wait_until
from services.certificates import Authority, fingerprint
from services.dcmtk import Dcmtk

pytestmark = pytest.mark.service


class Site:
    """A server with certificates of the clinic, and a port for TLS only."""

    def __init__(self, folder: Path) -> None:
        self.clinic = Authority(folder / "clinic")
        self.ct1, self.ct2 = self.clinic.issue("ct1"), self.clinic.issue("ct2")
        ours = self.clinic.issue("imaging-ai")
        self.tls_port = free_port()
        tls = f'tls_certificate = "{ours.certificate}"\ntls_key = "{ours.key}"\ntls_ca_file = "{self.clinic.ca_file}"'
        settings = f"""
[dicom]
{tls}
tls_port = {self.tls_port}
tls_require_certificate = false
[http]
{tls}
requests_per_second = 0.5
burst = 20
[auth]
mode = "off"
[[peers]]
ae_title = "CT1"
certificates = ["{fingerprint(self.ct1)}"]
megabytes_per_second = 1
[[peers]]
ae_title = "SMALL"
addresses = ["127.0.0.0/8"]
gigabytes_per_day = 0.00004
[[peers]]
ae_title = "PROBE"
may = ["echo"]
"""
        self.server = Server(folder / "server", settings)

    def options(self, who: Identity | None, title: str) -> list[str]:
        ours = ["+tls", str(who.key), str(who.certificate)] if who else ["+tla"]
        return [*ours, "+cf", str(self.clinic.ca_file), "-aec", "IMAGINGAI", "-aet", title]

    def ask(self, who: Identity | None, path: str) -> httpx.Response:
        trusted = client_context(self.clinic.ca_file, who)
        return httpx.get(f"https://localhost:{self.server.http_port}{path}", verify=trusted, timeout=20)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    with site.server as server:
        server.cli("db", "upgrade")
        server.start("receive")
        server.start("web")
        probe = [require_program("echoscu"), "-aec", "IMAGINGAI", "-aet", "PROBE", "127.0.0.1", str(server.dicom_port)]
        wait_until(
            lambda: subprocess.run(probe, capture_output=True, check=False).returncode == 0,
            60,
            what=f"the receiver\n{server.logs()}",
        )
        yield site


def files(folder: Path, count: int, name: str, side: int = 64) -> list[Path]:
    made = []
    for number, ds in enumerate(phantoms.series(np.zeros((count, side, side), np.float32), name=name)):
        made.append(folder / f"{number}.dcm")
        made[-1].write_bytes(phantoms.to_bytes(ds))
    return made


def stored(site: Site) -> int:
    return int(site.server.rows("SELECT count(*) AS n FROM instance")[0].n)


def test_a_modality_with_its_certificate_stores_as_fast_as_it_may_and_loses_nothing(
    site: Site, dcmtk: Dcmtk, tmp_path: Path
) -> None:
    before = stored(site)
    large = files(tmp_path, 5, "large", side=512)  # 2.6 MB, of which 1 MB at once
    done = dcmtk.store(site.tls_port, large, *site.options(site.ct1, "CT1"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert stored(site) == before + 5


def test_a_title_without_its_certificate_opens_nothing(site: Site, dcmtk: Dcmtk) -> None:
    for done in (
        dcmtk.echo(site.tls_port, *site.options(site.ct2, "CT1")),
        dcmtk.echo(site.tls_port, *site.options(None, "CT1")),
        dcmtk.echo(site.server.dicom_port, "-aec", "IMAGINGAI", "-aet", "CT1"),
    ):
        assert "Association Rejected" in done.stdout + done.stderr
        assert "No Reason" in done.stdout + done.stderr
    done = dcmtk.echo(site.tls_port, *site.options(site.ct2, "MR9"))
    assert "Calling AE Title Not Recognized" in done.stdout + done.stderr


def test_what_a_peer_may_not_do_is_not_negotiated(site: Site, dcmtk: Dcmtk, tmp_path: Path) -> None:
    done = dcmtk.store(site.server.dicom_port, files(tmp_path, 1, "probe"), "-aec", "IMAGINGAI", "-aet", "PROBE")
    assert "No Acceptable Presentation Contexts" in done.stdout + done.stderr


def test_a_share_of_a_day_ends_with_out_of_resources_and_a_word_in_the_audit(
    site: Site, dcmtk: Dcmtk, tmp_path: Path
) -> None:
    before = stored(site)
    small = files(tmp_path, 8, "small")  # 8 kB each, of 40 kB
    done = dcmtk.store(site.server.dicom_port, small, "-aec", "IMAGINGAI", "-aet", "SMALL", "+rn")
    assert "Refused: OutOfResources" in done.stdout + done.stderr or "0xa700" in (done.stdout + done.stderr).lower()
    assert 0 < stored(site) - before < 8
    refused = "SELECT detail FROM audit_event WHERE actor = 'SMALL' AND outcome = 'refused'"
    assert [row.detail for row in site.server.rows(refused)] == ["over-limit"]


def test_https_hears_clients_with_a_certificate_and_as_many_requests_as_agreed(site: Site) -> None:
    wait_until(lambda: _answers(site), 60, what=f"HTTPS\n{site.server.logs()}")
    with pytest.raises(httpx.TransportError):
        site.ask(None, "/health/live")
    answers = [site.ask(site.ct1, "/dicom-web/studies") for _ in range(25)]
    assert [answer.status_code for answer in answers[:15]] == [200] * 15
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "too-many-requests"
    assert int(refused.headers["retry-after"]) >= 1
    assert site.ask(site.ct1, "/health/live").status_code == 200


def _answers(site: Site) -> bool:
    try:
        return site.ask(site.ct1, "/health/live").status_code == 200
    except httpx.TransportError:
        return False
