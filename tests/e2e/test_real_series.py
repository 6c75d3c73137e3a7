"""Real series through the whole server: pushed by DCMTK and forwarded by Orthanc, results back in the same Orthanc.

PET goes to the shipped model; CT to a bundle of the Model Zoo with random weights, whose answer is noise on the right
grid; MR to no model.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest

from e2e.server import Server, instances_of, push
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.blobs import FolderStore
from imaging_ai.core.geometry import Grid
from imaging_ai.core.job import Job, JobState
from imaging_ai.demo_results import measurements
from imaging_ai.infer.volume import read_volume
from others import dciodvfy_errors, dsrdump, measurement_groups, segments_by_dcmqi
from services import free_port, require_program, wait_until
from services.orthanc import Orthanc
from services.peers import dataset_bytes
from zoo import random_bundle

pytestmark = [pytest.mark.service, pytest.mark.slow]

SETTINGS = """
[[destinations]]
name = "pacs"
ae_title = "{ae_title}"
host = "127.0.0.1"
port = {port}

[[rules]]
name = "PET"
when = {{ Modality = "PT" }}
run = ["fdg-pet-lesion"]
send = ["pacs"]

[[rules]]
name = "CT"
when = {{ Modality = "CT", instances = ">= 10" }}
run = ["spleen_ct_segmentation"]
send = ["pacs"]
"""


@dataclass(frozen=True)
class Source:
    """A series of the data folder, and how it comes in: by `storescu` with options, or through Orthanc."""

    folder: str
    through_orthanc: bool = False
    options: tuple[str, ...] = ()
    first: int | None = None


SOURCES = {
    "pet by storescu": Source("sts/STS_003/PET/image"),
    "pet by orthanc": Source("sts/STS_018/PET/image", through_orthanc=True),
    "ct by orthanc": Source("sts/STS_004/CT/image", through_orthanc=True),
    "ct of gantry tilt": Source("ct-gantry-tilt"),
    "ct at 3 mm": Source("ct-abdomen-3mm/dicom", first=48),
    "ct in jpeg 2000": Source("ct-abdomen-slab/dicom", options=("-xv",)),
}
UNMATCHED = Source("mr-head-t1")
KINDS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.88.34": "SR",
    "1.2.840.10008.5.1.4.1.1.30": "PM",
    "1.2.840.10008.5.1.4.1.1.7": "SC",
}

#: dcmqi (ITK) has no sheared grids: it refuses highdicom's own SEG of a tilted gantry too.
UPRIGHT = [name for name in SOURCES if name != "ct of gantry tilt"]


@dataclass
class Hospital:
    """The server, the PACS, and where everything that was sent to the server was sent too."""

    server: Server
    pacs: Orthanc
    data: Path
    sent: Path
    jobs: dict[str, Job] = field(default_factory=dict)

    def files(self, source: Source) -> list[Path]:
        """The instances of a series; an index of the media is none."""
        return [path for path in instances_of(self.data / source.folder) if path.name != "DIRFILE"][: source.first]

    def archive(self) -> Archive:
        return Archive(self.server.database, FolderStore(self.server.folder / "data" / "objects"))


@contextmanager
def recorder(folder: Path) -> Iterator[int]:
    """DCMTK's storescp, which writes every data set as it came from the network."""
    folder.mkdir()
    port = free_port()
    command = [require_program("storescp"), "--bit-preserving", "+xa", "-od", str(folder), "-aet", "ANY", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "TCP_NODELAY": "1"})
    try:
        echo = [require_program("echoscu"), "127.0.0.1", str(port)]
        wait_until(lambda: subprocess.run(echo, capture_output=True, check=False).returncode == 0, what="storescp")
        yield port
    finally:
        process.kill()
        process.wait()


