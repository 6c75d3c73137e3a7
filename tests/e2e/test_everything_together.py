"""PostgreSQL, an encrypted bucket and tokens at once: the main job, keys that change meanwhile, and a backup."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest

import phantoms
import storing
from e2e.server import Server, push
from imaging_ai.config import Settings, load
from imaging_ai.core.job import JobState
from imaging_ai.core.permission import Role
from imaging_ai.wiring import make_entrance
from imaging_ai.wiring.audit import rotate_audit_key, verify_audit
from imaging_ai.wiring.keeping import back_up, restore
from imaging_ai.wiring.storage import new_key, rotate_storage
from sealing import key_file
from services import require_program, wait_until
from services.postgres import PostgresServer
from services.s3 import Bucket, S3Server

pytestmark = [pytest.mark.service, pytest.mark.slow]

NAME = "Marked^Together"
SETTINGS = """
[auth]
mode = "token"

[storage]
encryption_key_file = "{keys}"

[[rules]]
name = "bright things"
when = {{ Modality = "CT", instances = ">= 4" }}
run = ["threshold"]

[routing]
quiet_seconds = 0.2
"""


@dataclass
class Hospital:
    server: Server
    bucket: Bucket
    keys: Path
    token: str

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        url = f"http://127.0.0.1:{self.server.http_port}/dicom-web{path}"
        return httpx.request(method, url, headers=headers, timeout=30, **options)

    def instance(self, ds: pydicom.Dataset) -> pydicom.Dataset:
        """An instance as WADO-RS gives it."""
        path = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
        answer = self.ask("GET", path, headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert answer.status_code == 200, answer.text
        return pydicom.dcmread(io.BytesIO(answer.content))

    def objects(self) -> dict[str, bytes]:
        client, names = self.bucket.client(), self.bucket.keys()
        return {name: client.get_object(Bucket=self.bucket.name, Key=name)["Body"].read() for name in names}


@pytest.fixture(scope="module")
def hospital(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, s3_server: S3Server
) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("together")
    bucket, keys = Bucket("together", s3_server.endpoint, ""), key_file(folder / "keys")
    bucket.client().create_bucket(Bucket=bucket.name)
    environment = {
        "IMAGING_AI_STORAGE_URL": bucket.url,
        "IMAGING_AI_DATABASE_URL": postgres_server.new_database(),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    with Server(folder, SETTINGS.format(keys=keys), environment) as server:
        phantoms.threshold_bundle(server.models / "threshold")
        server.serve()
        with pytest.MonkeyPatch.context() as patched:  # what the command line does is done here, in less time
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patched.setenv(name, "testing")
            token = make_entrance(settings_of(server)).tokens.create("ehr", Role.SERVICE)
            yield Hospital(server, bucket, keys, token)


def settings_of(server: Server) -> Settings:
    return load(server.config, server.environment)


def test_a_study_is_analysed_and_nothing_of_it_lies_about_in_plain(hospital: Hospital, tmp_path: Path) -> None:
    series = phantoms.series(phantoms.ball((6, 32, 32)), name="together")
    for ds in series:
        ds.PatientName = NAME
    push(hospital.server.dicom_port, *phantoms.write(series, tmp_path))
    (job,) = hospital.server.wait_jobs(1, series[0].StudyInstanceUID)
    assert job.state is JobState.COMPLETED, job.failure
    there = hospital.ask("GET", f"/studies/{series[0].StudyInstanceUID}/instances?includefield=00080060").json()
    assert sorted(one["00080060"]["Value"][0] for one in there) == ["CT"] * 6 + ["SEG", "SR"]
    found = next(one for one in there if one["00080060"]["Value"] == ["SEG"])
    result = pydicom.Dataset.from_json({tag: found[tag] for tag in ("00080018", "0020000D", "0020000E")})
    assert np.count_nonzero(hospital.instance(result).pixel_array) == sum(
        int((ds.pixel_array > 150).sum()) for ds in series
    )
    assert hospital.instance(series[2]).PixelData == series[2].PixelData
    assert hospital.ask("GET", "/studies", headers={"Authorization": ""}).status_code == 401
    objects = hospital.objects()
    assert len([key for key in objects if key.endswith(".sealed")]) == 8
    plain = (NAME.encode(), b"DICM", bytes(series[2].PixelData[1000:1064]))
    assert [key for key, data in objects.items() if any(mark in data for mark in plain)] == []
    assert not list((hospital.server.folder / "data").rglob("*.dcm"))


def test_both_keys_are_changed_while_it_runs(hospital: Hospital) -> None:
    before, after = (phantoms.series(np.zeros((1, 8, 8), np.float32), name=name)[0] for name in ("before", "after"))
    settings = settings_of(hospital.server)

    def store(ds: pydicom.Dataset) -> None:
        body = storing.multipart([storing.instance(phantoms.to_bytes(ds))])
        answer = hospital.ask("POST", "/studies", content=body, headers={"Content-Type": storing.content_type()})
        assert answer.status_code == 200, answer.text

    store(before)
    new_key(settings, "second")
    assert rotate_storage(settings, lambda *_: None) > 0
    lines = hospital.keys.read_text().splitlines()
    hospital.keys.write_text(lines[0] + "\n")  # the old key goes
    rotate_audit_key(settings, actor="root")
    store(after)
    assert [hospital.instance(ds).SOPInstanceUID for ds in (before, after)] == [
        before.SOPInstanceUID,
        after.SOPInstanceUID,
    ]
    wait_until(lambda: hospital.server.rows("SELECT 1 FROM audit_event WHERE action = 'read-instances'"), what="read")
    report = verify_audit(settings, anchored=False)
    assert (report.whole, len(report.keys)) == (True, 2), report.broken


def test_a_backup_comes_back_with_every_object_that_it_names(
    hospital: Hospital, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    require_program("pg_dump")
    back_up(settings_of(hospital.server), tmp_path / "backup")
    (row,) = hospital.server.rows("SELECT count(*) AS n FROM instance")
    environment = {**hospital.server.environment, "IMAGING_AI_DATABASE_URL": postgres_server.new_database()}
    elsewhere = Server(tmp_path / "elsewhere", hospital.server.config.read_text(), environment)
    elsewhere.environment["IMAGING_AI_DATA_DIR"] = str(tmp_path / "elsewhere" / "data")
    found = restore(settings_of(elsewhere), tmp_path / "backup")
    assert (found.instances, found.missing) == (row.n, ())
    assert (elsewhere.models / "threshold").is_dir()
