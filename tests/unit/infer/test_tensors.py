"""Tensors for MONAI: axes and affine as its image readers give them, so that a network sees patients as in training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.transforms import LoadImage, Orientation

import phantoms
from imaging_ai.core.volume import Volume
from imaging_ai.infer.tensors import image_tensor, plane_tensor, resampled_onto

MakeVolume = Callable[..., Volume]
SHAPE = (6, 8, 10)


def dot(k: int, row: int, column: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    image = np.zeros(SHAPE, np.float32)
    image[k, row, column] = 9
    return image


def test_ras_runs_to_the_right_the_front_and_the_head(make_volume: MakeVolume) -> None:
    volume = make_volume(dot(5, 0, 0))  # the topmost slice, the patient's right front corner
    oriented = Orientation("RAS")(image_tensor(volume)[None])[0]
    assert np.argwhere(oriented.numpy() > 0).tolist() == [[9, 7, 5]]


@pytest.mark.parametrize("orientation", [phantoms.AXIAL, phantoms.CORONAL, phantoms.OBLIQUE], ids=str)
def test_it_is_what_monai_loads_from_nifti(
    make_volume: MakeVolume, tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    volume = make_volume(dot(1, 2, 3), orientation=orientation)
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.grid.affine
    nibabel.save(nibabel.Nifti1Image(volume.voxels.transpose(2, 1, 0), ras), tmp_path / "image.nii")
    loaded = LoadImage()(tmp_path / "image.nii")
    ours = image_tensor(volume)
    assert np.array_equal(ours.numpy(), loaded.numpy())
    assert np.allclose(ours.affine, loaded.affine, atol=1e-4)


def test_a_plane_lies_where_its_slice_lies(make_volume: MakeVolume) -> None:
    volume = make_volume(dot(4, 2, 3), orientation=phantoms.OBLIQUE)
    image = image_tensor(volume)
    plane = plane_tensor(image, 4)
    assert plane.shape == (10, 8) and plane[3, 2] == 9
    assert np.allclose(plane.affine @ np.array([3.0, 2, 0, 1]), image.affine @ np.array([3.0, 2, 4, 1]))


def test_an_image_on_the_same_grid_is_left_alone(make_volume: MakeVolume) -> None:
    image = image_tensor(make_volume(dot(1, 2, 3)))
    assert resampled_onto(image, image_tensor(make_volume(dot(1, 2, 3)))) is image


def test_an_image_on_another_grid_is_moved_onto_it(make_volume: MakeVolume) -> None:
    shifted = image_tensor(make_volume(dot(1, 2, 3), origin=(-29.0, -40.0, 52.0)))
    target = image_tensor(make_volume(dot(0, 0, 0)))
    moved = resampled_onto(shifted, target)
    assert moved.shape == target.shape
    assert np.unravel_index(int(moved.numpy().argmax()), moved.shape) == (4, 2, 2)
