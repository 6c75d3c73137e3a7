"""Results on real series are valid for the validators of others, and read back by other people's software."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pytest
from PIL import Image

import encoded
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check, encode_refusal
from others import dciodvfy_errors
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
    """Every kind of object of that series."""
    return encoded.encode_all(volume)


def save(obj: EncodedObject, folder: Path) -> Path:
    """Write an object to a file."""
    path = folder / f"{obj.sop_instance_uid}.dcm"
    path.write_bytes(obj.data)
    return path


def dcmqi(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of dcmqi, which pip installs beside Python."""
    path = Path(sys.executable).parent / program
    if not path.exists():
        missing(f"the program {program} of dcmqi")
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, timeout=120, check=False)


def upright(volume: Volume) -> bool:
    """Say whether planes lie straight above one another: dcmqi (ITK) has no sheared grids."""
    row, column, step = (volume.grid.affine[:3, axis] for axis in range(3))
    return bool(abs(step @ column) <= 1e-3 * np.linalg.norm(step) * np.linalg.norm(column) and abs(step @ row) <= 1e-3)


def masks(volume: Volume) -> list[np.ndarray]:
    """Return the masks of what was found, in the order of the segments."""
    return [finding.mask for finding in encoded.findings(volume.grid.shape) if finding.found]


def cosines(volume: Volume) -> Sequence[object]:
    """Return the orientation as the source writes it."""
    header = volume.headers[0]
    if "ImageOrientationPatient" in header:
        return list(header.ImageOrientationPatient)
    shared = header.SharedFunctionalGroupsSequence[0]
    groups = shared if "PlaneOrientationSequence" in shared else header.PerFrameFunctionalGroupsSequence[0]
    return list(groups.PlaneOrientationSequence[0].ImageOrientationPatient)


