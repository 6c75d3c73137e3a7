"""The frames of instances: where each lies in the patient, and how its stored values become modality values.

Single-frame instances carry this at their top (PS3.3 C.7.6.2, C.11.1), enhanced multi-frame ones in their
functional groups, per frame or shared (PS3.3 C.7.6.16).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from imaging_ai.errors import SeriesRefused
from imaging_ai.infer.numbers import number, positive

__all__ = ["Frame", "Part", "flat_frames", "frames_of"]

#: What tells apart frames at the same place, in the order in which it is worth telling.
_PHASES = (
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "NominalPercentageOfCardiacPhase",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "DiffusionBValue",
    "EchoTime",
    "EchoNumbers",
    "InversionTime",
    "FrameReferenceTime",
    "AcquisitionNumber",
    "ImageType",
    "FrameType",
    "ConvolutionKernel",
    "ContentTime",
    "AcquisitionTime",
)


_PLACES = ("ImagePositionPatient", "ImageOrientationPatient", "PerFrameFunctionalGroupsSequence")
#: Modalities whose images have a place by definition: without it something is lost.
_LOCATED = frozenset({"CT", "MR", "PT"})


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One plane of an instance; `index` counts from 0 within the instance `ds`."""

    ds: Dataset
    index: int
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    pixel_spacing: tuple[float, float]
    thickness: float
    slope: float
    intercept: float
    localizer: bool
    phases: tuple[tuple[str, str], ...]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector along the stack: row direction x column direction."""
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return np.asarray(normal / np.linalg.norm(normal))


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some frames of an instance, the others being none of a volume's; `frames` are indices from 0."""

    ds: Dataset
    frames: frozenset[int]


def frames_of(ds: Dataset) -> list[Frame]:
    """List the frames of an instance.

    Raises
    ------
    SeriesRefused
        If the instance does not say where its frames lie.
    """
    if not (positive(ds, "Rows") and positive(ds, "Columns")):
        raise SeriesRefused("unreadable-pixels", "Rows or Columns is missing or no number")
    if "MOSAIC" in (ds.get("ImageType") or ()):
        raise SeriesRefused("mosaic", "a mosaic has many slices in one frame; send it as enhanced or single slices")
    count = number(ds, "NumberOfFrames")
    if "PerFrameFunctionalGroupsSequence" in ds:
        groups = ds.PerFrameFunctionalGroupsSequence or ()
        if len(groups) != count or not groups:
            raise SeriesRefused("no-geometry", "the functional groups are not as many as the frames")
        shared = (ds.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        return [_frame(ds, k, (group, shared)) for k, group in enumerate(groups)]
    if count not in (None, 1.0):
        raise SeriesRefused("no-geometry", "a multi-frame instance without functional groups has no frame positions")
    return [_frame(ds, 0, ())]


def flat_frames(images: Sequence[Dataset]) -> list[Frame] | None:
    """List the frames of images that have no place in the patient (radiographs, photographs, endoscopies), in order.

    They come as a stack of nominal millimetres; None where any of them does say where it lies, or should.
    """
    frames: list[Frame] = []
    if any(keyword in ds for ds in images for keyword in _PLACES):
        return None
    for ds in sorted(images, key=lambda one: number(one, "InstanceNumber") or 0.0):
        if ds.get("Modality") in _LOCATED or not (positive(ds, "Rows") and positive(ds, "Columns")):
            return None
        slope, intercept = _rescale(ds)
        for index in range(int(number(ds, "NumberOfFrames") or 1)):
            place = np.array([0.0, 0.0, len(frames)])
            frames.append(
                Frame(ds, index, place, np.array([1.0, 0, 0, 0, 1, 0]), (1.0, 1.0), 1.0, slope, intercept, False, ())
            )
    return frames


def _frame(ds: Dataset, index: int, groups: tuple[Dataset, ...]) -> Frame:
    measures = _find(groups, "PixelMeasuresSequence", ds)
    position = _numbers(_find(groups, "PlanePositionSequence", ds), "ImagePositionPatient", 3)
    orientation = _numbers(_find(groups, "PlaneOrientationSequence", ds), "ImageOrientationPatient", 6)
    row, column = orientation[:3], orientation[3:]
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
        raise SeriesRefused("no-geometry", "ImageOrientationPatient is not two perpendicular unit vectors")
    spacing = _numbers(measures, "PixelSpacing", 2)
    if min(spacing) <= 0:
        raise SeriesRefused("no-geometry", "PixelSpacing is not positive")
    slope, intercept = _rescale(_find(groups, "PixelValueTransformationSequence", ds))
    return Frame(
        ds=ds,
        index=index,
        position=position,
        orientation=orientation,
        pixel_spacing=(float(spacing[0]), float(spacing[1])),
        thickness=positive(measures, "SliceThickness") or positive(measures, "SpacingBetweenSlices"),
        slope=slope,
        intercept=intercept,
        localizer="LOCALIZER" in (ds.get("ImageType") or ()),
        phases=tuple(_phases((*_flat(groups), ds) if groups else (ds,))),
    )


def _find(groups: tuple[Dataset, ...], sequence: str, otherwise: Dataset) -> Dataset:
    """Return the item of a functional group macro: the frame's own, else the shared one, else the instance itself."""
    for group in groups:
        if items := group.get(sequence):
            return items[0]  # type: ignore[no-any-return]
    return otherwise


def _numbers(ds: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    try:
        values = np.asarray(ds.get(keyword), dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise SeriesRefused("no-geometry", f"{keyword} is missing or is not {count} numbers")
    return values


def _rescale(ds: Dataset) -> tuple[float, float]:
    slope, intercept = number(ds, "RescaleSlope"), number(ds, "RescaleIntercept")
    pair = (1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
    if not np.isfinite(pair).all() or pair[0] == 0:
        raise SeriesRefused("bad-rescale", "RescaleSlope or RescaleIntercept is not a usable number")
    return pair


def _flat(groups: tuple[Dataset, ...]) -> Iterator[Dataset]:
    """Yield the items of the functional groups of a frame, its own first."""
    for group in groups:
        for element in group:
            if element.VR == "SQ" and element.value:
                yield element.value[0]


def _phases(sources: tuple[Dataset, ...]) -> Iterator[tuple[str, str]]:
    for keyword in _PHASES:
        value = next((ds[keyword].value for ds in sources if keyword in ds), None)
        if value is not None:
            yield keyword, str(value)
