"""What a bundle of the zoo does around its network is right on any grid: in its place a network that thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import VLEndoscopicImageStorage
from scipy import ndimage

import phantoms
import zoo
from imaging_ai.analysis import analyse
from imaging_ai.catalog import read_model
from imaging_ai.catalog.metadata import network_format, read_metadata
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.volume import read_volume
from others import dciodvfy_errors

GEOMETRIES: dict[str, dict[str, Any]] = {
    "oblique": {"orientation": phantoms.OBLIQUE, "reverse": True},
    "sagittal, tilted": {"orientation": phantoms.SAGITTAL, "tilt_degrees": -12.0},
    "turned": {"orientation": phantoms.FLIPPED},
}


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(ndimage.center_of_mass(mask))


@pytest.mark.parametrize(
    ("name", "spacing", "geometry"),
    [
        *(("spleen_ct_segmentation", (3.0, 1.5, 1.5), geometry) for geometry in GEOMETRIES),
        ("wholeBody_ct_segmentation", (3.0, 1.5, 2.0), "oblique"),
        ("prostate_mri_anatomy", (2.0, 0.5, 0.7), "sagittal, tilted"),
        ("swin_unetr_btcv_segmentation", (2.5, 2.0, 2.0), "turned"),
    ],
)
def test_the_answer_lies_where_the_image_is_bright(
    real_data: Path, tmp_path: Path, name: str, spacing: tuple[float, float, float], geometry: str
) -> None:
    entry = read_model(zoo.random_bundle(real_data / "zoo" / name, tmp_path / name))
    modality = "MR" if "mri" in name else "CT"
    image = zoo.angular((21, 45, 53))
    volume = read_volume(phantoms.series(image, modality=modality, spacing=spacing, **GEOMETRIES[geometry]))
    model = load_bundle(entry)
    channels = network_format(read_metadata(entry.path / "configs" / "metadata.json"), "outputs")["num_channels"]
    zoo.thresholding(model, volume, channels)
    answer, bright = model.predict(volume) == 1, volume.voxels > 175
    assert dice(answer, bright) > 0.95
    assert np.abs(centre(answer) - centre(bright)).max() < 0.5


def test_the_answer_to_an_endoscopy_lies_where_its_frames_are_bright(real_data: Path, tmp_path: Path) -> None:
    name = "endoscopic_tool_segmentation"
    model = load_bundle(read_model(zoo.random_bundle(real_data / "zoo" / name, tmp_path / name)))
    volume = read_volume(zoo.colored(zoo.angular((10, 120, 166))[3:5], (1.0, 1.0, 1.0)))
    zoo.thresholding(model, volume, 2)
    assert dice(model.predict(volume) == 1, volume.voxels[..., 0] > 130) > 0.98


def test_a_classifier_reads_an_endoscopy_that_has_no_place_in_the_patient(real_data: Path, tmp_path: Path) -> None:
    name = "endoscopic_inbody_classification"
    model = load_bundle(read_model(zoo.random_bundle(real_data / "zoo" / name, tmp_path / name)))
    datasets = zoo.colored(zoo.angular((2, 90, 120)), (1.0, 1.0, 1.0))
    for ds in datasets:
        del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing, ds.FrameOfReferenceUID
        ds.Modality, ds.SOPClassUID = "ES", VLEndoscopicImageStorage
        ds.file_meta.MediaStorageSOPClassUID = VLEndoscopicImageStorage
    files = [phantoms.to_bytes(ds) for ds in datasets]
    analysis = analyse({"image": files}, model, lambda *_: None, job_uid="1.2", created_at=0.0)
    (report,) = analysis.objects
    assert report.kind == "SR"
    (tmp_path / "sr.dcm").write_bytes(report.data)
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []
    assert model.notes == ()
    chances = [one.probability for one in analysis.evaluations]
    assert len(chances) == 2
    assert 1 <= sum(chances) < 2, "each is the largest of the images"
