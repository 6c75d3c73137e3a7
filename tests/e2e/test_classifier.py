"""Models of other styles than one volume to one mask, through the whole server.

The shipped classifier: a real PET in, a report out, the same in database and JSON. A bundle of the zoo that reads RGB
slices, and one that reads four series as channels, with networks that threshold: their masks lie where they must.
"""

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
import torch
from pydicom.sr.codedict import codes

import phantoms
import zoo
from e2e.server import Server, push
from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.identity import derive_uid
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

[[rules]]
name = "endoscopy"
when = { StudyDescription = "endoscopy" }
run = ["endoscopy"]

[[rules]]
name = "four sequences"
when = { StudyDescription = "four sequences" }
run = ["sequences"]

[routing]
quiet_seconds = 0.5
"""

#: As the model's inputs are named, in the order of its channels.
SEQUENCES = ("t1c", "t1", "t2", "flair")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("classifier"), SETTINGS, {"IMAGING_AI_MODELS_SHIPPED": "true"}) as server:
        endoscopy = zoo.copied(real_data / "zoo" / "endoscopic_tool_segmentation", server.models / "endoscopy")
        zoo.brighten(endoscopy, frames(endoscopy))
        sequences_bundle(server.models / "sequences")
        server.serve()
        yield server


def frames(entry: ModelEntry) -> dict[str, list[bytes]]:
    """RGB slices of an oblique stack, something bright in each."""
    return zoo.series_of(
        entry,
        (3, 120, 166),
        (1.0, 0.5, 0.5),
        image=zoo.angular((10, 120, 166))[3:6],
        study="endoscopy",
        orientation=phantoms.OBLIQUE,
        reverse=True,
    )


def sequences_bundle(folder: Path) -> None:
    """Write a bundle in the style of BraTS: four series, and three channels that overlap.

    They are where the first series is bright, where the last is, and where the second or the third is.
    """
    tables = [f'[inputs.{name}]\nSeriesDescription = "{name}"\n' for name in SEQUENCES]
    tables += [f'[[segments]]\nvalue = {k}\nlabel = "{label}"\n' for k, label in enumerate(("first", "last", "inner"))]
    bundle = phantoms.threshold_bundle(folder, modality="MR", pixdim=(1.0, 1.0, 1.0), dicom_toml="\n".join(tables))
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"] |= {"in_channels": 4, "out_channels": 3}
    activation, discrete = config["postprocessing"]["transforms"][0], config["postprocessing"]["transforms"][2]
    activation |= {"softmax": False, "sigmoid": True}
    discrete |= {"argmax": False, "threshold": 0.5}
    file.write_text(json.dumps(config))
    weight = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]]).reshape(3, 4, 1, 1, 1)
    torch.save({"weight": weight, "bias": torch.full((3,), -150.0)}, bundle / "models" / "model.pt")


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


def test_a_bundle_of_rgb_slices_marks_them_where_they_are_bright(server: Server, tmp_path: Path) -> None:
    files = frames(read_model(server.models / "endoscopy"))
    job = sent(server, "endoscopy", files, tmp_path)
    volume = read_volume(files["image"])
    (answer,) = zoo.mask_of(server.results(job.id)["SEG"], volume)
    assert np.array_equal(answer, volume.voxels[..., 0] > 130)


def test_four_series_of_a_study_are_the_channels_of_one_run(server: Server, tmp_path: Path) -> None:
    images = dict.fromkeys(SEQUENCES, np.full((12, 30, 40), 20, np.float32))
    for k, name in enumerate(SEQUENCES):
        images[name] = images[name].copy()
        images[name][1 + 2 * k : 6 + 2 * k, 4:12, 5 + 4 * k : 17 + 4 * k] = 300
    files = {}
    for k, name in enumerate(reversed(SEQUENCES)):
        how: dict[str, Any] = {"orientation": phantoms.OBLIQUE, "reverse": bool(k % 2)}
        datasets = phantoms.series(images[name], modality="MR", name="four sequences", **how)
        for ds in datasets:
            ds.StudyDescription, ds.SeriesDescription, ds.SeriesNumber = "four sequences", name, k + 1
            ds.SeriesInstanceUID, ds.SOPInstanceUID = f"{ds.SeriesInstanceUID}.{k}", f"{ds.SOPInstanceUID}.{k}"
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        files[name] = [phantoms.to_bytes(ds) for ds in datasets]
    job = sent(server, "four sequences", files, tmp_path)
    assert len(job.series_instance_uids) == 4
    first = read_volume(files["t1c"])
    bright = {name: image > 150 for name, image in images.items()}
    expected = [bright["t1c"], bright["flair"], bright["t1"] | bright["t2"]]
    found = zoo.mask_of(server.results(job.id)["SEG"], first)
    for answer, there in zip(found, expected, strict=True):
        assert 2 * (answer & there).sum() / (answer.sum() + there.sum()) > 0.95


def sent(server: Server, study: str, files: dict[str, list[bytes]], folder: Path) -> Job:
    for name, instances in files.items():
        (folder / name).mkdir()
        for k, one in enumerate(instances):
            (folder / name / f"{k}.dcm").write_bytes(one)
    push(server.dicom_port, folder)
    (job,) = server.wait_jobs(1, study=derive_uid("phantom", study, "study"))
    assert job.state is JobState.COMPLETED, job.failure
    return job


def bytes_of(ds: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()
