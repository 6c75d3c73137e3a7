"""Volumes to tensors with an affine, and back to labels on the source grid.

MONAI indexes images ``[x, y, z]`` (column, row, slice) with an affine to RAS+ millimetres; ours are
``[slice, row, column]`` with an affine to LPS+. Nothing is resampled here but what does not lie on the source grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import SpatialResample
from numpy.typing import NDArray

from imaging_ai.core.volume import Volume
from imaging_ai.errors import ModelFailed

__all__ = [
    "Prediction",
    "checked_probability",
    "image_tensor",
    "labels_on",
    "plane_tensor",
    "probability_on",
    "resampled_onto",
    "values_on",
]

Prediction = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.bool_]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Grids are the same when no corner moves by more than this part of the smallest spacing.
_SAME_GRID = 0.05
#: Probabilities leave 0 to 1 by this much when they are interpolated.
_ROUNDING = 1e-3


def image_tensor(volume: Volume) -> MetaTensor:
    """Return ``[x, y, z]`` (or ``[x, y, z, colour]``) as MONAI's image readers would have loaded it."""
    axes = (2, 1, 0, 3)[: volume.voxels.ndim]
    tensor = torch.from_numpy(volume.voxels).clone().permute(axes)  # the voxels stay where they are in memory
    return _meta_tensor(tensor, torch.from_numpy(_LPS_TO_RAS @ volume.grid.affine), color=volume.voxels.ndim == 4)


def plane_tensor(image: MetaTensor, k: int) -> MetaTensor:
    """Return slice `k` as ``[x, y]`` (or ``[x, y, colour]``), as a reader of flat images would have loaded it."""
    affine = torch.as_tensor(image.affine).clone()
    affine[:3, 3] += k * affine[:3, 2]
    plane = image.as_tensor()[:, :, k].contiguous()
    return _meta_tensor(plane, affine, color=plane.ndim == 3)


def _meta_tensor(tensor: torch.Tensor, affine: torch.Tensor, *, color: bool) -> MetaTensor:
    channel = -1 if color else float("nan")  # NaN is MONAI's word for "no channel dimension"
    shape = np.array(tensor.shape[:-1] if color else tensor.shape)
    meta = {"original_channel_dim": channel, "spatial_shape": shape, "original_affine": affine.numpy().copy()}
    return MetaTensor(tensor, affine=affine, meta={**meta, "space": "RAS"})


def resampled_onto(image: MetaTensor, target: MetaTensor, mode: str = "bilinear") -> MetaTensor:
    """Interpolate an image onto the grid of another; returned as it is when it lies there already.

    What it does not reach is as little as the least of it: 0 is nothing in a PET, and water in a CT.
    """
    if _same_grid(image.affine, image.shape[:3], target.affine, target.shape[:3]):
        return image
    values = image.as_tensor()[None]
    least = values.amin()
    moved = _resample(MetaTensor(values - least, meta=image.meta), target.affine, tuple(target.shape[:3]), mode)
    return _meta_tensor(moved[0] + least, torch.as_tensor(target.affine).clone(), color=False)


def labels_on(
    prediction: torch.Tensor, source: MetaTensor
) -> NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.bool_]:
    """Return a prediction ``[channel, x, y, z]`` as labels on the grid of `source`, ``[slice, row, column]``.

    One channel is a label map; several are booleans, one mask for each channel.

    Raises
    ------
    ModelFailed
        If it is on another grid, or its values are no labels.
    """
    array = _on_grid(prediction, source, "nearest")
    low, high = float(array.min(initial=0)), float(array.max(initial=0))
    if low < 0 or high > 65535 or not np.array_equal(array, np.rint(array)):
        raise ModelFailed("the answer is not labels: the postprocessing lacks AsDiscreted")
    if len(array) == 1:
        return np.asarray(array[0], dtype=np.uint8) if high < 256 else np.asarray(array[0], dtype=np.uint16)
    if high > 1:
        raise ModelFailed(f"the answer has {len(array)} channels with values up to {high:g}, not 0 and 1")
    return np.asarray(array, dtype=np.bool_)


def probability_on(prediction: torch.Tensor, source: MetaTensor) -> NDArray[np.float32]:
    """Return one channel of probabilities ``[1, x, y, z]`` on the grid of `source`, ``[slice, row, column]``.

    Raises
    ------
    ModelFailed
        If it is on another grid, or its values are no probabilities.
    """
    return checked_probability(_on_grid(prediction, source, "bilinear")[0])


def checked_probability(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return what may be probabilities, within 0 to 1; it is changed in place.

    Raises
    ------
    ModelFailed
        If they are none.
    """
    low, high = float(array.min(initial=0)), float(array.max(initial=0))
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ModelFailed(
            f"the answer before AsDiscreted goes from {low:g} to {high:g} and is no probability: the postprocessing "
            "lacks Activationsd, without which there is no PM"
        )
    return np.asarray(np.clip(array, 0, 1, out=array), dtype=np.float32)


def values_on(values: torch.Tensor, source: MetaTensor) -> NDArray[np.float32]:
    """Interpolate numbers ``[channel, x, y, z]`` on the grid of `source`, ``[channel, slice, row, column]``."""
    return np.asarray(_on_grid(values, source, "bilinear"), dtype=np.float32)


def _on_grid(prediction: torch.Tensor, source: MetaTensor, mode: str) -> NDArray[Any]:
    """Return ``[channel, x, y, z]`` as ``[channel, slice, row, column]`` of the grid of `source`, as a new array."""
    spatial = tuple(source.shape[: prediction.ndim - 1])
    if isinstance(prediction, MetaTensor) and prediction.ndim == 4:
        there = _same_grid(prediction.affine, prediction.shape[1:], source.affine, spatial)
        prediction = prediction if there else _resample(prediction, source.affine, spatial, mode)
    if tuple(prediction.shape[1:]) != spatial:
        raise ModelFailed(
            f"the answer has the shape {tuple(prediction.shape[1:])} and the image {spatial}: "
            "the postprocessing does not come back to the grid of the image"
        )
    values = prediction.detach().cpu()
    values = values.as_tensor() if isinstance(values, MetaTensor) else values
    array: NDArray[Any] = np.ascontiguousarray(values.numpy().transpose(0, *range(values.ndim - 1, 0, -1)))
    if not np.isfinite(array).all():
        raise ModelFailed("the answer has values that are not numbers")
    return array


def _resample(image: MetaTensor, affine: torch.Tensor, shape: tuple[int, ...], mode: str) -> torch.Tensor:
    resample = SpatialResample(mode=mode, padding_mode="zeros", dtype=np.float32)
    moved: Any = resample(image, dst_affine=affine, spatial_size=shape)
    return torch.as_tensor(moved.as_tensor())


def _same_grid(one: torch.Tensor, shape: Sequence[int], other: torch.Tensor, other_shape: Sequence[int]) -> bool:
    if tuple(shape) != tuple(other_shape):
        return False
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in shape))])
    moved = np.linalg.norm(corners @ (first - second)[:3].T, axis=1).max()
    return bool(moved <= _SAME_GRID * np.linalg.norm(second[:3, :3], axis=0).min())
