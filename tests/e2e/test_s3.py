"""The server on S3-compatible storage and PostgreSQL: the main job, storage that goes away, and nothing left behind."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from e2e.server import Server, push, renamed
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.s3 import S3Store
from imaging_ai.core.job import JobState
from phantoms import ball, series, threshold_bundle, write
from services import require_program, wait_until
from services.orthanc import Orthanc
from services.postgres import PostgresServer
from services.relay import Relay
from services.s3 import Bucket, S3Server

pytestmark = [pytest.mark.service, pytest.mark.slow]

SETTINGS = """
[[destinations]]
name = "pacs"
ae_title = "{ae_title}"
host = "127.0.0.1"
port = {port}

[[rules]]
name = "bright things"
when = {{ Modality = "CT", instances = ">= 4" }}
run = ["threshold"]
send = ["pacs"]

[routing]
quiet_seconds = 0.5
"""
BUCKET = "hospital"


class Hospital:
    """A server whose objects lie in a bucket behind a relay."""

    def __init__(self, server: Server, bucket: Bucket, relay: Relay, pacs: Orthanc) -> None:
        self.server, self.bucket, self.relay, self.pacs = server, bucket, relay, pacs
        self.store = S3Store(
            bucket.name, "archive", endpoint=bucket.endpoint, access_key_id="testing", secret_access_key="testing"
        )

    def named(self) -> set[str]:
        """The objects that the index names, as keys of the bucket."""
        return {f"archive/{row.blob_key}" for row in self.server.rows("SELECT blob_key FROM instance")}

    def results(self, job_id: int) -> list[pydicom.Dataset]:
        archive = Archive(self.server.database, self.store)
        return [pydicom.dcmread(io.BytesIO(archive.read(one))) for one in archive.results(job_id)]


@pytest.fixture(scope="module")
def hospital(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, s3_server: S3Server, pacs: Orthanc
) -> Iterator[Hospital]:
    bucket = Bucket(BUCKET, s3_server.endpoint, "")
    bucket.client().create_bucket(Bucket=BUCKET)
    relay = Relay(s3_server.port)
    relay.start()
    through = replace(bucket, endpoint=f"http://127.0.0.1:{relay.port}")
    environment = {
        "IMAGING_AI_STORAGE_URL": through.url,
        "IMAGING_AI_DATABASE_URL": postgres_server.new_database(),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    settings = SETTINGS.format(ae_title=pacs.ae_title, port=pacs.dicom_port)
    server = Server(tmp_path_factory.mktemp("s3"), settings, environment)
    threshold_bundle(server.models / "threshold")
    server.serve()
    yield Hospital(server, bucket, relay, pacs)
    relay.stop()
    server.stop()


@pytest.fixture
def phantom(tmp_path: Path) -> list[Path]:
    return list(renamed(write(series(ball((12, 48, 40))), tmp_path / "made"), tmp_path / "fresh"))


def study_of(files: list[Path]) -> str:
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


def test_a_pushed_series_comes_back_and_every_object_is_in_the_index(hospital: Hospital, phantom: list[Path]) -> None:
    study = study_of(phantom)
    push(hospital.server.dicom_port, *phantom)
    (job,) = hospital.server.wait_jobs(1, study)
    assert job.state is JobState.COMPLETED, job.failure
    wait_until(lambda: len(hospital.pacs.instances(StudyInstanceUID=study)) == 2)
    segmentation, report = hospital.results(job.id)
    bright = sum(int((pydicom.dcmread(path).pixel_array > 150).sum()) for path in phantom)
    assert np.count_nonzero(segmentation.pixel_array) == bright > 0
    assert report.Modality == "SR"
    wait_until(lambda: set(hospital.bucket.keys()) == hospital.named())
    assert hospital.server.instance_count(study) == 14
    assert not list((hospital.server.folder / "data").rglob("*.dcm"))


def test_while_the_storage_is_away_nothing_is_acknowledged_and_afterwards_all_is_well(
    hospital: Hospital, phantom: list[Path]
) -> None:
    server, study = hospital.server, study_of(phantom)
    hospital.relay.stop()
    command = [require_program("storescu"), "-v", "-aec", "IMAGINGAI", "127.0.0.1", str(server.dicom_port)]
    refused = subprocess.run([*command, str(phantom[0])], capture_output=True, text=True, check=False)
    assert "Refused: OutOfResources" in refused.stdout + refused.stderr
    assert server.get("/health/ready").status_code == 503
    assert server.instance_count(study) == 0
    hospital.relay.start()
    wait_until(lambda: server.get("/health/ready").status_code == 200)
    push(server.dicom_port, *phantom)
    (job,) = server.wait_jobs(1, study)
    assert job.state is JobState.COMPLETED, job.failure
    assert len(job.inputs) == 12
    wait_until(lambda: set(hospital.bucket.keys()) == hospital.named())


def test_a_job_whose_images_cannot_be_read_for_a_while_is_tried_again(hospital: Hospital, phantom: list[Path]) -> None:
    server, study = hospital.server, study_of(phantom)
    push(server.dicom_port, *phantom)
    hospital.relay.stop()

    def failed() -> bool:
        return any(job.failure and job.failure.code == "storage-unavailable" for job in server.jobs(study=study))

    wait_until(failed, 60)
    hospital.relay.start()
    (job,) = server.wait_jobs(1, study)
    assert job.state is JobState.COMPLETED, job.failure
    assert job.attempt > 1
    wait_until(lambda: len(hospital.pacs.instances(StudyInstanceUID=study)) == 2)


def test_after_kill_9_of_everything_what_was_acknowledged_is_there(hospital: Hospital, phantom: list[Path]) -> None:
    server, study = hospital.server, study_of(phantom)
    push(server.dicom_port, *phantom)
    server.processes["serve"].kill()
    assert server.instance_count(study) == 12
    server.serve()
    (job,) = server.wait_jobs(1, study)
    assert job.state is JobState.COMPLETED, job.failure
    wait_until(lambda: hospital.named() <= set(hospital.bucket.keys()))