def series_uid(files: list[Path]) -> str:
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, pacs: Orthanc, real_data: Path) -> Iterator[Hospital]:
    """Everything pushed, every job at its end."""
    folder = tmp_path_factory.mktemp("hospital")
    settings = SETTINGS.format(ae_title=pacs.ae_title, port=pacs.dicom_port)
    server = Server(folder / "server", settings, {"IMAGING_AI_MODELS_SHIPPED": "true"})
    name = "spleen_ct_segmentation"
    random_bundle(real_data / "zoo" / name, server.models / name, seed=1)
    one = Hospital(server, pacs, real_data, folder / "sent")
    pacs.add_modality("ai", "IMAGINGAI", server.dicom_port)
    with server:
        server.serve()
        with recorder(one.sent) as port:
            pacs.add_modality("recorder", "ANY", port)
            for source in (*SOURCES.values(), UNMATCHED):
                send(one, source, port)
        ended = server.wait_jobs(len(SOURCES) + 1, timeout=400)
        one.jobs = {job.series_instance_uids[0]: job for job in ended}
        states = "SELECT count(*) AS n FROM delivery WHERE state != 'CONFIRMED'"
        wait_until(lambda: server.rows(states)[0].n == 0, 60, what="all deliveries confirmed")
        yield one


def send(hospital: Hospital, source: Source, recorder_port: int) -> None:
    """Send a series to the server and, in the same way, to the recorder."""
    files = hospital.files(source)
    if source.through_orthanc:
        for path in files:
            hospital.pacs.upload(path)
        for modality in ("ai", "recorder"):
            hospital.pacs.send(series_uid(files), modality)
        return
    push(hospital.server.dicom_port, *files, options=source.options)
    push(recorder_port, *files, called="ANY", options=source.options)


@dataclass(frozen=True)
class Outcome:
    """What came back for one series: the job, its objects as the PACS has them, and the grid of the source."""

    source: Source
    files: list[Path]
    job: Job
    objects: dict[str, Path]
    grid: Grid

    def read(self, kind: str) -> pydicom.Dataset:
        return pydicom.dcmread(self.objects[kind])

    @property
    def voxel_ml(self) -> float:
        return abs(float(np.linalg.det(self.grid.affine[:3, :3]))) / 1000


@pytest.fixture(scope="module", params=SOURCES, ids=list(SOURCES))
def outcome(request: pytest.FixtureRequest, hospital: Hospital, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    source = SOURCES[request.param]
    files = hospital.files(source)
    job = hospital.jobs[series_uid(files)]
    assert job.state is JobState.COMPLETED, job.failure
    folder, objects = tmp_path_factory.mktemp("objects"), {}
    for one in hospital.archive().results(job.id):
        (instance,) = hospital.pacs.find("Instance", SOPInstanceUID=one.sop_instance_uid)
        data = hospital.pacs.download(instance)
        kind = kind_of(pydicom.dcmread(BytesIO(data), specific_tags=["SOPClassUID", "SeriesDescription"]))
        path = folder / f"{one.sop_instance_uid}.dcm"
        path.write_bytes(data)
        objects.setdefault(kind, path)
    grid = read_volume(path.read_bytes() for path in files).grid
    return Outcome(source, files, job, objects, grid)


def kind_of(ds: pydicom.Dataset) -> str:
    """What an object is; the second report, of lines, is "SR lines"."""
    return "SR lines" if str(ds.SeriesDescription).endswith("SR lines") else KINDS[ds.SOPClassUID]


def groups(report: pydicom.Dataset) -> list[dict[str, tuple[float, str]]]:
    return [{name: (value, unit) for name, value, unit in rows} for _, rows in measurements(report) if rows]


def test_what_the_model_asks_for_is_in_the_pacs(outcome: Outcome) -> None:
    shipped = outcome.job.model == "fdg-pet-lesion"
    assert sorted(outcome.objects) == (["PM", "SC", "SEG", "SR", "SR lines"] if shipped else ["SEG", "SR"])
    study = pydicom.dcmread(outcome.files[0], stop_before_pixels=True)
    for kind in outcome.objects:
        result = outcome.read(kind)
        for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "StudyDate"):
            assert result.get(keyword) == study.get(keyword), keyword


def test_dciodvfy_finds_no_error(outcome: Outcome) -> None:
    errors = {kind: dciodvfy_errors(path) for kind, path in outcome.objects.items()}
    assert not any(errors.values()), errors


def test_dcmtk_reads_the_report(outcome: Outcome) -> None:
    assert "Imaging Measurement Report" in dsrdump(outcome.objects["SR"])


