"""How soon work starts after the sender's goodbye, and what the server adds to the network's time (run with -s)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from e2e.raw import RawAssociation
from e2e.server import Server
from imaging_ai.archive import gate
from imaging_ai.core.identity import new_uid
from imaging_ai.core.job import Job, JobState
from phantoms import ball, series, threshold_bundle, to_bytes
from services import wait_until
from services.orthanc import Orthanc

pytestmark = [pytest.mark.service, pytest.mark.slow]

SERIES, SLICES = 20, 8

SETTINGS = """
[[destinations]]
name = "pacs"
ae_title = "{ae_title}"
host = "127.0.0.1"
port = {port}

[[rules]]
name = "bright things"
when = {{ Modality = "CT" }}
run = ["threshold"]
send = ["pacs"]

[routing]
quiet_seconds = 600.0
silence_seconds = 600.0
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pacs: Orthanc) -> Iterator[Server]:
    """A quiet time that no test would wait for: what starts, starts because the expected count was reached."""
    settings = SETTINGS.format(ae_title=pacs.ae_title, port=pacs.dicom_port)
    with Server(tmp_path_factory.mktemp("latency"), settings) as server:
        threshold_bundle(server.models / "threshold")
        server.serve()
        yield server


@dataclass(frozen=True)
class Passage:
    """One series: when the sender said goodbye, the job, and when its results were at the PACS."""

    released_at: float
    job: Job
    sent_at: float

    @property
    def network(self) -> float:
        seconds = self.job.provenance["seconds"]
        assert isinstance(seconds, dict)
        return float(seconds["infer"])

    @property
    def to_start(self) -> float:
        assert self.job.started_at is not None
        return self.job.started_at - self.released_at

    @property
    def registering(self) -> float:
        """From the start of the job to its SEG in the archive, without the network."""
        assert self.job.started_at is not None and self.job.finished_at is not None
        return self.job.finished_at - self.job.started_at - self.network

    @property
    def delivering(self) -> float:
        """From the start of the job to its SEG at the PACS, without the network."""
        assert self.job.started_at is not None
        return self.sent_at - self.job.started_at - self.network


def phantom() -> list[Dataset]:
    datasets = series(ball((SLICES, 64, 64)))
    study, one, frame = new_uid(), new_uid(), new_uid()
    for ds in datasets:
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, one, frame
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
        ds.ImagesInAcquisition = SLICES
    return datasets


def passage(server: Server) -> Passage:
    datasets = phantom()
    data = [(str(ds.SOPInstanceUID), to_bytes(ds)) for ds in datasets]
    assoc = RawAssociation(server.dicom_port, CTImageStorage, ExplicitVRLittleEndian)
    for uid, file in data:
        assert assoc.store(uid, file[gate.dataset_offset(file) :])[0] == 0x0000
    released_at = time.time()
    assoc.release()
    (job,) = server.wait_jobs(1, str(datasets[0].StudyInstanceUID))
    assert job.state is JobState.COMPLETED, job.failure
    sent = "SELECT min(sent_at) AS at FROM delivery WHERE job_id = :job HAVING count(sent_at) = count(*)"
    (row,) = wait_until(lambda: server.rows(sent, job=job.id))  # type: ignore[misc]
    return Passage(released_at, job, row.at)


def test_a_series_whose_count_is_known_starts_at_the_goodbye(server: Server, tmp_path: Path) -> None:
    passage(server)  # the first one loads the model
    passages = [passage(server) for _ in range(SERIES)]
    for what, values in {
        "release to start": [one.to_start for one in passages],
        "network": [one.network for one in passages],
        "start to SEG in the archive, without the network": [one.registering for one in passages],
        "start to SEG at the PACS, without the network": [one.delivering for one in passages],
    }.items():
        milliseconds = sorted(1000 * value for value in values)
        print(f"{what}: median {statistics.median(milliseconds):.0f} ms, worst {milliseconds[-1]:.0f} ms")
    assert len({one.job.id for one in passages}) == SERIES
    assert all(0 < one.to_start < 25 for one in passages), "none has waited for the quiet time"
