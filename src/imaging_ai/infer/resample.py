"""Resampling before the network, and the way back, axis by axis instead of voxel by voxel.

MONAI reads each voxel of the new grid at a position in space (`grid_sample` in float64). Where the axes of both grids
are parallel, as after `Orientation` and `Spacing`, the same numbers come axis by axis in a tenth of the time, on the
device that the image is on. Where they are not, MONAI's own way is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.spatial.array import SpatialResample
from monai.transforms.spatial.dictionary import Spacingd
from nibabel.orientations import io_orientation, ornt_transform
from numpy.typing import NDArray

from imaging_ai.infer.taps import Taps

__all__ = ["Back", "SeparableResample", "axes_between", "largest_channel", "resampling_by_axes", "way_back"]

#: Axes are parallel when no voxel is read farther than this from where it should be, in voxels.
_STRAIGHT = 1e-3
_MODES = {"bilinear": False, "nearest": True}
_BORDERS = {"border": True, "zeros": False}
_Affine = NDArray[np.float64]


def axes_between(
    source: _Affine, shape: Sequence[int], target: _Affine, wanted: Sequence[int], mode: str, padding: str
) -> list[Taps] | None:
    """Return how each axis of a grid `target` reads that of `source`; None where they are not parallel.

    The affines are ``[n + 1, n + 1]`` for grids of the n axes of `shape` and `wanted`.
    """
    if mode not in _MODES or padding not in _BORDERS:
        return None
    n = len(shape)
    between = np.linalg.solve(source, target)
    turned = between[:n, :n] - np.diag(np.diag(between)[:n])
    if np.abs(turned @ np.diag(np.asarray(wanted, np.float64))).max(initial=0) > _STRAIGHT:
        return None
    return [
        Taps.at(
            between[axis, axis] * np.arange(wanted[axis]) + between[axis, n],
            shape[axis],
            border=_BORDERS[padding],
            nearest=_MODES[mode],
        )
        for axis in range(n)
    ]


class SeparableResample(SpatialResample):
    """MONAI's `SpatialResample`, axis by axis on `device` where that is the same; recorded so that it is inverted."""

    def __init__(self, like: SpatialResample, device: torch.device) -> None:
        super().__init__(like.mode, like.padding_mode, like.align_corners, like.dtype, like.lazy)
        self._device = device

    def __call__(
        self,
        img: torch.Tensor,
        dst_affine: torch.Tensor | None = None,
        spatial_size: Sequence[int] | torch.Tensor | int | None = None,
        mode: str | int | None = None,
        padding_mode: str | None = None,
        align_corners: bool | None = None,
        dtype: Any = None,
        lazy: bool | None = None,
    ) -> torch.Tensor:
        """As MONAI's."""
        given = (dst_affine, spatial_size, mode, padding_mode, align_corners, dtype, lazy)
        usual = super().__call__
        if not isinstance(img, MetaTensor) or img.ndim != 4 or lazy or self.lazy or img.pending_operations:
            return usual(img, *given)
        if dst_affine is None or not isinstance(spatial_size, Sequence) or min(spatial_size) < 1:
            return usual(img, *given)
        how = (str(self.mode if mode is None else mode), str(padding_mode or self.padding_mode))
        target, size = np.asarray(dst_affine, np.float64), [int(count) for count in spatial_size]
        axes = axes_between(np.asarray(img.affine, np.float64), img.shape[1:], target, size, *how)
        if axes is None or target.shape != (4, 4) or _unchanged(axes):
            return usual(img, *given)
        moved = _by_axes(img.as_tensor().to(self._device, torch.float32), axes)
        return self._traced(img, target, moved, how, align_corners)

    def _traced(
        self, img: MetaTensor, target: _Affine, moved: torch.Tensor, how: tuple[str, str], align_corners: bool | None
    ) -> MetaTensor:
        corners = align_corners if align_corners is not None else self.align_corners
        between = np.linalg.solve(np.asarray(img.affine, np.float64), target)
        meta = self.track_transform_meta(
            img,
            sp_size=tuple(moved.shape[1:]),
            affine=torch.from_numpy(between),
            extra_info={
                "dtype": "float64",
                "mode": how[0],
                "padding_mode": how[1],
                "align_corners": corners,
                "src_affine": torch.as_tensor(img.affine, dtype=torch.float64),
            },
            orig_size=tuple(img.shape[1:]),
            transform_info=self.get_transform_info(),
            lazy=False,
        )
        found = MetaTensor(moved)
        found.copy_meta_from(meta)  # type: ignore[no-untyped-call]
        return found


