"""The whole server as child processes, on settings of a test's own, with ways to kill, restart and question it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pydicom
from sqlalchemy import text

from imaging_ai.archive.archive import Archive
from imaging_ai.archive.blobs import FolderStore
from imaging_ai.audit.keys import open_keys
from imaging_ai.audit.trail import attach
from imaging_ai.core.identity import new_uid
from imaging_ai.core.job import FINAL_STATES, Job
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.queue.ledger import Ledger
from services import free_port, require_program, wait_until

__all__ = ["Process", "Server", "instances_of", "push", "renamed"]


class Process:
    """One role as a child process."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.arguments, self.environment, self.log = tuple(arguments), dict(environment), log
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "imaging_ai", *self.arguments]
            self.popen = subprocess.Popen(
                command, env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def kill(self) -> None:
        """End it as a crash would."""
        if self.popen is not None:
            self.popen.kill()
            self.popen.wait()

    def stop(self, timeout: float = 40.0) -> None:
        """Ask it to end, and insist after a while."""
        if not self.alive:
            return
        assert self.popen is not None
        self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()


class Server:
    """Settings, roles and ports of one installation in `folder`.

    Roles are started one by one (`start("receive")`, `start("work")`, …) or as `serve`, and found again by name.
    """

    def __init__(self, folder: Path, settings: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "imaging-ai.toml"
        self.config.write_text(settings)
        self.dicom_port, self.http_port = free_port(), free_port()
        self.environment = {
            "IMAGING_AI_CONFIG": str(self.config),
            "IMAGING_AI_DATA_DIR": str(folder / "data"),
            "IMAGING_AI_DICOM_PORT": str(self.dicom_port),
            "IMAGING_AI_HTTP_PORT": str(self.http_port),
            "IMAGING_AI_MODELS_SHIPPED": "false",
            **({} if "[auth]" in settings else {"IMAGING_AI_AUTH_MODE": "off"}),
            "IMAGING_AI_WORKER_WARM_UP": str("[[rules]]" in settings).lower(),  # else there will hardly be a job
            **(environment or {}),
        }
        self.processes: dict[str, Process] = {}
        self._database: Database | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def models(self) -> Path:
        """Where a test puts bundles."""
        folder = self.folder / "data" / "models"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def start(self, role: str, name: str = "", environment: Mapping[str, str] | None = None) -> Process:
        """Start a role under a name (its own by default)."""
        name = name or role
        process = Process([role], {**self.environment, **(environment or {})}, self.folder / f"{name}.log")
        self.processes[name] = process
        process.start()
        return process

    def serve(self) -> Process:
        """Start everything as `imaging-ai serve` does, and wait until it is ready."""
        process = self.start("serve")
        self.wait_ready()
        return process

    def wait_ready(self, timeout: float = 150.0) -> None:
        """Wait until HTTP says ready and the DICOM port listens."""
        deadline = time.monotonic() + timeout
        while not self._ready():
            assert time.monotonic() < deadline, f"after {timeout:g} s still not ready\n{self.logs()}"
            time.sleep(0.05)

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            if self.get("/health/ready").status_code == 200:
                return self.echo()
        return False

    def echo(self) -> bool:
        """C-ECHO it with DCMTK."""
        command = [require_program("echoscu"), "-aec", "IMAGINGAI", "127.0.0.1", str(self.dicom_port)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.http_port}{path}", timeout=10)

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of `imaging-ai` on this installation."""
        done = subprocess.run(
            [sys.executable, "-m", "imaging_ai", *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    @property
    def database(self) -> Database:
        if self._database is None:
            url = self.environment.get("IMAGING_AI_DATABASE_URL") or f"sqlite:///{self.folder / 'data/imaging-ai.db'}"
            (self.folder / "data").mkdir(exist_ok=True)
            self._database = Database(url)
            migrate.upgrade(self._database)
            attach(self._database, open_keys(self.folder / "data/audit.key"))  # whose events the server can go on from
        return self._database

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.database)

    def rows(self, sql: str, **parameters: Any) -> list[Any]:
        with self.database.read() as session:
            return list(session.connection().execute(text(sql), parameters).all())

    def jobs(self, **filters: Any) -> list[Job]:
        return self.ledger.find(limit=1000, **filters)

    def wait_jobs(self, count: int, study: str = "", timeout: float = 120.0) -> list[Job]:
        """Wait until so many jobs (of a study) have ended and none is open; the newest first."""

        def ended() -> list[Job]:
            jobs = self.jobs(study=study)
            return jobs if len(jobs) >= count and all(job.state in FINAL_STATES for job in jobs) else []

        found = wait_until(ended, timeout, 0.1, what=f"{count} jobs ended; log:\n{self.logs()}")
        assert isinstance(found, list)
        return found

    def instance_count(self, study: str) -> int:
        """How many instances of a study are indexed, results included."""
        (row,) = self.rows(
            "SELECT count(*) AS n FROM instance JOIN series ON series.id = instance.series_id "
            "JOIN study ON study.id = series.study_id WHERE study_instance_uid = :study",
            study=study,
        )
        return int(row.n)

    def results(self, job_id: int) -> dict[str, pydicom.Dataset]:
        """The objects of a job by modality, as the archive has them; of several the first."""
        archive = Archive(self.database, FolderStore(self.folder / "data" / "objects"))
        found = {}
        for one in archive.results(job_id):
            ds = pydicom.dcmread(io.BytesIO(archive.read(one)))
            found.setdefault(str(ds.Modality), ds)
        return found

    def report(self, job_id: int) -> pydicom.Dataset:
        """The SR of a job."""
        return self.results(job_id)["SR"]

    def logs(self) -> str:
        """The end of every role's log."""
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        for process in self.processes.values():
            process.stop()
        if self._database is not None:
            self._database.dispose()


def instances_of(folder: Path) -> list[Path]:
    """The DICOM files below a folder."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and pydicom.misc.is_dicom(path)]


def push(port: int, *paths: Path, called: str = "IMAGINGAI", options: Sequence[str] = ()) -> None:
    """Push files or folders with DCMTK's storescu; `options` name a compressed transfer syntax (`-xv`: JPEG 2000)."""
    command = [require_program("storescu"), "-R", "+sd", "+r", "-aec", called, *options, "127.0.0.1", str(port)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def renamed(paths: Sequence[Path], folder: Path) -> Iterator[Path]:
    """Copies of the instances of one study under UIDs that nobody has."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh: dict[str, str] = {}
    for path in paths:
        ds = pydicom.dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            if keyword in ds:
                setattr(ds, keyword, fresh.setdefault(ds[keyword].value, new_uid()))
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        target = folder / path.name
        ds.save_as(target)
        yield target
