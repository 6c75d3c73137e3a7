"""The shipped classifier through the whole server: a real PET in, a report out, the same in database and JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from e2e.server import Server, push
from imaging_ai.core.job import Job, JobState
from imaging_ai.infer.volume import read_volume
from others import dciodvfy_errors, dsrdump
from rtstruct import rasterise

pytestmark = [pytest.mark.service, pytest.mark.slow]

SETTINGS = """
[[rules]]
name = "PET"
when = { Modality = "PT" }
run = ["fdg-pet-slice"]

[routing]
quiet_seconds = 0.5
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("classifier"), SETTINGS, {"IMAGING_AI_MODELS_SHIPPED": "true"}) as server:
        server.serve()
        yield server


@pytest.fixture(scope="module")
def folder(real_data: Path) -> Path:
    """A patient that training never saw."""
    return real_data / "sts" / "STS_033" / "PET"


@pytest.fixture(scope="module")
def job(server: Server, folder: Path) -> Job:
    push(server.dicom_port, folder / "image")
    (job,) = server.wait_jobs(1)
    assert job.state is JobState.COMPLETED, job.failure
    return job


@pytest.fixture(scope="module")
def told(server: Server, job: Job) -> list[dict[str, Any]]:
    """What the API tells of the job."""
    found: list[dict[str, Any]] = server.get(f"/api/jobs/{job.id}").json()["evaluations"]
    return found


def test_a_report_is_all_that_is_made(server: Server, job: Job) -> None:
    assert list(server.results(job.id)) == ["SR"]


def test_most_slices_with_tumour_are_told_from_those_without(told: list[dict[str, Any]], folder: Path) -> None:
    volume = read_volume(file.read_bytes() for file in sorted((folder / "image").iterdir()))
    mask = rasterise(pydicom.dcmread(folder / "mask" / "RS.dcm"), volume.grid).any(axis=(1, 2))
    with_tumour = {one.sop_instance_uid for one, there in zip(volume.sources, mask, strict=True) if there}
    series, *each = told
    assert series["present"]
    assert series["instances"] == []
    assert {uid for one in each for uid in one["instances"]} == {one.sop_instance_uid for one in volume.sources}
    right = [one["present"] == (one["instances"][0] in with_tumour) for one in each]
    assert np.mean(right) > 0.8


def test_the_report_says_the_same_in_the_words_of_the_standard(
    server: Server, job: Job, told: list[dict[str, Any]]
) -> None:
    report = hd.sr.srread(io.BytesIO(bytes_of(server.results(job.id)["SR"])))
    groups = report.content.get_image_measurement_groups()
    present = [one for one in told if one["present"]]
    assert [group.tracking_uid for group in groups] == [one["tracking_uid"] for one in present]
    for group, one in zip(groups, present, strict=True):
        assert group.finding_type == codes.SCT.Neoplasm
        (number,) = group.get_measurements(name=codes.DCM.Probability)
        assert number.value == pytest.approx(100 * one["probability"], abs=1e-3)
        assert [image.referenced_sop_instance_uid for image in group.source_images] == one["instances"]


def test_others_read_the_report(server: Server, job: Job, tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    path.write_bytes(bytes_of(server.results(job.id)["SR"]))
    assert dciodvfy_errors(path) == []
    assert "Probability" in dsrdump(path)


def test_the_command_line_shows_it(server: Server, job: Job, told: list[dict[str, Any]]) -> None:
    show = ("jobs", "show", str(job.id))
    shown, as_json = (server.cli(*show, *more).stdout for more in ([], ["--json"]))
    assert json.loads(as_json)["evaluations"] == told
    assert f"Tumour  present  probability {100 * told[0]['probability']:.1f} %" in shown


def bytes_of(ds: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()