def _by_axes(values: torch.Tensor, axes: Sequence[Taps]) -> torch.Tensor:
    """Resample ``[channel, ...]`` along each axis: first those that make it smaller, and whose voxels lie far apart."""
    stored = sorted(range(values.ndim), key=lambda axis: values.stride()[axis], reverse=True)
    values = values.permute(stored)
    order = sorted(range(len(axes)), key=lambda axis: (len(axes[axis]) / axes[axis].size, stored.index(axis + 1)))
    for axis in order:
        values = axes[axis].of(values, stored.index(axis + 1))
    return values.permute([stored.index(axis) for axis in range(values.ndim)]).contiguous()


def _unchanged(axes: Sequence[Taps]) -> bool:
    return all(
        len(one) == one.size and np.abs(one.low + one.above - np.arange(one.size)).max() < _STRAIGHT for one in axes
    )


def resampling_by_axes(transforms: Callable[[Any], Any], device: torch.device) -> None:
    """Let the `Spacingd` of a bundle's preprocessing resample axis by axis, on a device."""
    for step in transforms.transforms if isinstance(transforms, Compose) else [transforms]:
        if isinstance(step, Spacingd) and type(step.spacing_transform.sp_resample) is SpatialResample:
            spacing = step.spacing_transform
            spacing.sp_resample = SeparableResample(spacing.sp_resample, device)


@dataclass(frozen=True, slots=True, eq=False)
class Back:
    """The way from the network's grid to the source: source axis n reads axis ``order[n]`` by ``axes[n]``."""

    order: tuple[int, int, int]
    axes: tuple[Taps, Taps, Taps]

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(slices, rows, columns)`` of the source."""
        columns, rows, slices = (len(axis) for axis in self.axes)
        return slices, rows, columns

    def turned(self, values: torch.Tensor) -> torch.Tensor:
        """Return ``[channel, x, y, z]`` of the network's grid as ``[channel, slice, row, column]`` of it."""
        column, row, plane = (axis + 1 for axis in self.order)
        return values.permute(0, plane, row, column)

    def planes(self, values: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield ``[channel, row, column]`` of each slice of the source, of ``[channel, x, y, z]`` on the network's."""
        turned = self.turned(values)
        columns, rows, slices = self.axes
        right, left = columns.matrix(values.device).T, rows.matrix(values.device)
        for k in range(len(slices)):
            yield left @ _between(turned, slices, k) @ right

    def labels(self, values: torch.Tensor) -> torch.Tensor:
        """Return which channel is the largest in each voxel of the source, uint8 ``[slice, row, column]``.

        Interpolation is convex: where one channel is the largest in all voxels around, it is the largest in between.
        So only the box of a slice that holds another one is interpolated.
        """
        turned = self.turned(values)
        largest = largest_channel(turned)
        columns, rows, slices = self.axes
        right, left = columns.matrix(values.device).T, rows.matrix(values.device)
        found = torch.zeros(self.shape, dtype=largest.dtype, device=values.device)
        for k in range(len(slices)):
            if not slices.below[k] and not slices.above[k]:
                continue
            around = largest[[int(slices.low[k]), int(slices.high[k])]]
            ground = int(around[0, 0, 0])
            found[k] = ground
            other = (around != ground).any(0)
            if not bool(other.any()):
                continue
            inner = _reach(other.any(1)), _reach(other.any(0))
            outer = _read_by(rows, inner[0]), _read_by(columns, inner[1])
            plane = _between(turned[:, :, inner[0], inner[1]], slices, k)
            wide = left[outer[0], inner[0]] @ plane @ right[inner[1], outer[1]]
            found[k, outer[0], outer[1]] = largest_channel(wide)
        self._blank_outside(found)
        return found

    def _blank_outside(self, found: torch.Tensor) -> None:
        """All channels are zero outside of what the network saw: the first of them is the answer there."""
        for axis, taps in ((1, self.axes[1]), (2, self.axes[0])):
            empty = np.flatnonzero((taps.below == 0) & (taps.above == 0))
            if len(empty):
                found.index_fill_(axis, torch.from_numpy(empty).to(found.device), 0)


def largest_channel(values: torch.Tensor) -> torch.Tensor:
    """Return the first index of the largest along the first axis, what `argmax` does twenty times slower on a CPU.

    It is uint8 where that holds the number of channels, int32 else.
    """
    best = values[0].clone()
    found = torch.zeros(best.shape, dtype=torch.uint8 if len(values) < 256 else torch.int32, device=values.device)
    for channel, more in enumerate(values[1:], start=1):
        found.masked_fill_(more > best, channel)
        torch.maximum(best, more, out=best)
    return found


def _between(turned: torch.Tensor, slices: Taps, k: int) -> torch.Tensor:
    """Return ``[channel, row, column]`` between two slices of ``[channel, slice, row, column]``."""
    low = turned[:, int(slices.low[k])] * float(slices.below[k])
    if slices.above[k]:
        low.add_(turned[:, int(slices.high[k])], alpha=float(slices.above[k]))
    return low


def _reach(marked: torch.Tensor) -> slice:
    """Return the range that holds what is marked, and a voxel on either side."""
    where = torch.nonzero(marked).flatten()
    return slice(max(0, int(where[0]) - 1), min(len(marked), int(where[-1]) + 2))


def _read_by(taps: Taps, inner: slice) -> slice:
    """Return the range of voxels that read something, and only from `inner`."""
    first, last = np.minimum(taps.low, taps.high), np.maximum(taps.low, taps.high)
    inside = np.flatnonzero((first >= inner.start) & (last < inner.stop) & ((taps.below > 0) | (taps.above > 0)))
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)


