"""Results on real series are valid for the validators of others, and read back by other people's software."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pytest

import encoded
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check
from services import missing, require_program

#: What is read: the series of the data folder, and how many of its files.
SERIES = {
    "pet": ("sts/STS_001/PET/image/*.dcm", None),
    "ct of gantry tilt": ("ct-gantry-tilt/S2010/I*", None),
    "mr, digits too long": ("mr-head-t1/*.dcm", 24),
    "mr, t1 of the limb": ("sts/STS_005/MR_T1/image/*.dcm", 12),
    "ct, jpeg 2000": ("ct-abdomen-slab/dicom/*.dcm", 8),
    "ct, frames of no whole bytes": ("ct-abdomen-3mm/dicom/*.dcm", 20),
    "ct, enhanced multi-frame": ("syntaxes/eCT_Supplemental.dcm", None),
}


@pytest.fixture(scope="module", params=SERIES, ids=list(SERIES))
def volume(request: pytest.FixtureRequest, real_data: Path) -> Volume:
    """A real series, read as a worker reads it."""
    pattern, count = SERIES[request.param]
    return encoded.read_files(sorted(real_data.glob(pattern))[:count])


@pytest.fixture(scope="module")
def objects(volume: Volume) -> dict[str, EncodedObject]:
    """SEG, SR and KO of that series."""
    return encoded.encode_all(volume)


def save(obj: EncodedObject, folder: Path) -> Path:
    """Write an object to a file."""
    path = folder / f"{obj.kind}.dcm"
    path.write_bytes(obj.data)
    return path


def dcmqi(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of dcmqi, which pip installs beside Python."""
    path = Path(sys.executable).parent / program
    if not path.exists():
        missing(f"the program {program} of dcmqi")
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, timeout=120, check=False)


def masks(volume: Volume) -> list[np.ndarray]:
    """Return the masks of what was found, in the order of the segments."""
    return [finding.mask for finding in encoded.findings(volume.grid.shape) if finding.found]


@pytest.mark.parametrize("kind", ["SEG", "SR", "KO"])
def test_dciodvfy_finds_no_error(objects: dict[str, EncodedObject], kind: str, tmp_path: Path) -> None:
    path = save(objects[kind], tmp_path)
    result = subprocess.run(
        [require_program("dciodvfy"), "-new", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    output = result.stdout + result.stderr
    assert not [line for line in output.splitlines() if line.startswith("Error")]
    assert output.strip(), "dciodvfy says at least what kind of object it was shown"


@pytest.mark.parametrize("kind", ["SR", "KO"])
def test_dcmtk_reads_the_documents(objects: dict[str, EncodedObject], kind: str, tmp_path: Path) -> None:
    path = save(objects[kind], tmp_path)
    result = subprocess.run(
        [require_program("dsrdump"), str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not [line for line in result.stderr.splitlines() if line.startswith(("E:", "F:"))]


def test_our_own_check_agrees(objects: dict[str, EncodedObject], volume: Volume) -> None:
    for obj in objects.values():
        check(obj, volume)


def test_highdicom_reads_the_masks_and_the_geometry_back(objects: dict[str, EncodedObject], volume: Volume) -> None:
    seg = hd.seg.segread(io.BytesIO(objects["SEG"].data))
    uids = [source.sop_instance_uid for source in volume.sources]
    if volume.sources[0].multi_frame:
        numbers = [source.frame_number for source in volume.sources]
        pixels = seg.get_pixels_by_source_frame(uids[0], numbers, assert_missing_frames_are_empty=True)
    else:
        pixels = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    assert np.array_equal(pixels, np.stack(masks(volume), axis=-1))
    for item in seg.PerFrameFunctionalGroupsSequence:
        image = item.DerivationImageSequence[0].SourceImageSequence[0]
        key = str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber", 1))
        k = [(source.sop_instance_uid, source.frame_number) for source in volume.sources].index(key)
        expected = volume.grid.to_patient(np.array([[k, 0.0, 0.0]]))[0]
        assert np.allclose(item.PlanePositionSequence[0].ImagePositionPatient, expected, atol=0.01)


def test_highdicom_reads_the_report_back(objects: dict[str, EncodedObject]) -> None:
    report = hd.sr.srread(io.BytesIO(objects["SR"].data))
    assert len(report.content.get_volumetric_roi_measurement_groups()) == 2
    assert len(report.content.get_image_measurement_groups()) == 1


def test_dcmqi_reads_the_segments_back(objects: dict[str, EncodedObject], volume: Volume, tmp_path: Path) -> None:
    row, column, step = (volume.grid.affine[:3, axis] for axis in range(3))
    if abs(step @ column) > 1e-3 * np.linalg.norm(step) * np.linalg.norm(column) or abs(step @ row) > 1e-3:
        pytest.skip("dcmqi (ITK) has no sheared grids: it refuses highdicom's own SEG of a tilted gantry too")
    path = save(objects["SEG"], tmp_path)
    result = dcmqi("segimage2itkimage", "--inputDICOM", str(path), "--outputDirectory", str(tmp_path), "-t", "nifti")
    assert result.returncode == 0, result.stdout + result.stderr
    for number, mask in enumerate(masks(volume), 1):
        image = nibabel.load(tmp_path / f"{number}.nii.gz")
        read = np.asarray(image.dataobj).transpose(2, 1, 0) > 0
        assert read.sum() == mask.sum()
        ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
        there = {tuple(np.round((ras @ (x, y, z, 1))[:3]).astype(int)) for z, y, x in np.argwhere(read)}
        here = volume.grid.to_patient(np.argwhere(mask).astype(float))
        assert there == {tuple(point) for point in np.round(here).astype(int)}


def test_dcmqi_reads_the_measurements_back(objects: dict[str, EncodedObject], tmp_path: Path) -> None:
    metadata = tmp_path / "report.json"
    path = save(objects["SR"], tmp_path)
    result = dcmqi("tid1500reader", "--inputDICOM", str(path), "--outputMetadata", str(metadata))
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(metadata.read_text())
    found = [group for group in report["Measurements"] if group.get("measurementItems")]
    assert [group["TrackingIdentifier"] for group in found] == ["Lesion 1", "Lesion 3"]
    for number, group in enumerate(found, 1):
        assert group["ReferencedSegment"] == number
        assert group["segmentationSOPInstanceUID"] == objects["SEG"].sop_instance_uid
        values = {item["quantity"]["CodeMeaning"]: float(item["value"]) for item in group["measurementItems"]}
        assert values["Volume"] == pytest.approx(12.345678901234)
