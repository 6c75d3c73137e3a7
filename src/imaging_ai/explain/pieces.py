"""The parts of an image that are explained: windows of the network's size around what was found, in bounded memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

__all__ = ["Window", "fitted", "unfitted", "windows_over"]

#: Where a part of an image lies; a number for the axis across which it is a slice.
Window = tuple[slice | int, ...]


def fitted(image: torch.Tensor, sizes: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
    """Pad the last axes of an image evenly to at least `sizes`, as sliding windows do; and say by how much."""
    pads: list[int] = []
    for size, least in zip(reversed(image.shape[-len(sizes) :]), reversed(sizes), strict=True):
        missing = max(0, least - size)
        pads += [missing // 2, missing - missing // 2]
    return torch.nn.functional.pad(image, pads), pads


def unfitted(image: torch.Tensor, pads: Sequence[int]) -> torch.Tensor:
    """Take the padding of `fitted` away again."""
    pairs = list(zip(pads[::2], pads[1::2], strict=True))[::-1]
    return image[(..., *(slice(before, -after or None) for before, after in pairs))]


def windows_over(mask: torch.Tensor, sizes: Sequence[int], most: int = 8) -> list[Window]:
    """Choose windows of `sizes` that cover a region ``[x, y(, z)]``, those with the most of it first.

    One lies around its middle where it fits into it.
    """
    places = mask.nonzero()
    low, high = places.amin(0).tolist(), (places.amax(0) + 1).tolist()
    starts = [
        _starts(first, last, size, whole) for first, last, size, whole in zip(low, high, sizes, mask.shape, strict=True)
    ]
    windows: list[Window] = [
        tuple(slice(start, start + size) for start, size in zip(corner, sizes, strict=True))
        for corner in itertools.product(*starts)
    ]
    inside = [int(mask[window].sum()) for window in windows]
    order = sorted(range(len(windows)), key=lambda index: -inside[index])
    return [windows[index] for index in order if inside[index]][:most]


def _starts(first: int, last: int, size: int, whole: int) -> list[int]:
    count = math.ceil((last - first) / size)
    covered = count * size
    begin = (first + last) / 2 - covered / 2
    return sorted({max(0, min(whole - size, round(begin + index * size))) for index in range(count)})