def way_back(operations: Sequence[Mapping[str, Any]], image: MetaTensor) -> Back | None:
    """Return what undoes the operations that MONAI recorded on an image ``[channel, x, y, z]``.

    None where one of them does not go axis by axis, or is not known here.
    """
    if image.ndim != 4:
        return None
    state = _State([0, 1, 2], [Taps.identity(size) for size in image.shape[1:]], np.array(image.affine, np.float64))
    for operation in reversed(operations):
        undo = _UNDO.get(str(operation["class"]).rsplit(".", 1)[-1].strip("'>"))
        if undo is None or not undo(state, operation):
            return None
    (column, row, plane), (columns, rows, slices) = state.order, state.axes
    return Back((column, row, plane), (columns, rows, slices))


@dataclass(slots=True)
class _State:
    order: list[int]
    axes: list[Taps]
    affine: _Affine


def _undo_orientation(state: _State, operation: Mapping[str, Any]) -> bool:
    before = np.array(operation["extra_info"]["original_affine"], np.float64)
    if before.shape != (4, 4):
        return False
    now, then = (io_orientation(affine) for affine in (state.affine, before))  # type: ignore[no-untyped-call]
    turn = ornt_transform(now, then).astype(int)  # type: ignore[no-untyped-call]
    axes, order = list(state.axes), list(state.order)
    for axis, (place, way) in enumerate(turn):
        state.axes[place] = axes[axis].flipped() if way < 0 else axes[axis]
        state.order[place] = order[axis]
    state.affine = before
    return True


def _undo_resample(state: _State, operation: Mapping[str, Any]) -> bool:
    info, size = operation["extra_info"], [int(count) for count in operation["orig_size"]]
    before = np.array(info["src_affine"], np.float64)
    if before.shape != (4, 4) or not all(axis.whole for axis in state.axes):
        return False
    shape = [len(axis) for axis in state.axes]
    axes = axes_between(state.affine, shape, before, size, str(info["mode"]), str(info["padding_mode"]))
    if axes is None:
        return False
    state.axes = [axis.then(following) for axis, following in zip(state.axes, axes, strict=True)]
    state.affine = before
    return True


def _undo_crop(state: _State, operation: Mapping[str, Any]) -> bool:
    extra = operation["extra_info"]
    cropped = np.asarray(extra["cropped"], int).reshape(-1, 2)
    if "pad_info" in extra and not _undo_pad(state, extra["pad_info"]):
        return False
    return _grown(state, cropped)


def _undo_pad(state: _State, operation: Mapping[str, Any]) -> bool:
    return _grown(state, -np.asarray(operation["extra_info"]["padded"], int)[1:])


def _grown(state: _State, ends: NDArray[np.int64]) -> bool:
    """Lengthen each axis by zeros, or cut it where that is negative."""
    if ends.shape != (3, 2):
        return False
    for axis, (before, after) in enumerate(ends.tolist()):
        taps = state.axes[axis]
        taps = taps.part(max(0, -before), len(taps) - max(0, -after))
        state.axes[axis] = taps.padded(max(0, before), max(0, after))
        state.affine[:3, 3] -= state.affine[:3, axis] * before
    return True


_UNDO: dict[str, Callable[[_State, Mapping[str, Any]], bool]] = {
    "Orientation": _undo_orientation,
    "SpatialResample": _undo_resample,
    "SeparableResample": _undo_resample,
    **dict.fromkeys(("CropForeground", "SpatialCrop", "CenterSpatialCrop"), _undo_crop),
    **dict.fromkeys(("SpatialPad", "DivisiblePad", "BorderPad"), _undo_pad),
}
