"""Segmentations (PS3.3 A.51) and Parametric Maps (A.75) as they lie on a volume, whoever made them.

A frame belongs to the slice that its own position names; what lies on another grid is refused, never moved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import ParametricMapStorage, SegmentationStorage

from imaging_ai.core.colour import DISPLAY_COLOURS, srgb_of
from imaging_ai.core.region import Region
from imaging_ai.core.volume import Volume
from imaging_ai.draw.style import Colour
from imaging_ai.errors import InputError

__all__ = ["CLASSES", "Heat", "Layer", "Shown", "place"]

_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
#: What can be shown over images.
CLASSES = (SegmentationStorage, _LABEL_MAP, ParametricMapStorage)

_PROBABILITIES = ("110854", "110860")  # Probabilistic Segmentation, as a quantity
_NEAR = 0.1  # of a voxel
#: What pydicom and we raise over a result that lacks what its class has, or whose pixels are damaged.
_STUMBLES = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, NotImplementedError, RuntimeError)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A segment: its name, colour and region, and how probable it is on average where that is told."""

    name: str
    colour: Colour
    region: Region
    probability: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Heat:
    """A map: float32 ``(slices, rows, columns)`` within `limits`, and its UCUM unit ("" for none)."""

    description: str
    values: NDArray[np.float32]
    limits: tuple[float, float]
    unit: str
    is_probability: bool


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """All that is drawn over a volume, the largest segment first; `title` says which algorithm made it."""

    title: str
    layers: tuple[Layer, ...]
    heat: Heat | None


def place(results: Sequence[Dataset], volume: Volume) -> Shown:
    """Read results onto the grid of `volume`; of several maps, the first is shown.

    Raises
    ------
    InputError
        If one of them is of another class, lies elsewhere, or cannot be read.
    """
    try:
        return _place(results, volume)
    except _STUMBLES as error:
        raise InputError(f"the result cannot be read: {type(error).__name__}: {error}"[:300]) from error


def _place(results: Sequence[Dataset], volume: Volume) -> Shown:
    layers: list[Layer] = []
    heat: Heat | None = None
    for ds in results:
        slices = _slices(ds, volume)
        if ds.SOPClassUID == ParametricMapStorage:
            heat = heat or _heat(ds, slices, volume)
        else:
            layers += _layers(ds, slices, volume)
    if heat is not None and heat.is_probability:
        chances = heat.values
        layers = [
            Layer(one.name, one.colour, one.region, float(chances[one.region.box][one.region.inside].mean()))
            for one in layers
        ]
    first = results[0]
    title = " ".join(filter(None, (str(first.get("ManufacturerModelName", "")), _version(first))))
    return Shown(title or "AI result", tuple(sorted(layers, key=lambda one: -one.region.voxels)), heat)


def _version(ds: Dataset) -> str:
    versions = ds.get("SoftwareVersions")
    return str(versions[0] if isinstance(versions, Sequence) and not isinstance(versions, str) else versions or "")


