"""Axis by axis comes to the numbers of MONAI's own resampling, and back, whatever the grid and the crops around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import CropForegroundd, DivisiblePadd, SpatialPadd
from monai.transforms.post.dictionary import Invertd
from monai.transforms.spatial.array import SpatialResample
from monai.transforms.spatial.dictionary import Flipd, Orientationd, Spacingd
from monai.transforms.utility.dictionary import EnsureChannelFirstd

import phantoms
from imaging_ai.core.volume import Volume
from imaging_ai.infer.resample import SeparableResample, resampling_by_axes, way_back
from imaging_ai.infer.tensors import image_tensor

MakeVolume = Callable[..., Volume]
SHAPE = (12, 30, 36)
CPU = torch.device("cpu")
GRIDS = [
    {},
    {"spacing": (4.0, 0.7, 1.3)},
    {"orientation": phantoms.CORONAL, "spacing": (3.0, 1.1, 1.3)},
    {"orientation": phantoms.SAGITTAL},
    {"orientation": phantoms.FLIPPED, "reverse": True},
    {"orientation": phantoms.OBLIQUE, "spacing": (2.5, 0.9, 1.3)},
]
AROUND: dict[str, list[Any]] = {
    "nothing": [],
    "cropped": [CropForegroundd("image", source_key="image", select_fn=lambda image: image > 200, margin=1)],
    "padded": [SpatialPadd("image", spatial_size=(20, 52, 45)), DivisiblePadd("image", k=16)],
}


def chain(padding: str, around: str) -> Compose:
    turn = Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    spacing = Spacingd("image", pixdim=(1.5, 0.9, 2.0), padding_mode=padding)
    return Compose([EnsureChannelFirstd("image"), turn, spacing, *AROUND[around]])


def smooth(make_volume: MakeVolume, how: dict[str, Any]) -> Volume:
    return make_volume(phantoms.ball(SHAPE, radius=12, spacing=how.get("spacing", (2.0, 1.0, 1.0))), **how)


@pytest.mark.parametrize("how", GRIDS, ids=str)
@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("around", list(AROUND))
def test_there_and_back_are_the_numbers_of_monai(
    make_volume: MakeVolume, how: dict[str, Any], padding: str, around: str
) -> None:
    volume, usual, ours = smooth(make_volume, how), chain(padding, around), chain(padding, around)
    resampling_by_axes(ours, CPU)
    expected, found = (steps({"image": image_tensor(volume)})["image"] for steps in (usual, ours))
    assert found.shape == expected.shape
    assert np.allclose(found.affine, expected.affine)
    assert torch.allclose(found.as_tensor(), expected.as_tensor(), atol=0.2)

    torch.manual_seed(1)
    scores = torch.nn.functional.avg_pool3d(torch.randn(1, 4, *found.shape[1:]), 3, 1, 1)[0].mul(9).softmax(0)
    back = way_back(found.applied_operations, found)
    assert back is not None
    assert np.allclose(found.affine, expected.affine), "nothing was changed on the way"
    inverted = []
    for steps, image in ((usual, expected), (ours, found)):
        given: dict[Any, Any] = {"image": image, "pred": MetaTensor(scores.clone(), meta=image.meta)}
        there = Invertd("pred", transform=steps, orig_keys="image", nearest_interp=False)(given)["pred"]
        inverted.append(there.as_tensor().permute(0, 3, 2, 1))
    assert torch.allclose(*inverted, atol=1e-3), "MONAI can invert what we recorded"
    assert torch.allclose(torch.stack(list(back.planes(scores)), 1), inverted[0], atol=1e-3)
    first, second = inverted[0].topk(2, dim=0).values
    sure = (first - second > 2e-3) | (first == 0)
    assert torch.equal(back.labels(scores)[sure].long(), inverted[0].argmax(0)[sure])


def test_grids_that_are_turned_against_each_other_are_left_to_monai(make_volume: MakeVolume) -> None:
    image = image_tensor(make_volume(phantoms.corner(SHAPE), tilt_degrees=-18.5))[None]
    upright = torch.diag(torch.tensor([1.5, 1.5, 2.0, 1.0], dtype=torch.float64))
    usual = SeparableResample(SpatialResample(), CPU)
    found = usual(image, dst_affine=upright, spatial_size=(20, 20, 10))
    assert found.shape == (1, 20, 20, 10)
    assert way_back(found.applied_operations, found) is None


def test_an_operation_that_is_not_known_has_no_way_back(make_volume: MakeVolume) -> None:
    steps = Compose([EnsureChannelFirstd("image"), Flipd("image", 0)])
    found = steps({"image": image_tensor(make_volume(phantoms.corner(SHAPE)))})["image"]
    assert way_back(found.applied_operations, found) is None


def test_many_channels_have_many_labels() -> None:
    torch.manual_seed(1)
    scores = torch.rand(300, 4, 5, 6)
    image = MetaTensor(torch.zeros(1, 4, 5, 6))
    back = way_back([], image)
    assert back is not None
    assert torch.equal(back.labels(scores).permute(2, 1, 0).long(), scores.argmax(0))
    assert int(back.labels(scores).max()) > 255
