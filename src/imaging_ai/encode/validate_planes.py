"""What is checked of every multi-frame object: its grid, its references, and the plane of each frame."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from pydicom import Dataset

from imaging_ai.core.volume import Volume
from imaging_ai.encode.explicit import Item, read_items
from imaging_ai.encode.objects import EncodedObject
from imaging_ai.encode.rules import require
from imaging_ai.encode.source import functional_group

__all__ = [
    "PER_FRAME_GROUPS",
    "check_grid",
    "check_series",
    "on_planes",
    "only",
    "pixels_at",
    "read_frames",
    "value",
]

PER_FRAME_GROUPS = 0x52009230

_MILLIMETRE = 1e-3  # positions closer than a micrometre are the same
_UNDEFINED = 0xFFFFFFFF
_HEADER = struct.Struct("<HH2sHI")
_POSITION = "ImagePositionPatient"
#: What says of a frame where it lies: Derivation Image and Plane Position Sequence.
_PLACE = (0x00089124, 0x00209113)


def check_grid(ds: Dataset, volume: Volume) -> None:
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


def check_series(ds: Dataset, obj: EncodedObject, volume: Volume) -> None:
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


def read_frames(data: bytes | memoryview, start: int) -> tuple[list[Item], int]:
    """Read the items of the frames, which begin at byte `start`; return them and where they end."""
    group, number, vr, _, length = _HEADER.unpack_from(data, start)
    present = (group << 16 | number, vr) == (PER_FRAME_GROUPS, b"SQ")
    require(present, "PerFrameFunctionalGroupsSequence", "missing")
    start += _HEADER.size
    length = min(length, len(data) - start) if length == _UNDEFINED else length
    items, end = read_items(bytes(data[start : start + length]), 0, length)
    return items, start + end


def on_planes(frames: list[Item], volume: Volume) -> Iterator[tuple[str, Item, int]]:
    """Yield each frame with its path and the slice that it lies on, which is that of the source it names.

    What is written alike was read once (`read_items`), and is looked at once.
    """
    slices = {(s.sop_class_uid, s.sop_instance_uid, s.frame_number): k for k, s in enumerate(volume.sources)}
    headers = {str(header.SOPInstanceUID): header for header in volume.headers}
    positions: dict[int, tuple[float, ...]] = {}
    placed: dict[tuple[int, ...], int] = {}
    for index, frame in enumerate(frames, 1):
        path = f"PerFrameFunctionalGroupsSequence[{index}]."
        alike = tuple(id(frame.get(tag, ("", b""))[1]) for tag in _PLACE)
        if alike in placed:
            yield path, frame, placed[alike]
            continue
        k = slices.get(_source(frame, path), -1)
        require(k >= 0, f"{path}SourceImageSequence", "is no frame of the source")
        if k not in positions:
            source = volume.sources[k]
            digits = functional_group(headers[source.sop_instance_uid], source, "PlanePositionSequence", _POSITION)
            positions[k] = tuple(map(float, digits))
        here = tuple(map(float, value(only(frame, 0x00209113, path), 0x00200032, b"DS", path).split(b"\\")))
        near = len(here) == 3 and all(abs(a - b) < _MILLIMETRE for a, b in zip(here, positions[k], strict=True))
        require(near, f"{path}ImagePositionPatient", "differs from the source")
        placed[alike] = k
        yield path, frame, k


def pixels_at(data: bytes | memoryview, at: int, tag: int, vrs: tuple[bytes, ...], size: int) -> int:
    """Check that the pixel data begin at byte `at`, have `size` bytes and end the file; return where they lie."""
    group, number, vr, _, length = _HEADER.unpack_from(data, at)
    present = group << 16 | number == tag and vr in vrs
    require(present, "PixelData", "missing, or not next after the frames")
    require(length == size, "PixelData", f"{length} bytes, but the frames need {size}")
    require(len(data) == at + _HEADER.size + length, "PixelData", "the file is longer or shorter than it says")
    return at + _HEADER.size


def _source(frame: Item, path: str) -> tuple[str, str, int]:
    """Return class, instance and frame number of the one source image that a frame names."""
    derivation = only(frame, 0x00089124, path)
    only(derivation, 0x00089215, path)
    image = only(derivation, 0x00082112, path)
    only(image, 0x0040A170, path)
    number = int(value(image, 0x00081160, b"IS", path)) if 0x00081160 in image else 1
    uids = (value(image, tag, b"UI", path).rstrip(b"\0").decode("ascii") for tag in (0x00081150, 0x00081155))
    return next(uids), next(uids), number


def only(item: Item, tag: int, path: str) -> Item:
    """Return the one item of a sequence."""
    vr, items = item.get(tag, ("", b""))
    require(vr == "SQ" and len(items) == 1, f"{path}{tag:08X}", "not a sequence of one item")
    assert isinstance(items, list)
    return items[0]


def value(item: Item, tag: int, vr: bytes, path: str) -> bytes:
    """Return the value of an element, which must be there and of this VR."""
    found, raw = item.get(tag, ("", b""))
    require(found.encode() == vr and bool(raw), f"{path}{tag:08X}", "missing, empty, or of another VR")
    assert isinstance(raw, bytes)
    return raw