def _slices(ds: Dataset, volume: Volume) -> list[int]:
    """Return the slice that each frame lies on."""
    if ds.get("SOPClassUID") not in CLASSES:
        raise InputError("the result is no segmentation and no parametric map: nothing can be drawn over images")
    grid = volume.grid
    if str(ds.get("FrameOfReferenceUID", "")) != grid.frame_of_reference_uid:
        raise InputError("the result lies in another frame of reference than the series: it was made of another one")
    if (ds.Rows, ds.Columns) != (grid.rows, grid.columns):
        raise InputError(f"the result has {ds.Rows} x {ds.Columns} pixels, the series {grid.rows} x {grid.columns}")
    to_indices = np.linalg.inv(grid.affine)
    expected = grid.affine[:3, :2].T.reshape(-1)
    slices = []
    for number in range(1, int(ds.NumberOfFrames) + 1):
        position = _floats(ds, number, "PlanePositionSequence", "ImagePositionPatient", 3)
        cosines = _floats(ds, number, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
        rows_apart, columns_apart = _floats(ds, number, "PixelMeasuresSequence", "PixelSpacing", 2)
        steps = cosines * np.repeat([columns_apart, rows_apart], 3)
        column, row, k, _ = to_indices @ [*position, 1.0]
        on_plane = max(abs(column), abs(row), abs(k - round(k))) < _NEAR and 0 <= round(k) < grid.slices
        if not on_plane or not np.allclose(steps, expected, atol=2e-3 * max(rows_apart, columns_apart)):
            raise InputError("the result lies on another grid than the series: give the series that it was made of")
        slices.append(round(k))
    return slices


def _floats(ds: Dataset, number: int, sequence: str, keyword: str, count: int) -> NDArray[np.float64]:
    """Return numbers that describe a frame, from its functional groups or the shared ones (PS3.3 C.7.6.16)."""
    for groups in (ds.PerFrameFunctionalGroupsSequence[number - 1], ds.SharedFunctionalGroupsSequence[0]):
        if groups.get(sequence):
            return np.asarray(groups[sequence].value[0][keyword].value, np.float64).reshape(count)
    raise InputError(f"the result has no {keyword}: it cannot be placed")


def _layers(ds: Dataset, slices: Sequence[int], volume: Volume) -> Iterator[Layer]:
    """Yield the segments of a SEG; of a FRACTIONAL one, what is at least as probable as not."""
    whole = float(ds.get("MaximumFractionalValue") or 1)
    planes: dict[int, dict[int, Region]] = defaultdict(dict)
    sums: dict[int, float] = defaultdict(float)
    for number, (k, frame) in enumerate(zip(slices, _frames(ds), strict=True), 1):
        for segment, inside in _segments_of(ds, number, frame, whole):
            planes[segment][k] = Region.of(inside[np.newaxis])
            sums[segment] += float(frame[inside].sum(dtype=np.float64)) / whole
    for index, item in enumerate(ds.SegmentSequence):
        number = int(item.SegmentNumber)
        if not planes[number]:
            continue
        region = _stacked(planes[number], volume.grid.shape)
        lab = item.get("RecommendedDisplayCIELabValue")
        colour = srgb_of(_cielab(lab) if lab else DISPLAY_COLOURS[index % len(DISPLAY_COLOURS)])
        mean = sums[number] / region.voxels if ds.SegmentationType == "FRACTIONAL" else None
        yield Layer(str(item.SegmentLabel), colour, region, mean)


def _frames(ds: Dataset) -> Iterator[NDArray[Any]]:
    """Yield the frames one by one; pydicom reads no frames of bits that begin within a byte."""
    if ds.BitsAllocated != 1:
        yield from iter_pixels(ds)
        return
    size, data = ds.Rows * ds.Columns, np.frombuffer(ds.PixelData, np.uint8)
    if len(data) * 8 < size * int(ds.NumberOfFrames):
        raise InputError("the segmentation has less pixel data than frames")
    for start in range(0, size * int(ds.NumberOfFrames), size):
        bits = np.unpackbits(data[start // 8 : (start + size + 7) // 8], bitorder="little")
        yield bits[start % 8 : start % 8 + size].reshape(ds.Rows, ds.Columns)


def _segments_of(
    ds: Dataset, number: int, frame: NDArray[Any], whole: float
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield the segments that a frame has, and where."""
    if ds.SegmentationType == "LABELMAP":
        background = int(ds.get("PixelPaddingValue") or 0)
        yield from ((int(label), frame == label) for label in np.unique(frame) if label != background)
        return
    groups = ds.PerFrameFunctionalGroupsSequence[number - 1]
    if "SegmentIdentificationSequence" not in groups:
        groups = ds.SharedFunctionalGroupsSequence[0]
    inside = frame >= whole / 2
    if inside.any():
        yield int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber), inside


def _stacked(planes: dict[int, Region], shape: tuple[int, int, int]) -> Region:
    """Put regions of single slices together."""
    box = [slice(min(planes), max(planes) + 1)]
    for axis in (1, 2):
        sides = [plane.box[axis] for plane in planes.values()]
        box.append(slice(min(side.start for side in sides), max(side.stop for side in sides)))
    inside = np.zeros([side.stop - side.start for side in box], np.bool_)
    for k, plane in planes.items():
        rows, columns = (
            slice(side.start - whole.start, side.stop - whole.start)
            for side, whole in zip(plane.box[1:], box[1:], strict=True)
        )
        inside[k - box[0].start, rows, columns] = plane.inside[0]
    return Region(shape, tuple(box), inside)


def _heat(ds: Dataset, slices: Sequence[int], volume: Volume) -> Heat:
    """Read a map in its own unit; slices that it does not have are at its lower limit."""
    shared = ds.SharedFunctionalGroupsSequence[0].get("RealWorldValueMappingSequence")
    own = ds.PerFrameFunctionalGroupsSequence[0].get("RealWorldValueMappingSequence")
    mapping = (shared or own or [Dataset()])[0]
    frames = np.asarray(ds.pixel_array, np.float32).reshape(-1, ds.Rows, ds.Columns)
    frames = frames * float(mapping.get("RealWorldValueSlope", 1)) + float(mapping.get("RealWorldValueIntercept", 0))
    frames = np.nan_to_num(frames, copy=False)
    low = mapping.get("DoubleFloatRealWorldValueFirstValueMapped")
    high = mapping.get("DoubleFloatRealWorldValueLastValueMapped")
    limits = (float(low), float(high)) if low is not None and high is not None and low < high else _range(frames)
    values = np.full(volume.grid.shape, max(limits[0], 0.0), np.float32)
    values[list(slices)] = frames
    units, quantities = mapping.get("MeasurementUnitsCodeSequence"), mapping.get("QuantityDefinitionSequence")
    unit = str(units[0].get("CodeValue", "")) if units else ""
    codes = [code.get("CodeValue") for item in quantities or () for code in item.get("ConceptCodeSequence") or ()]
    described = str(mapping.get("LUTExplanation") or ds.get("ContentDescription") or "map")
    return Heat(described, values, limits, "" if unit == "1" else unit, any(code in _PROBABILITIES for code in codes))


def _range(frames: NDArray[np.float32]) -> tuple[float, float]:
    low, high = float(frames.min()), float(frames.max())
    return (low, high) if low < high else (low, low + 1)


def _cielab(stored: Sequence[float]) -> tuple[float, float, float]:
    """Return a CIELab value that is stored as PS3.3 C.10.7.1.1 says."""
    lightness, a, b = map(float, stored)
    return lightness / 655.35, a / 257 - 128, b / 257 - 128
