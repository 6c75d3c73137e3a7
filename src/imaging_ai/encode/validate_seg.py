"""What is checked of a Segmentation: segments, frames, references, geometry and the size of its pixel data."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from pydicom import Dataset
from pydicom.uid import UID, SegmentationStorage

from imaging_ai.core.volume import Volume
from imaging_ai.encode.explicit import Item
from imaging_ai.encode.objects import EncodedObject
from imaging_ai.encode.rules import require
from imaging_ai.encode.validate_planes import (
    check_grid,
    check_series,
    on_planes,
    only,
    pixels_at,
    read_frames,
    value,
)

__all__ = ["LABEL_MAP_SEGMENTATION", "check_seg"]

LABEL_MAP_SEGMENTATION = UID("1.2.840.10008.5.1.4.1.1.66.7")

_FIXED: Mapping[str, object] = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelRepresentation": 0,
    "ImageType": ["DERIVED", "PRIMARY"],
}

#: What each Segmentation Type has beyond that: its class, how many bits a voxel may have, and fixed values.
_TYPES: Mapping[str, tuple[UID, tuple[int, ...], Mapping[str, object]]] = {
    "BINARY": (SegmentationStorage, (1,), {}),
    "FRACTIONAL": (
        SegmentationStorage,
        (8,),
        {"SegmentationFractionalType": "PROBABILITY", "MaximumFractionalValue": 255},
    ),
    "LABELMAP": (LABEL_MAP_SEGMENTATION, (8, 16), {"PixelPaddingValue": 0, "SegmentsOverlap": "NO"}),
}

#: Of each segment: type 1C attributes whose condition holds here, and what AIR and the viewers need.
_OF_EACH_SEGMENT = (
    "SegmentAlgorithmName",
    "SegmentationAlgorithmIdentificationSequence",
    "TrackingID",
    "TrackingUID",
    "RecommendedDisplayCIELabValue",
)


def check_seg(ds: Dataset, obj: EncodedObject, volume: Volume, end: int) -> None:
    """Check a SEG whose elements before the frames are in `ds`, and whose frames begin at byte `end`."""
    segmentation_type = str(ds.get("SegmentationType"))
    require(segmentation_type in _TYPES, "SegmentationType", f"none of {', '.join(_TYPES)}")
    sop_class_uid, depths, own = _TYPES[segmentation_type]
    require(ds.SOPClassUID == sop_class_uid, "SegmentationType", "is not one of this class")
    for keyword, fixed in {**_FIXED, **own}.items():
        require(ds.get(keyword) == fixed, keyword, f"not {fixed}")
    bits = ds.get("BitsAllocated")
    depth = bits in depths and (ds.get("BitsStored"), ds.get("HighBit")) == (bits, bits - 1)
    require(depth, "BitsAllocated", f"not {' or '.join(map(str, depths))}, all of them stored")
    require(ds.get("SegmentsOverlap") in ("YES", "NO"), "SegmentsOverlap", "neither YES nor NO")
    for number, segment in enumerate(ds.SegmentSequence, 1):
        _check_segment(segment, number)
    check_grid(ds, volume)
    check_series(ds, obj, volume)
    frames, at = read_frames(obj.data, end)
    require(ds.NumberOfFrames == len(frames), "NumberOfFrames", f"{ds.NumberOfFrames}, but {len(frames)} are described")
    if segmentation_type == "LABELMAP":
        _check_planes(ds, frames, volume)
    else:
        _check_frames(ds, frames, volume)
    bits = int(ds.NumberOfFrames) * int(ds.Rows) * int(ds.Columns) * int(ds.BitsAllocated)
    start = pixels_at(obj.data, at, 0x7FE00010, (b"OB", b"OW"), (bits + 15) // 16 * 2)
    if segmentation_type == "LABELMAP":
        labels = np.frombuffer(obj.data, f"<u{ds.BitsAllocated // 8}", bits // ds.BitsAllocated, start)
        known = int(labels.max()) <= len(ds.SegmentSequence)
        require(known, "PixelData", "has the number of no segment")


def _check_segment(segment: Dataset, number: int) -> None:
    path = f"SegmentSequence[{number}]."
    require(segment.SegmentNumber == number, f"{path}SegmentNumber", "segments are not numbered 1, 2, …")
    require(segment.SegmentAlgorithmType == "AUTOMATIC", f"{path}SegmentAlgorithmType", "not AUTOMATIC")
    for keyword in _OF_EACH_SEGMENT:
        require(bool(segment.get(keyword)), f"{path}{keyword}", "missing")
    require(len(segment.RecommendedDisplayCIELabValue) == 3, f"{path}RecommendedDisplayCIELabValue", "not three values")


def _check_frames(ds: Dataset, frames: list[Item], volume: Volume) -> None:
    ranks: dict[int, int] = {}
    seen: set[tuple[int, int]] = set()
    for path, frame, k in on_planes(frames, volume):
        (number,) = struct.unpack("<H", value(only(frame, 0x0062000A, path), 0x0062000B, b"US", path))
        require(1 <= number <= len(ds.SegmentSequence), f"{path}ReferencedSegmentNumber", "no such segment")
        require((number, k) not in seen, path, "a second frame of the same segment and plane")
        seen.add((number, k))
        indices = struct.unpack("<2I", value(only(frame, 0x00209111, path), 0x00209157, b"UL", path))
        agrees = indices[0] == number and ranks.setdefault(k, indices[1]) == indices[1]
        require(agrees, f"{path}DimensionIndexValues", "do not say which segment and plane")
    in_order = [ranks[k] for k in sorted(ranks)]
    require(in_order == list(range(1, len(ranks) + 1)), "DimensionIndexValues", "do not count the planes in order")
    require(
        {n for n, _ in seen} == set(range(1, len(ds.SegmentSequence) + 1)), "SegmentSequence", "has an empty segment"
    )
    require(len(ds.DimensionIndexSequence) == 2, "DimensionIndexSequence", "does not index segment and plane")


def _check_planes(ds: Dataset, frames: list[Item], volume: Volume) -> None:
    """Check the frames of a label map: each plane once, in order, and without a segment of its own."""
    planes = []
    for path, frame, k in on_planes(frames, volume):
        require(0x0062000A not in frame, f"{path}SegmentIdentificationSequence", "names one segment of a label map")
        (index,) = struct.unpack("<I", value(only(frame, 0x00209111, path), 0x00209157, b"UL", path))
        planes.append(k)
        require(index == len(planes), f"{path}DimensionIndexValues", "does not count the planes")
    in_order = planes == sorted(set(planes))
    require(in_order, "PerFrameFunctionalGroupsSequence", "not each plane once, in their order")
    require(len(ds.DimensionIndexSequence) == 1, "DimensionIndexSequence", "does not index the planes alone")
