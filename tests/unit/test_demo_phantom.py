from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from imaging_ai.core.volume import Volume
from imaging_ai.demo_phantom import LESION, DemoStudy, Ellipsoid, uptake, write_demo_study
from imaging_ai.infer.suv import SUV_BODY_WEIGHT
from imaging_ai.infer.volume import read_volume
from services import require_program


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> DemoStudy:
    return write_demo_study(tmp_path_factory.mktemp("demo"), seed=1)


@pytest.fixture(scope="module")
def volume(study: DemoStudy) -> Volume:
    return read_volume(path.read_bytes() for path in study.paths)


def test_the_series_reads_as_one_volume_in_suv(study: DemoStudy, volume: Volume) -> None:
    assert volume.unit == SUV_BODY_WEIGHT
    assert volume.notes == ()
    assert volume.grid.shape == study.lesion.shape == (80, 128, 128)
    assert volume.grid.spacing == pytest.approx((4.0, 4.0, 4.0))


def test_the_voxels_are_the_uptake_that_was_drawn(study: DemoStudy, volume: Volume) -> None:
    inner = volume.voxels[study.lesion][volume.voxels[study.lesion] > 7]
    assert inner.mean() == pytest.approx(LESION.suv, rel=0.03)
    muscle = volume.voxels[38:42, 60:70, 30:36]  # the right thigh, away from its vessels
    assert muscle.mean() == pytest.approx(0.75, rel=0.1)
    assert 0.01 < muscle.std() < 0.2
    assert volume.voxels[:, :4].max() < 0.01


def test_the_true_volume_is_that_of_the_lesion(study: DemoStudy, volume: Volume) -> None:
    assert study.true_volume_ml == pytest.approx(103.2, abs=0.1)
    assert study.lesion.sum() * volume.grid.voxel_volume / 1000 == pytest.approx(study.true_volume_ml, rel=0.03)


def test_the_lesion_lies_where_the_mask_says(study: DemoStudy, volume: Volume) -> None:
    hottest = np.unravel_index(volume.voxels.argmax(), volume.voxels.shape)
    assert study.lesion[hottest]
    middle = volume.grid.to_patient(np.argwhere(study.lesion).mean(axis=0)[None])[0]
    assert middle == pytest.approx(LESION.center, abs=0.5)


def test_the_activity_of_an_ellipsoid_survives_edge_blur_and_noise() -> None:
    ball = Ellipsoid((1.3, -2.1, 0.7), (25, 25, 25), 4.0)
    assert uptake((ball,), seed=3).sum() * 0.064 == pytest.approx(4.0 * ball.volume_ml, rel=0.02)


def test_a_seed_makes_the_same_files_again(study: DemoStudy, tmp_path: Path) -> None:
    again = write_demo_study(tmp_path, seed=1)
    assert [path.read_bytes() for path in again.paths] == [path.read_bytes() for path in study.paths]


def test_another_seed_is_another_study_with_the_same_lesion(study: DemoStudy, tmp_path: Path) -> None:
    other = write_demo_study(tmp_path, seed=2)
    assert other.study_instance_uid != study.study_instance_uid
    assert dcmread(other.paths[40]).PixelData != dcmread(study.paths[40]).PixelData
    assert (other.lesion == study.lesion).all()


def test_a_fresh_study_has_new_uids_and_the_same_image(study: DemoStudy, tmp_path: Path) -> None:
    fresh = write_demo_study(tmp_path, seed=1, fresh=True)
    one, other = dcmread(fresh.paths[40]), dcmread(study.paths[40])
    assert one.PixelData == other.PixelData
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert one[keyword].value != other[keyword].value


@pytest.mark.service
def test_dciodvfy_finds_no_fault(study: DemoStudy) -> None:
    for path in study.paths[::40]:
        said = subprocess.run([require_program("dciodvfy"), "-new", str(path)], capture_output=True, text=True)
        assert "Error" not in said.stderr + said.stdout
        assert "Warning" not in said.stderr + said.stdout


def test_making_it_needs_neither_torch_nor_monai() -> None:
    code = "import sys, imaging_ai.demo_phantom; print(sorted({'torch', 'monai', 'highdicom'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
