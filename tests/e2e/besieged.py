"""A whole server under hostile traffic, a well-behaved client on each of its ports, and what the server holds."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

import phantoms
import storing
from e2e.server import Server
from e2e.storm import Plan
from e2e.watching import Held, Watch, WellBehaved, asks, stores
from services import free_port
from services.certificates import Authority

__all__ = ["Besieged", "Vitals", "besieged"]

SETTINGS = """
[dicom]
tls_certificate = "{certificate}"
tls_key = "{key}"
tls_port = {tls_port}
max_object_mb = 16

[[peers]]
ae_title = "GOOD"

[[peers]]
ae_title = "*"
max_associations = 24
instances_per_second = {instances}

[http]
requests_per_second = {requests}
burst = 200

[auth]
mode = "token"
"""


@dataclass(frozen=True)
class Vitals:
    """What the processes of a server hold, by role, and what lies on disk."""

    processes: dict[int, str]
    held: dict[str, Held]
    audit_events: int  # those of the well-behaved client left out, as in the log
    log_bytes: int
    data_bytes: int
    instances: int
    stored_bytes: int


@dataclass
class Besieged:
    """The server, its ports, a token of an insider who has turned hostile, and one of a good client."""

    server: Server
    tls_port: int
    place: str
    hostile_token: str
    good_token: str
    watch: Watch

    def plan(self, inputs: int, *, files: Path | None, clients: int = 12, rate: float = 0.0, seed: int = 1) -> Plan:
        """Plan a storm."""
        ports = self.server.http_port, self.server.dicom_port, self.tls_port
        known = self.place, self.hostile_token, str(files or "")
        return Plan(*ports, *known, inputs, clients, rate, seed)

    @contextmanager
    def good(self, every: float = 0.1) -> Iterator[WellBehaved]:
        """A client that asks for little all the time: a search, a frame, a C-STORE over either DICOM port."""
        server, study = self.server, self.place.split("/")[3]
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        headers = {"Authorization": f"Bearer {self.good_token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{server.http_port}", headers=headers, timeout=30) as client:
            works = {
                "search": asks(client, f"/dicom-web/studies?StudyInstanceUID={study}"),
                "frame": asks(client, f"{self.place}/frames/1"),
                "C-STORE": stores(server.dicom_port),
                "C-STORE over TLS": stores(self.tls_port, tls),
            }
            with WellBehaved(works, every) as one:
                yield one

    def storm(self, plan: Plan, *, quiet: bool = True) -> Counter[str]:
        """Let a storm blow, from a process of its own."""
        command = [sys.executable, "-m", "e2e.storm", json.dumps(asdict(plan))]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        heard = subprocess.DEVNULL if quiet else None
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=heard, env=environment, check=True)
        return Counter(json.loads(done.stdout))

    def vitals(self) -> Vitals:
        """Look at everything."""
        (audit,) = self.server.rows("SELECT count(*) AS n FROM audit_event WHERE actor NOT LIKE '%good%'")
        (stored,) = self.server.rows("SELECT count(*) AS n, coalesce(sum(blob_length), 0) AS size FROM instance")
        files = [one for one in (self.server.folder / "data").rglob("*") if one.is_file()]
        return Vitals(
            self.watch.processes(),
            self.watch.held(),
            int(audit.n),
            sum(
                len(line) for log in self.server.folder.glob("*.log") for line in log.open("rb") if b"GOOD" not in line
            ),
            sum(_size(one) for one in files),
            int(stored.n),
            int(stored.size),
        )


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


@contextmanager
def besieged(folder: Path, *, requests: float = 100.0, instances: float = 50.0) -> Iterator[Besieged]:
    """Start a whole server with TLS, tokens and limits, and an instance in it."""
    ours = Authority(folder / "clinic").issue("imaging-ai")
    tls_port = free_port()
    settings = SETTINGS.format(
        certificate=ours.certificate, key=ours.key, tls_port=tls_port, requests=requests, instances=instances
    )
    with Server(folder / "server", settings) as server:
        server.cli("db", "upgrade")
        hostile, good = (
            server.cli("token", "create", name, "--role", "service").stdout.split()[-1] for name in ("storm", "good")
        )
        server.serve()
        data = phantoms.to_bytes(storing.ct(1, "besieged")[0])
        headers = {"Content-Type": "application/dicom", "Authorization": f"Bearer {good}"}
        url = f"http://127.0.0.1:{server.http_port}/dicom-web/studies"
        stored = httpx.post(url, content=data, headers=headers, timeout=60)
        assert stored.status_code == 200, stored.text
        place = stored.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
        yield Besieged(server, tls_port, place[place.index("/dicom-web") :], hostile, good, Watch(server))