def test_every_frame_of_the_seg_lies_where_its_source_does(outcome: Outcome) -> None:
    seg = outcome.read("SEG")
    source = {
        str(ds.SOPInstanceUID): ds for ds in (pydicom.dcmread(path, stop_before_pixels=True) for path in outcome.files)
    }
    first = next(iter(source.values()))
    assert seg.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert (seg.Rows, seg.Columns) == (first.Rows, first.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    assert np.allclose(spacing, [float(value) for value in first.PixelSpacing], rtol=1e-6)
    orientation = [float(value) for value in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    for frame in seg.PerFrameFunctionalGroupsSequence:
        image = source[frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(position, [float(v) for v in image.ImagePositionPatient], atol=1e-3)
        assert np.allclose(orientation, [float(v) for v in image.ImageOrientationPatient], atol=1e-5)


def test_the_volume_in_the_report_is_that_of_the_voxels_in_the_seg(outcome: Outcome) -> None:
    seg = hd.seg.segread(outcome.objects["SEG"])
    uids = [str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in outcome.files]
    pixels = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    voxels = sorted(int(count) for count in pixels.reshape(-1, pixels.shape[-1]).sum(axis=0))
    assert all(voxels)
    told = sorted(group["Volume"] for group in groups(outcome.read("SR")))
    assert {unit for _, unit in told} == {"ml"}
    assert [value for value, _ in told] == pytest.approx([count * outcome.voxel_ml for count in voxels], rel=1e-4)


@pytest.mark.parametrize("outcome", UPRIGHT, indirect=True)
def test_dcmqi_reads_the_segments_on_the_grid_of_the_source(outcome: Outcome, tmp_path: Path) -> None:
    seg = outcome.read("SEG")
    counts = np.zeros(len(seg.SegmentSequence), int)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for frame, item in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        counts[item.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1] += int(np.count_nonzero(frame))
    read = segments_by_dcmqi(outcome.objects["SEG"], tmp_path / "dcmqi")
    assert [int(mask.sum()) for mask, _ in read] == counts.tolist()
    for mask, affine in read:
        z, y, x = np.argwhere(mask)[0]
        index = (np.linalg.inv(outcome.grid.affine) @ affine @ (x, y, z, 1))[:3]
        assert np.allclose(index, np.round(index), atol=0.02)


def test_dcmqi_reads_the_measurements(outcome: Outcome, tmp_path: Path) -> None:
    read = measurement_groups(outcome.objects["SR"], tmp_path / "report.json")
    told = groups(outcome.read("SR"))
    assert [group["segmentationSOPInstanceUID"] for group in read] == [outcome.read("SEG").SOPInstanceUID] * len(told)
    for group, rows in zip(read, told, strict=True):
        volume = next(item for item in group["measurementItems"] if item["quantity"]["CodeMeaning"] == "Volume")
        assert float(volume["value"]) == pytest.approx(rows["Volume"][0])


def test_what_no_rule_takes_is_stored_and_indexed_and_the_job_list_says_why(hospital: Hospital) -> None:
    files = hospital.files(UNMATCHED)
    uid = series_uid(files)
    job = hospital.jobs[uid]
    assert (job.state, job.model) == (JobState.CANCELED, "")
    assert len(hospital.archive().instances(uid)) == len(files) == 384
    listed = hospital.server.cli("jobs", "list", "--study", job.study_instance_uid).stdout
    assert "no-rule-matched" in listed
    assert "Modality" in listed


@pytest.mark.parametrize("source", (*SOURCES.values(), UNMATCHED), ids=(*SOURCES, "mr"))
def test_every_data_set_is_kept_bit_for_bit_as_it_was_sent(hospital: Hospital, source: Source) -> None:
    archive, files = hospital.archive(), hospital.files(source)
    kept = {one.sop_instance_uid: one for one in archive.instances(series_uid(files))}
    for path in files:
        uid = str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
        (sent,) = hospital.sent.glob(f"*.{uid}")
        assert dataset_bytes(archive.read(kept[uid])) == dataset_bytes(sent.read_bytes())
    assert len(kept) == len(files)


def test_nothing_went_wrong_on_the_way(hospital: Hospital) -> None:
    log: Any = hospital.server.folder / "serve.log"
    lines = [line for line in log.read_text().splitlines() if "ERROR" in line or "Traceback" in line]
    assert lines == []
