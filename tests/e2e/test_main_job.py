"""The main job on a phantom whose answer is known: a study comes in, its results go back, on each pair of back ends."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest

from e2e.conftest import ServerFactory
from e2e.server import Server, push, renamed
from imaging_ai.core.job import JobState
from phantoms import ball, series, threshold_bundle, write
from services import free_port, wait_until
from services.orthanc import Orthanc

pytestmark = pytest.mark.service

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"

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


def phantom(folder: Path, slices: int = 12) -> list[Path]:
    return list(renamed(write(series(ball((slices, 48, 40))), folder / "made"), folder / "fresh"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, back_ends: dict[str, str], pacs: Orthanc) -> Iterator[Server]:
    server = Server(
        tmp_path_factory.mktemp("main"), SETTINGS.format(ae_title=pacs.ae_title, port=pacs.dicom_port), back_ends
    )
    threshold_bundle(server.models / "threshold")
    server.serve()
    yield server
    server.stop()


def study_of(files: list[Path]) -> str:
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


def test_a_pushed_series_comes_back_to_the_pacs_as_seg_and_sr(server: Server, pacs: Orthanc, tmp_path: Path) -> None:
    files = phantom(tmp_path)
    study = study_of(files)
    push(server.dicom_port, *files)
    (job,) = server.wait_jobs(1, study)
    assert job.state is JobState.COMPLETED, job.failure
    wait_until(lambda: len(pacs.instances(StudyInstanceUID=study)) == 2)
    (seg,) = pacs.instances(SEG, StudyInstanceUID=study)
    (_report,) = pacs.instances(SR, StudyInstanceUID=study)
    found = pydicom.dcmread(io.BytesIO(pacs.download(seg))).pixel_array
    bright = sum(int((pydicom.dcmread(path).pixel_array > 150).sum()) for path in files)
    assert np.count_nonzero(found) == bright > 0
    states = "SELECT state FROM delivery WHERE job_id = :job"
    wait_until(lambda: {row.state for row in server.rows(states, job=job.id)} == {"CONFIRMED"})


def test_instances_that_come_late_make_one_new_run_that_supersedes_the_first(server: Server, tmp_path: Path) -> None:
    files = phantom(tmp_path)
    study = study_of(files)
    push(server.dicom_port, *files[:8])
    server.wait_jobs(1, study)
    push(server.dicom_port, *files[8:])
    newer, older = server.wait_jobs(2, study)
    assert (newer.state, older.state) == (JobState.COMPLETED, JobState.COMPLETED)
    assert (len(newer.inputs), len(older.inputs)) == (12, 8)
    (predecessor,) = server.report(newer.id).PredecessorDocumentsSequence
    (referenced,) = predecessor.ReferencedSeriesSequence
    assert referenced.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == server.report(older.id).SOPInstanceUID


def test_the_same_study_pushed_again_runs_nothing_again(server: Server, tmp_path: Path) -> None:
    files = phantom(tmp_path)
    study = study_of(files)
    push(server.dicom_port, *files)
    server.wait_jobs(1, study)
    push(server.dicom_port, *files)
    time.sleep(2)  # longer than the quiet time and a sweep
    assert len(server.jobs(study=study)) == 1


def test_our_own_results_coming_back_run_nothing(server: Server, pacs: Orthanc, tmp_path: Path) -> None:
    files = phantom(tmp_path)
    study = study_of(files)
    push(server.dicom_port, *files)
    server.wait_jobs(1, study)
    wait_until(lambda: len(pacs.instances(StudyInstanceUID=study)) == 2)
    pacs.add_modality("ai", "IMAGINGAI", server.dicom_port)
    pacs.send(pacs.find("Study", StudyInstanceUID=study)[0], "ai")
    time.sleep(2)
    assert len(server.jobs(study=study)) == 1


def test_what_no_rule_takes_is_kept_and_the_job_list_says_why(server: Server, tmp_path: Path) -> None:
    files = list(renamed(write(series(ball((6, 32, 32)), modality="MR"), tmp_path / "made"), tmp_path / "fresh"))
    study = study_of(files)
    push(server.dicom_port, *files)
    (job,) = server.wait_jobs(1, study)
    assert (job.state, job.model) == (JobState.CANCELED, "")
    assert job.failure is not None
    assert "Modality" in job.failure.reason
    assert server.instance_count(study) == 6
    assert "no-rule-matched" in server.cli("jobs", "list", "--study", study).stdout


def test_a_series_that_the_model_refuses_ends_with_the_reason(server: Server, tmp_path: Path) -> None:
    volume = series(ball((12, 48, 40)))
    del volume[5:7]
    files = list(renamed(write(volume, tmp_path / "made"), tmp_path / "fresh"))
    push(server.dicom_port, *files)
    (job,) = server.wait_jobs(1, study_of(files))
    assert job.state is JobState.CANCELED
    assert job.failure is not None
    assert job.failure.permanent
    assert "slice" in job.failure.reason
    assert server.rows("SELECT count(*) AS n FROM result WHERE job_id = :job", job=job.id)[0].n == 0


def test_results_wait_for_a_destination_that_is_away(
    server_factory: ServerFactory, pacs: Orthanc, tmp_path: Path
) -> None:
    port = free_port()
    server = server_factory(SETTINGS.format(ae_title=pacs.ae_title, port=port))
    threshold_bundle(server.models / "threshold")
    server.serve()
    files = phantom(tmp_path)
    push(server.dicom_port, *files)
    server.wait_jobs(1)
    wait_until(lambda: any(row.attempts for row in server.rows("SELECT attempts FROM delivery")))
    with _Relay(port, pacs.dicom_port):
        server.cli("jobs", "resend", "1")
        wait_until(lambda: len(pacs.instances(StudyInstanceUID=study_of(files))) == 2)


class _Relay:
    """A TCP relay: the destination as it comes back on the port that was dead."""

    def __init__(self, port: int, target: int) -> None:
        self._target, self._port = target, port

    def __enter__(self) -> None:
        import socket

        self._socket = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        import socket

        while True:
            try:
                one, _ = self._socket.accept()
            except OSError:
                return
            two = socket.create_connection(("127.0.0.1", self._target))
            for source, sink in ((one, two), (two, one)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: object, sink: object) -> None:
        while data := source.recv(65536):  # type: ignore[attr-defined]
            sink.sendall(data)  # type: ignore[attr-defined]
        sink.close()  # type: ignore[attr-defined]

    def __exit__(self, *_: object) -> None:
        self._socket.close()
