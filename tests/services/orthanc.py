"""The real Orthanc, as source and as destination: started on free ports, with a storage of its own, stopped at the end.

`orthanc` is one instance for the whole session, emptied before each test; `orthanc_factory` starts more of them with
other settings. Its HTTP side listens on loopback only; its DICOM port cannot be bound, so runs are short.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services import free_port, require_program, wait_until

PLUGINS = Path("/usr/share/orthanc/plugins")


class Orthanc:
    """A running Orthanc and what tests ask of it."""

    def __init__(self, folder: Path, *, auth: tuple[str, str] | None = None, **settings: Any) -> None:
        self.folder = folder
        self.ae_title = str(settings.get("DicomAet", "ORTHANC"))
        self.http_port = int(settings.get("HttpPort") or free_port())
        self.dicom_port = int(settings.get("DicomPort") or free_port())
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.web_url = f"{self.url}/dicom-web"
        self.log = folder / "orthanc.log"
        self._configuration = folder / "orthanc.json"
        self._configuration.write_text(json.dumps(self._defaults() | settings))
        self._client = httpx.Client(base_url=self.url, timeout=60.0, auth=auth)
        self._process: subprocess.Popen[bytes] | None = None

    def _defaults(self) -> dict[str, Any]:
        return {
            "Name": "test",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": self.ae_title,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "UnknownSopClassAccepted": True,
            "OverwriteInstances": True,
            "SyncStorageArea": False,
            "SaveJobs": False,
            "StableAge": 1,
            "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it answers. Nagle stays off: DCMTK leaves it on, at 40 ms for each C-STORE."""
        program = require_program("Orthanc")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, str(self._configuration)],
                stdout=log,
                stderr=log,
                env={**os.environ, "TCP_NODELAY": "1", **(environment or {})},
            )
        wait_until(self._answers, timeout=30, what="Orthanc answers")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"Orthanc ended with {self._process.returncode}: {self.log.read_text()[-2000:]}")
        try:
            return self._client.get("/system").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """End the process; `start` begins again with the same storage."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End it as a power cut would; its graceful stop takes seconds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        """The process id, for measurements."""
        assert self._process is not None
        return self._process.pid

    # What it holds

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON at a path of its REST API."""
        return self._client.get(path, params=parameters).raise_for_status().json()

    def post(self, path: str, body: Any) -> Any:
        """Post JSON (or bytes) to a path of its REST API and return the JSON it answers."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self._client.post(path, content=content).raise_for_status()
        return answer.json() if answer.content else None

    def reset(self) -> None:
        """Delete every patient and every known modality."""
        for patient in self.get("/patients"):
            self._client.delete(f"/patients/{patient}").raise_for_status()
        for modality in self.get("/modalities"):
            self._client.delete(f"/modalities/{modality}").raise_for_status()

    def delete(self, instance: str) -> None:
        """Delete an instance."""
        self._client.delete(f"/instances/{instance}").raise_for_status()

    def upload(self, path: Path) -> list[str]:
        """Upload a file, or every DICOM file below a folder; return Orthanc's ids of the instances."""
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        ids = []
        for file in files:
            data = file.read_bytes()
            if data[128:132] == b"DICM":
                ids.append(self.post("/instances", data)["ID"])
        return ids

    def count(self) -> int:
        """The number of instances held."""
        return int(self.get("/statistics")["CountInstances"])

    def find(self, level: str = "Instance", **query: str) -> list[str]:
        """Orthanc's ids of what matches, e.g. ``find("Series", Modality="SEG")``."""
        return list(self.post("/tools/find", {"Level": level, "Query": query, "Limit": 0}))

    def instances(self, sop_class_uid: str = "", **query: str) -> list[str]:
        """Orthanc's ids of the instances that match the query and are of that SOP class."""
        ids = self.find("Instance", **query)
        if not sop_class_uid:
            return ids
        return [instance for instance in ids if self.sop_class(instance) == sop_class_uid]

    def sop_class(self, instance: str) -> str:
        """The SOP Class UID of an instance."""
        return self._client.get(f"/instances/{instance}/metadata/SopClassUid").raise_for_status().text

    def download(self, instance: str) -> bytes:
        """The DICOM file of an instance, as it was stored."""
        return self._client.get(f"/instances/{instance}/file").raise_for_status().content

    def lookup(self, uid: str) -> str:
        """Orthanc's id of the study, series or instance with that UID."""
        found = self.post("/tools/lookup", uid.encode())
        assert found, f"Orthanc holds nothing with the UID {uid}"
        return str(found[0]["ID"])

    # What it sends

    def add_modality(self, name: str, ae_title: str, port: int, host: str = "127.0.0.1") -> None:
        """Make another AE known to it."""
        body = json.dumps({"AET": ae_title, "Host": host, "Port": port, "Manufacturer": "Generic"})
        self._client.put(f"/modalities/{name}", content=body).raise_for_status()

    def echo(self, modality: str) -> bool:
        """Say whether it gets a C-ECHO through to a modality."""
        return self._client.post(f"/modalities/{modality}/echo", content=b"{}").status_code == 200

    def send(self, resource: str, modality: str, timeout: float = 300.0) -> None:
        """C-STORE a study, series or instance (a UID or Orthanc's id) to a modality, and wait for the end."""
        identifier = self.lookup(resource) if "." in resource else resource
        answer = self._client.post(
            f"/modalities/{modality}/store",
            content=json.dumps({"Resources": [identifier], "Synchronous": True}),
            timeout=timeout,
        )
        answer.raise_for_status()
        assert answer.json()["FailedInstancesCount"] == 0, answer.text

    def wait_for(self, count: int, timeout: float = 60.0) -> None:
        """Wait until it holds at least that many instances."""
        wait_until(lambda: self.count() >= count, timeout=timeout, what=f"{count} instances in Orthanc")


OrthancFactory = Callable[..., Orthanc]


@contextmanager
def running(folder: Path, environment: Mapping[str, str] | None = None, **settings: Any) -> Iterator[Orthanc]:
    """Run an Orthanc in `folder`; `settings` replace entries of its configuration (and `auth` is for its REST API)."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Orthanc(folder, **settings)
    try:
        server.start(environment)
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def _shared_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    require_program("Orthanc")
    with running(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture
def orthanc(_shared_orthanc: Orthanc) -> Orthanc:
    """An empty Orthanc, shared by the session's tests one after the other."""
    _shared_orthanc.reset()
    return _shared_orthanc


@pytest.fixture
def orthanc_factory(tmp_path: Path) -> Iterator[OrthancFactory]:
    """Start more of them: ``orthanc_factory(DicomAet="PACS2", environment={...})``; stopped after the test."""
    require_program("Orthanc")
    with ExitStack() as stack:

        def start(environment: Mapping[str, str] | None = None, **settings: Any) -> Orthanc:
            folder = tmp_path / f"orthanc-{time.monotonic_ns()}"
            return stack.enter_context(running(folder, environment, **settings))

        yield start
