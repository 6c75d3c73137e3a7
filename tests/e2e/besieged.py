"""A whole server under hostile traffic, a well-behaved client on each of its ports, and what the server holds."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import httpx
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

import phantoms
import storing
from e2e.hostile import _descendants
from e2e.raw import RawAssociation
from e2e.server import Server
from e2e.storm import Plan
from imaging_ai.archive import gate
from imaging_ai.core.identity import new_uid
from services import free_port
from services.certificates import Authority

__all__ = ["Besieged", "Vitals", "WellBehaved", "besieged"]

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
    """What the processes of a server hold, by role: MiB resident, descriptors, threads; and what lies on disk.

    `megabytes` are the processes' own; `mapped` are pages of files (code, and the index, which SQLite maps for each
    connection): the kernel has them only once, and drops them when it wants.
    """

    processes: dict[int, str]
    megabytes: dict[str, float]
    mapped: dict[str, float]
    descriptors: dict[str, int]
    threads: dict[str, int]
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

    def plan(self, inputs: int, *, files: Path | None, clients: int = 12, rate: float = 0.0, seed: int = 1) -> Plan:
        """Plan a storm."""
        ports = self.server.http_port, self.server.dicom_port, self.tls_port
        known = self.place, self.hostile_token, str(files or "")
        return Plan(*ports, *known, inputs, clients, rate, seed)

    def storm(self, plan: Plan, *, quiet: bool = True) -> Counter[str]:
        """Let a storm blow, from a process of its own."""
        command = [sys.executable, "-m", "e2e.storm", json.dumps(asdict(plan))]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        heard = subprocess.DEVNULL if quiet else None
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=heard, env=environment, check=True)
        return Counter(json.loads(done.stdout))

    def memory(self) -> dict[str, float]:
        """MiB of the processes' own, by role."""
        return {role: held[0] for role, held in self._held(self._roles()).items()}

    def _roles(self) -> dict[int, str]:
        root = self.server.processes["serve"].pid
        return {root: "serve", **{pid: _role(pid) for pid in _descendants(root)}}

    def _held(self, roles: dict[int, str]) -> dict[str, list[float]]:
        """MiB of its own and mapped, descriptors and threads, by role."""
        held: dict[str, list[float]] = {}
        for pid, role in roles.items():
            with contextlib.suppress(FileNotFoundError):
                at = Path(f"/proc/{pid}")
                status = dict(line.split(":", 1) for line in (at / "status").read_text().splitlines() if ":" in line)
                own, mapped = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
                found = own, mapped, len(list((at / "fd").iterdir())), int(status["Threads"])
                held[role] = [old + new for old, new in zip(held.get(role, [0, 0, 0, 0]), found, strict=True)]
        return held

    def vitals(self) -> Vitals:
        """Look at everything."""
        roles = self._roles()
        held = self._held(roles)
        (audit,) = self.server.rows("SELECT count(*) AS n FROM audit_event WHERE actor NOT LIKE '%good%'")
        (stored,) = self.server.rows("SELECT count(*) AS n, coalesce(sum(blob_length), 0) AS size FROM instance")
        files = [one for one in (self.server.folder / "data").rglob("*") if one.is_file()]
        return Vitals(
            roles,
            {role: one[0] for role, one in held.items()},
            {role: one[1] for role, one in held.items()},
            {role: int(one[2]) for role, one in held.items()},
            {role: int(one[3]) for role, one in held.items()},
            int(audit.n),
            sum(
                len(line) for log in self.server.folder.glob("*.log") for line in log.open("rb") if b"GOOD" not in line
            ),
            sum(_size(one) for one in files),
            int(stored.n),
            int(stored.size),
        )


def _role(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return next((word for word in ("receive", "web", "describe", "work") if word in words), words[-2][:20])


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
        yield Besieged(server, tls_port, place[place.index("/dicom-web") :], hostile, good)


class WellBehaved:
    """Asks for little all the time: a search, a frame, a C-STORE in an association of its own on either DICOM port.

    `milliseconds` has how long each took; `wrong` what did not succeed.
    """

    def __init__(self, besieged: Besieged, every: float = 0.1) -> None:
        self._on, self._every = besieged, every
        self.milliseconds: dict[str, list[float]] = {}
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> WellBehaved:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def percentile(self, what: str, percent: int) -> float:
        """In milliseconds."""
        found = sorted(self.milliseconds[what])
        return found[min(len(found) * percent // 100, len(found) - 1)]

    def _run(self) -> None:
        url = f"http://127.0.0.1:{self._on.server.http_port}"
        headers = {"Authorization": f"Bearer {self._on.good_token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            while not self._stop.wait(self._every):
                for what, work in self._works(client):
                    self._timed(what, work)

    def _works(self, client: httpx.Client) -> list[tuple[str, Callable[[], None]]]:
        study, server = self._on.place.split("/")[3], self._on.server
        return [
            ("search", partial(_found, client, f"/dicom-web/studies?StudyInstanceUID={study}")),
            ("frame", partial(_found, client, f"{self._on.place}/frames/1")),
            ("C-STORE", partial(self._store, _fresh(), server.dicom_port, None)),
            ("C-STORE over TLS", partial(self._store, _fresh(), self._on.tls_port, self._tls)),
        ]

    def _timed(self, what: str, work: Callable[[], None]) -> None:
        begun = time.perf_counter()
        try:
            work()
        except (OSError, AssertionError, httpx.HTTPError) as error:
            self.wrong.append(f"{what}: {type(error).__name__} {error}"[:200])
        self.milliseconds.setdefault(what, []).append((time.perf_counter() - begun) * 1000)

    def _store(self, ds: Dataset, port: int, tls: ssl.SSLContext | None) -> None:
        data = phantoms.to_bytes(ds)
        with RawAssociation(port, ds.SOPClassUID, ExplicitVRLittleEndian, "GOOD", tls) as assoc:
            assert assoc.store(ds.SOPInstanceUID, data[gate.dataset_offset(data) :]) == (0, "")


def _fresh() -> Dataset:
    (ds,) = storing.ct(1, "good client")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
    return ds


def _found(client: httpx.Client, path: str) -> None:
    answer = client.get(path, headers={"Accept": "*/*"})
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
