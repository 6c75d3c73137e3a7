"""One axis of a resampling: of which two voxels each voxel is made, and with what weights.

Interpolation whose grids have parallel axes goes axis by axis, and so do the flips, crops and pads around it. So a
chain of them is one `Taps` for each axis, however many there are. Positions are counted in voxel centres, as in
`torch.nn.functional.grid_sample`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Taps"]

_Indices = NDArray[np.int64]
_Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """Voxel `k` is ``below[k] * source[low[k]] + above[k] * source[high[k]]`` of an axis of `size` voxels."""

    low: _Indices
    high: _Indices
    below: _Weights
    above: _Weights
    size: int

    @classmethod
    def identity(cls, size: int) -> Taps:
        """Each voxel is itself."""
        every = np.arange(size)
        return cls(every, every, np.ones(size), np.zeros(size), size)

    @classmethod
    def at(cls, positions: _Weights, size: int, *, border: bool, nearest: bool = False) -> Taps:
        """Read an axis at fractional positions; beyond its ends it goes on as its `border`, or is zero."""
        if border:
            positions = positions.clip(0, size - 1)
        if nearest:
            positions = np.rint(positions)
        low = np.floor(positions)
        above = positions - low
        inside, next_inside = (low >= 0) & (low < size), (low >= -1) & (low < size - 1)
        lows, highs = low.clip(0, size - 1).astype(np.int64), (low + 1).clip(0, size - 1).astype(np.int64)
        return cls(lows, highs, np.where(inside, 1 - above, 0), np.where(next_inside, above, 0), size)

    def __len__(self) -> int:
        return len(self.low)

    @property
    def whole(self) -> bool:
        """Whether no voxel is made of two."""
        return not self.above.any()

    def flipped(self) -> Taps:
        """Return the axis the other way round."""
        return self._rows(np.arange(len(self))[::-1])

    def part(self, start: int, stop: int) -> Taps:
        """Return the voxels from `start` until before `stop`."""
        return self._rows(np.arange(start, stop))

    def padded(self, before: int, after: int) -> Taps:
        """Return the axis with voxels of zero at its ends."""

        low, high = (np.pad(indices, (before, after), mode="edge") for indices in (self.low, self.high))
        below, above = (np.pad(weights, (before, after)) for weights in (self.below, self.above))
        return Taps(low, high, below, above, self.size)

    def then(self, following: Taps) -> Taps:
        """Read this axis by another that reads what it makes; only of whole voxels."""
        low, high = self.low[following.low], self.low[following.high]
        below = following.below * self.below[following.low]
        return Taps(low, high, below, following.above * self.below[following.high], self.size)

    def of(self, values: torch.Tensor, axis: int) -> torch.Tensor:
        """Resample an axis of floating-point values."""
        low = values.index_select(axis, torch.from_numpy(self.low).to(values.device))
        if self.whole and (self.below == 1).all():
            return low
        shape = [-1 if a == axis % values.ndim else 1 for a in range(values.ndim)]
        below, above = (
            torch.from_numpy(weights).to(values.device, values.dtype).reshape(shape)
            for weights in (self.below, self.above)
        )
        low.mul_(below)
        if not self.whole:
            low.addcmul_(values.index_select(axis, torch.from_numpy(self.high).to(values.device)), above)
        return low

    def matrix(self, device: torch.device) -> torch.Tensor:
        """Return float32 ``[voxel, source voxel]``: its product with the source is what `of` makes."""
        dense = np.zeros((len(self), self.size), np.float32)
        every = np.arange(len(self))
        np.add.at(dense, (every, self.low), self.below)
        np.add.at(dense, (every, self.high), self.above)
        return torch.from_numpy(dense).to(device)

    def _rows(self, rows: _Indices) -> Taps:
        return replace(self, low=self.low[rows], high=self.high[rows], below=self.below[rows], above=self.above[rows])
