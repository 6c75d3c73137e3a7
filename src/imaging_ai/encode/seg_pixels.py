"""The pixels of a Segmentation (PS3.3 C.8.20.2): BINARY, FRACTIONAL and LABELMAP differ in these, and in their frames.

Everything is done within the box of each segment, and written to where it stays: what lies outside is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging_ai.core.region import Region

__all__ = ["ALL_SEGMENTS", "Pixels", "binary", "fractional", "labelmap", "overlap"]

#: Stands for the segment of a frame that has all of them.
ALL_SEGMENTS = 0

_WHOLE = 255  # Maximum Fractional Value
_WHOLE_BYTES = 8  # as many frames are whole bytes, whatever their size

_Bytes = NDArray[np.uint8]
_Frames = tuple[tuple[int, NDArray[np.intp]], ...]


@dataclass(frozen=True, slots=True)
class Pixels:
    """What one type of segmentation has for its own.

    `frames` are the numbers of the segments (from 1), each with its slices (from 0) in order; `write` fills `length`
    zero bytes with the frames one after the other.
    """

    attributes: Mapping[str, object]
    frames: _Frames
    vr: str
    length: int
    write: Callable[[_Bytes], None]


def binary(regions: Sequence[Region]) -> Pixels:
    """Return a frame of bits for every slice of every segment (PS3.5 8.1.1: no padding between frames)."""
    frames = _by_segment(regions)
    _, rows, columns = regions[0].shape
    bits = sum(len(slices) for _, slices in frames) * rows * columns

    def write(out: _Bytes) -> None:
        if columns % 8:
            _write_groups(out, regions, frames)
        else:
            planes = out[: bits // 8].reshape(-1, rows, columns // 8)
            for (_, slices), region, first in _placed(frames, regions):
                _, across, (start, stop) = region.box[0], region.box[1], _bytes_of(region)
                planes[first : first + len(slices), across, start:stop] = _used(_bits(region), region, slices)

    return Pixels(_attributes("BINARY", 1), frames, "OB", (bits + 15) // 16 * 2, write)


def fractional(regions: Sequence[Region], probability: NDArray[np.float32]) -> Pixels:
    """Return a frame of probabilities for every slice of every segment: over 0 within it, 0 outside."""
    frames = _by_segment(regions)
    shape = (sum(len(slices) for _, slices in frames), *regions[0].shape[1:])
    size = int(np.prod(shape))

    def write(out: _Bytes) -> None:
        planes = out[:size].reshape(shape)
        for (_, slices), region, first in _placed(frames, regions):
            levels = np.clip(np.rint(probability[region.box] * _WHOLE), 1, _WHOLE).astype(np.uint8)
            inside = _used(np.where(region.inside, levels, np.uint8(0)), region, slices)
            planes[(slice(first, first + len(slices)), *region.box[1:])] = inside

    attributes = {"SegmentationFractionalType": "PROBABILITY", "MaximumFractionalValue": _WHOLE}
    return Pixels(_attributes("FRACTIONAL", 8) | attributes, frames, "OB", size + size % 2, write)


def labelmap(regions: Sequence[Region]) -> Pixels:
    """Return a frame for every slice that has any segment: the numbers of the segments, which must not overlap."""
    bits = 8 if len(regions) < 1 << 8 else 16
    slices = np.unique(np.concatenate([region.slices for region in regions]))
    shape = (len(slices), *regions[0].shape[1:])
    size = int(np.prod(shape)) * bits // 8

    def write(out: _Bytes) -> None:
        planes = out[:size].view(f"<u{bits // 8}").reshape(shape)
        for number, region in enumerate(regions, 1):
            ranks = np.searchsorted(slices, region.slices)
            for rank, inside in zip(ranks, _used(region.inside, region, region.slices), strict=True):
                np.copyto(planes[rank][region.box[1:]], planes.dtype.type(number), where=inside)

    attributes = _attributes("LABELMAP", bits) | {"PixelPaddingValue": ALL_SEGMENTS}
    return Pixels(attributes, ((ALL_SEGMENTS, slices),), "OB" if bits == 8 else "OW", size + size % 2, write)


def overlap(regions: Sequence[Region]) -> bool:
    """Say whether any voxel is in two segments."""
    slices, rows, columns = regions[0].shape
    taken = np.zeros((slices, rows, (columns + 7) // 8), np.uint8)
    for region in regions:
        bits = _bits(region)
        there = taken[(*region.box[:2], slice(*_bytes_of(region)))]
        if (there & bits).any():
            return True
        there |= bits
    return False


def _attributes(segmentation_type: str, bits: int) -> dict[str, object]:
    bit_depth = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
    return {"SegmentationType": segmentation_type, **bit_depth}


def _by_segment(regions: Sequence[Region]) -> _Frames:
    return tuple((number, region.slices) for number, region in enumerate(regions, 1))


def _placed(frames: _Frames, regions: Sequence[Region]) -> Iterator[tuple[tuple[int, NDArray[np.intp]], Region, int]]:
    """Yield each segment with its region and the index of its first frame."""
    first = 0
    for frame, region in zip(frames, regions, strict=True):
        yield frame, region, first
        first += len(frame[1])


def _used(planes: _Bytes | NDArray[np.bool_], region: Region, slices: NDArray[np.intp]) -> NDArray[np.generic]:
    """Leave out the planes of a box that have no voxel."""
    used: NDArray[np.generic] = planes if len(slices) == len(planes) else planes[slices - region.box[0].start]
    return used


def _bytes_of(region: Region) -> tuple[int, int]:
    """Return the first and the last byte, exclusive, that the columns of a region touch in a row of bits."""
    return region.box[2].start // 8, (region.box[2].stop + 7) // 8


def _bits(region: Region) -> _Bytes:
    """Return the box of a region as bits, the first voxel in the lowest, each row the bytes that it touches."""
    start, stop = _bytes_of(region)
    columns, (slices, rows, width) = region.box[2], region.inside.shape
    inside = region.inside
    if width != (stop - start) * 8:
        inside = np.zeros((slices, rows, (stop - start) * 8), np.bool_)
        inside[..., columns.start - start * 8 : columns.stop - start * 8] = region.inside
    return np.packbits(inside.reshape(-1), bitorder="little").reshape(slices, rows, stop - start)


def _write_groups(out: _Bytes, regions: Sequence[Region], frames: _Frames) -> None:
    """Write frames whose rows are no whole bytes, as many at a time as are."""
    planes = [(regions[number - 1], int(k)) for number, slices in frames for k in slices]
    at = 0
    for first in range(0, len(planes), _WHOLE_BYTES):
        group = np.stack([region.plane(k) for region, k in planes[first : first + _WHOLE_BYTES]])
        packed = np.packbits(group, bitorder="little")
        out[at : at + packed.size] = packed
        at += packed.size
