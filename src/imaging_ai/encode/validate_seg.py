"""What is checked of a Segmentation: segments, frames, references, geometry and the size of its pixel data."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from pydicom import Dataset

from imaging_ai.core.volume import Volume
from imaging_ai.encode.explicit import Item, read_items
from imaging_ai.encode.objects import EncodedObject
from imaging_ai.encode.rules import require
from imaging_ai.encode.source import functional_group

__all__ = ["PER_FRAME_GROUPS", "check_seg"]

PER_FRAME_GROUPS = 0x52009230

_MILLIMETRE = 1e-3  # positions closer than a micrometre are the same
_HEADER = struct.Struct("<HH2sHI")

_FIXED: Mapping[str, object] = {
    "SegmentationType": "BINARY",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelRepresentation": 0,
    "BitsAllocated": 1,
    "BitsStored": 1,
    "HighBit": 0,
    "ImageType": ["DERIVED", "PRIMARY"],
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
    for keyword, value in _FIXED.items():
        require(ds.get(keyword) == value, keyword, f"not {value}")
    require(ds.get("SegmentsOverlap") in ("YES", "NO"), "SegmentsOverlap", "neither YES nor NO")
    for number, segment in enumerate(ds.SegmentSequence, 1):
        _check_segment(segment, number)
    _check_grid(ds, volume)
    _check_series(ds, obj, volume)
    frames, at = _frames(obj.data, end)
    require(ds.NumberOfFrames == len(frames), "NumberOfFrames", f"{ds.NumberOfFrames}, but {len(frames)} are described")
    _check_frames(ds, frames, volume)
    _check_pixels(ds, obj.data, at)


def _check_segment(segment: Dataset, number: int) -> None:
    path = f"SegmentSequence[{number}]."
    require(segment.SegmentNumber == number, f"{path}SegmentNumber", "segments are not numbered 1, 2, …")
    require(segment.SegmentAlgorithmType == "AUTOMATIC", f"{path}SegmentAlgorithmType", "not AUTOMATIC")
    for keyword in _OF_EACH_SEGMENT:
        require(bool(segment.get(keyword)), f"{path}{keyword}", "missing")
    require(len(segment.RecommendedDisplayCIELabValue) == 3, f"{path}RecommendedDisplayCIELabValue", "not three values")


def _check_grid(ds: Dataset, volume: Volume) -> None:
    grid = volume.grid
    require((ds.Rows, ds.Columns) == (grid.rows, grid.columns), "Rows", "rows and columns differ from the source")
    require(
        ds.get("FrameOfReferenceUID") == grid.frame_of_reference_uid, "FrameOfReferenceUID", "differs from the source"
    )
    require(len(ds.SharedFunctionalGroupsSequence) == 1, "SharedFunctionalGroupsSequence", "not one item")
    groups = ds.SharedFunctionalGroupsSequence[0]
    for sequence in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        require(len(groups.get(sequence) or ()) == 1, sequence, "missing, and viewers place the frames by it")
    orientation = np.asarray(groups.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    expected = np.concatenate([grid.affine[:3, axis] / np.linalg.norm(grid.affine[:3, axis]) for axis in (0, 1)])
    require(
        orientation.shape == (6,) and np.allclose(orientation, expected, atol=1e-4),
        "ImageOrientationPatient",
        "differs from the source",
    )
    measures = groups.PixelMeasuresSequence[0]
    spacing = np.asarray(measures.PixelSpacing, float)
    require(spacing.shape == (2,) and np.allclose(spacing, grid.spacing[1:], rtol=1e-4), "PixelSpacing", "differs")
    require(float(measures.SliceThickness) > 0, "SliceThickness", "not positive")
    if grid.slices > 1:
        step = abs(float(np.dot(np.cross(expected[:3], expected[3:]), grid.affine[:3, 2])))
        between = float(measures.get("SpacingBetweenSlices") or 0)
        require(bool(np.isclose(between, step, rtol=1e-3)), "SpacingBetweenSlices", "differs from the source")


def _check_series(ds: Dataset, obj: EncodedObject, volume: Volume) -> None:
    """Check the Common Instance Reference module: viewers find the images of a SEG by it."""
    listed: dict[str, tuple[str, str]] = {}
    for series in ds.get("ReferencedSeriesSequence") or ():
        for ref in series.get("ReferencedInstanceSequence") or ():
            listed[str(ref.ReferencedSOPInstanceUID)] = str(series.SeriesInstanceUID), str(ref.ReferencedSOPClassUID)
    for header in volume.headers:
        expected = str(header.SeriesInstanceUID), str(header.SOPClassUID)
        known = listed.pop(str(header.SOPInstanceUID), None)
        require(known == expected, "ReferencedSeriesSequence", "does not list every source instance as it is")
    require(obj.related >= listed.keys(), "ReferencedSeriesSequence", "lists an instance that is not a source")
    sources = {str(ref.ReferencedSOPInstanceUID) for ref in ds.get("SourceImageSequence") or ()}
    known_sources = {str(header.SOPInstanceUID) for header in volume.headers} | obj.related
    require(sources <= known_sources, "SourceImageSequence", "lists an instance that is not a source")


def _frames(data: bytes, start: int) -> tuple[list[Item], int]:
    group, number, vr, _, length = _HEADER.unpack_from(data, start)
    present = (group << 16 | number, vr) == (PER_FRAME_GROUPS, b"SQ")
    require(present, "PerFrameFunctionalGroupsSequence", "missing")
    start += _HEADER.size
    return read_items(data, start, len(data) if length == 0xFFFFFFFF else start + length)


def _check_frames(ds: Dataset, frames: list[Item], volume: Volume) -> None:
    slices = {(s.sop_class_uid, s.sop_instance_uid, s.frame_number): k for k, s in enumerate(volume.sources)}
    headers = {str(header.SOPInstanceUID): header for header in volume.headers}
    positions: dict[int, tuple[float, ...]] = {}
    ranks: dict[int, int] = {}
    seen: set[tuple[int, int]] = set()
    for index, frame in enumerate(frames, 1):
        path = f"PerFrameFunctionalGroupsSequence[{index}]."
        k = slices.get(_source(frame, path), -1)
        require(k >= 0, f"{path}SourceImageSequence", "is no frame of the source")
        if k not in positions:
            source = volume.sources[k]
            positions[k] = tuple(
                map(
                    float,
                    functional_group(headers[source.sop_instance_uid], source, "PlanePositionSequence", _POSITION),
                )
            )
        here = tuple(map(float, _value(_only(frame, 0x00209113, path), 0x00200032, b"DS", path).split(b"\\")))
        near = len(here) == 3 and all(abs(a - b) < _MILLIMETRE for a, b in zip(here, positions[k], strict=True))
        require(near, f"{path}ImagePositionPatient", "differs from the source")
        (number,) = struct.unpack("<H", _value(_only(frame, 0x0062000A, path), 0x0062000B, b"US", path))
        require(1 <= number <= len(ds.SegmentSequence), f"{path}ReferencedSegmentNumber", "no such segment")
        require((number, k) not in seen, path, "a second frame of the same segment and plane")
        seen.add((number, k))
        indices = struct.unpack("<2I", _value(_only(frame, 0x00209111, path), 0x00209157, b"UL", path))
        agrees = indices[0] == number and ranks.setdefault(k, indices[1]) == indices[1]
        require(agrees, f"{path}DimensionIndexValues", "do not say which segment and plane")
    in_order = [ranks[k] for k in sorted(ranks)]
    require(in_order == list(range(1, len(ranks) + 1)), "DimensionIndexValues", "do not count the planes in order")
    require(
        {n for n, _ in seen} == set(range(1, len(ds.SegmentSequence) + 1)), "SegmentSequence", "has an empty segment"
    )
    require(len(ds.DimensionIndexSequence) == 2, "DimensionIndexSequence", "does not index segment and plane")


_POSITION = "ImagePositionPatient"


def _source(frame: Item, path: str) -> tuple[str, str, int]:
    """Return class, instance and frame number of the one source image that a frame names."""
    derivation = _only(frame, 0x00089124, path)
    _only(derivation, 0x00089215, path)
    image = _only(derivation, 0x00082112, path)
    _only(image, 0x0040A170, path)
    number = int(_value(image, 0x00081160, b"IS", path)) if 0x00081160 in image else 1
    uids = (_value(image, tag, b"UI", path).rstrip(b"\0").decode("ascii") for tag in (0x00081150, 0x00081155))
    return next(uids), next(uids), number


def _only(item: Item, tag: int, path: str) -> Item:
    vr, items = item.get(tag, ("", b""))
    require(vr == "SQ" and len(items) == 1, f"{path}{tag:08X}", "not a sequence of one item")
    assert isinstance(items, list)
    return items[0]


def _value(item: Item, tag: int, vr: bytes, path: str) -> bytes:
    found, value = item.get(tag, ("", b""))
    require(found.encode() == vr and bool(value), f"{path}{tag:08X}", "missing, empty, or of another VR")
    assert isinstance(value, bytes)
    return value


def _check_pixels(ds: Dataset, data: bytes, at: int) -> None:
    group, number, vr, _, length = _HEADER.unpack_from(data, at)
    present = group << 16 | number == 0x7FE00010 and vr in (b"OB", b"OW")
    require(present, "PixelData", "missing, or not next after the frames")
    bits = int(ds.NumberOfFrames) * int(ds.Rows) * int(ds.Columns)
    require(
        length == (bits + 15) // 16 * 2, "PixelData", f"{length} bytes, but the frames need {(bits + 15) // 16 * 2}"
    )
    require(len(data) == at + _HEADER.size + length, "PixelData", "the file is longer or shorter than it says")