@pytest.mark.parametrize("kind", encoded.KINDS)
def test_dciodvfy_finds_no_error(objects: dict[str, EncodedObject], volume: Volume, kind: str, tmp_path: Path) -> None:
    path = save(objects[kind], tmp_path)
    result = subprocess.run(
        [require_program("dciodvfy"), "-new", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    output = result.stdout + result.stderr
    errors = [line for line in output.splitlines() if line.startswith("Error")]
    if kind == "PM" and max(len(str(cosine)) for cosine in cosines(volume)) > 16:
        # OHIF places a map only where these digits are the source's, and the source has more than the standard allows
        errors = [e for e in errors if "ImageOrientationPatient" not in e or "expected <= 16" not in e]
    assert not errors
    assert output.strip(), "dciodvfy says at least what kind of object it was shown"


def test_dciodvfy_finds_no_error_in_classes_explanations_and_refusals(volume: Volume, tmp_path: Path) -> None:
    found, classes = encoded.findings(volume.grid.shape), encoded.evaluations(volume)
    explained = [one.tracking_uid for one in (*found, *classes) if getattr(one, "found", True)]
    why = [encoded.explanation(volume, uid, k, slices=(0,)) for k, uid in enumerate(explained, 1)]
    made = encoded.encode(volume, found, evaluations=classes, explanations=why)
    assert {"SR", "PM 4", "SC 4", "KO 4"} <= set(made)
    looked_for = [(one.description.label, one.description.property_type) for one in found]
    when = {"job_uid": encoded.JOB_UID, "created_at": encoded.CREATED_AT}
    refused = encode_refusal(volume, looked_for, "too few slices", encoded.MODEL, **when)  # type: ignore[arg-type]
    long = max(len(str(cosine)) for cosine in cosines(volume)) > 16  # as above
    for obj in (refused, *(made[kind] for kind in ("SR", "PM 4", "SC 4", "KO", "KO 4"))):
        check(obj, volume)
        errors = dciodvfy_errors(save(obj, tmp_path))
        assert [e for e in errors if not (long and obj.kind == "PM" and "ImageOrientationPatient" in e)] == []


@pytest.mark.parametrize("kind", ["SR", "SR 2", "KO"])
def test_dcmtk_reads_the_documents(objects: dict[str, EncodedObject], kind: str, tmp_path: Path) -> None:
    path = save(objects[kind], tmp_path)
    result = subprocess.run(
        [require_program("dsrdump"), str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not [line for line in result.stderr.splitlines() if line.startswith(("E:", "F:"))]


@pytest.mark.parametrize("program", ["dcm2pnm", "dcmj2pnm"])
def test_dcmtk_draws_the_picture(objects: dict[str, EncodedObject], program: str, tmp_path: Path) -> None:
    path = save(objects["SC"], tmp_path)
    command = [require_program(program), "--write-raw-pnm", str(path), str(tmp_path / "drawn.ppm")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    drawn = np.asarray(Image.open(tmp_path / "drawn.ppm"))
    assert np.array_equal(drawn, encoded.read(objects["SC"]).pixel_array)


def test_highdicom_reads_the_map_back(objects: dict[str, EncodedObject], volume: Volume) -> None:
    read = hd.imread(io.BytesIO(objects["PM"].data))
    assert np.array_equal(read.get_frames(apply_real_world_transform=True), encoded.probability(volume).values)


def test_dcmqi_reads_the_map_back_on_the_grid_of_the_source(
    objects: dict[str, EncodedObject], volume: Volume, tmp_path: Path
) -> None:
    path = save(objects["PM"], tmp_path)
    command = ("--inputDICOM", str(path), "--outputDirectory", str(tmp_path), "-t", "nifti")
    result = dcmqi("paramap2itkimage", *command)
    assert result.returncode == 0, result.stdout + result.stderr
    image = nibabel.load(tmp_path / "pmap.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), encoded.probability(volume).values)
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert meta["QuantityValueCode"]["CodeValue"] == "110854"
    if upright(volume):
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
        last = np.array(volume.grid.shape)[::-1] - 1
        assert lps @ (*last, 1) == pytest.approx(volume.grid.affine @ (*last, 1), abs=0.05)


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
    if not upright(volume):
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


@pytest.fixture(scope="module")
def label_map(volume: Volume) -> EncodedObject:
    """The same findings, which do not overlap, as a label map."""
    obj = encoded.encode(volume, segmentation="labelmap")["SEG"]
    check(obj, volume)
    return obj


@pytest.fixture(scope="module")
def fractional(volume: Volume) -> EncodedObject:
    """One finding with its probability."""
    one = encoded.findings(volume.grid.shape, found=1, absent=0)
    chances = np.full(volume.grid.shape, 0.6, np.float32)
    obj = encoded.encode(volume, one, segmentation="fractional", probability=chances)["SEG"]
    check(obj, volume)
    return obj


def test_dciodvfy_finds_no_error_in_a_fractional_one_and_knows_no_label_maps(
    label_map: EncodedObject, fractional: EncodedObject, tmp_path: Path
) -> None:
    def errors(obj: EncodedObject) -> list[str]:
        command = [require_program("dciodvfy"), "-new", str(save(obj, tmp_path))]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Error")]

    assert not errors(fractional)
    assert [error for error in errors(label_map) if "Information Object" not in error] == []


def test_highdicom_and_dcmqi_read_the_label_map_back(label_map: EncodedObject, volume: Volume, tmp_path: Path) -> None:
    seg = hd.seg.segread(io.BytesIO(label_map.data))
    uids = [source.sop_instance_uid for source in volume.sources]
    if volume.sources[0].multi_frame:
        numbers = [source.frame_number for source in volume.sources]
        pixels = seg.get_pixels_by_source_frame(uids[0], numbers, assert_missing_frames_are_empty=True)
    else:
        pixels = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    assert np.array_equal(pixels, np.stack(masks(volume), axis=-1))
    if upright(volume):
        (read,) = by_dcmqi(save(label_map, tmp_path), tmp_path).values()
        for number, mask in enumerate(masks(volume), 1):
            assert (read == number).sum() == mask.sum()


def test_dcmqi_reads_the_fractional_one_back(fractional: EncodedObject, volume: Volume, tmp_path: Path) -> None:
    if not upright(volume):
        pytest.skip("dcmqi (ITK) has no sheared grids")
    (read,) = by_dcmqi(save(fractional, tmp_path), tmp_path).values()
    (mask,) = (one.mask for one in encoded.findings(volume.grid.shape, found=1, absent=0))
    assert (read > 0).sum() == mask.sum()


def by_dcmqi(path: Path, folder: Path) -> dict[str, np.ndarray]:
    """Read the segments as dcmqi does, by the number of its file."""
    result = dcmqi("segimage2itkimage", "--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nifti")
    assert result.returncode == 0, result.stdout + result.stderr
    return {file.name: np.asarray(nibabel.load(file).dataobj) for file in sorted(folder.glob("*.nii.gz"))}


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
