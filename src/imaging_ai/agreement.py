"""How far two answers agree: the objects of two runs on the same series, by bytes, by voxels, by numbers.

Segments are compared by what they are (property type and label, instances of one label together) and where they are
(Image Position of each frame), by Dice's coefficient; maps by the largest difference of a voxel; measurements and
probabilities of reports by the largest difference of a number.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ParametricMapStorage,
    SegmentationStorage,
)

__all__ = ["Agreement", "compare"]

_LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
_REPORTS = (ComprehensiveSRStorage, Comprehensive3DSRStorage, EnhancedSRStorage)
_NUMBERED = re.compile(r"\s+\d+\Z")

_Place = tuple[float, ...]
_Masks = dict[str, dict[_Place, NDArray[np.bool_]]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What differs between two runs.

    `dice` is by segment, 1 where both found nothing; `differences` by what was measured or mapped, with its unit;
    `only_in_one` names what only one of them says.
    """

    identical: bool
    dice: dict[str, float] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    only_in_one: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Say it in a line."""
        if self.identical:
            return "identical, byte for byte"
        said = [f"Dice {value:.4f} for {name}" for name, value in self.dice.items()]
        if self.differences:
            name, most = max(self.differences.items(), key=lambda one: one[1])
            said.append(f"largest difference {most:g} in {name}")
        if self.only_in_one:
            said.append(f"only in one: {', '.join(self.only_in_one)}")
        return "; ".join(said) or "the same findings"


def compare(one: Iterable[bytes | memoryview], other: Iterable[bytes | memoryview]) -> Agreement:
    """Compare the objects (PS3.10 files) of two runs on the same series."""
    first, second = list(one), list(other)
    if _digests(first) == _digests(second):
        return Agreement(identical=True)
    ours, theirs = [dcmread(io.BytesIO(file)) for file in first], [dcmread(io.BytesIO(file)) for file in second]
    dice = _dice(_masks(ours), _masks(theirs))
    maps, only_maps = _map_differences(ours, theirs)
    numbers, only_numbers = _number_differences(_numbers(ours), _numbers(theirs))
    return Agreement(False, dice, maps | numbers, (*only_maps, *only_numbers))


def _digests(files: Sequence[bytes | memoryview]) -> list[bytes]:
    return sorted(hashlib.sha256(file).digest() for file in files)


def _of(objects: Sequence[Dataset], *sop_classes: str) -> Iterator[Dataset]:
    return (ds for ds in objects if ds.SOPClassUID in sop_classes)


def _place(ds: Dataset, frame: int) -> _Place:
    groups = ds.PerFrameFunctionalGroupsSequence[frame]
    position = groups.get("PlanePositionSequence") or ds.SharedFunctionalGroupsSequence[0].PlanePositionSequence
    return tuple(round(float(value), 2) for value in position[0].ImagePositionPatient)


def _frames(ds: Dataset) -> NDArray[Any]:
    pixels: NDArray[Any] = ds.pixel_array
    return pixels if pixels.ndim == 3 else pixels[None]


# -- segmentations


def _masks(objects: Sequence[Dataset]) -> _Masks:
    """Return by segment and position where it is."""
    masks: _Masks = defaultdict(dict)
    for ds in _of(objects, SegmentationStorage, _LABEL_MAP_SEGMENTATION):
        names = {int(segment.SegmentNumber): _name(segment) for segment in ds.SegmentSequence}
        for frame, pixels in enumerate(_frames(ds)):
            for number, mask in _segments_in(ds, frame, pixels):
                kept, place = masks[names[number]], _place(ds, frame)
                kept[place] = kept[place] | mask if place in kept else mask
    return masks


def _name(segment: Dataset) -> str:
    kind = segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning
    label = _NUMBERED.sub("", str(segment.SegmentLabel))
    return label if label.lower() == str(kind).lower() else f"{label} ({kind})"


def _segments_in(ds: Dataset, frame: int, pixels: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    if ds.SegmentationType == "LABELMAP":
        yield from ((int(number), pixels == number) for number in np.unique(pixels) if number)
        return
    groups = ds.PerFrameFunctionalGroupsSequence[frame]
    named = groups.get("SegmentIdentificationSequence") or (
        ds.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence
    )
    half = int(ds.get("MaximumFractionalValue", 1)) / 2
    yield int(named[0].ReferencedSegmentNumber), pixels > half


def _dice(ours: _Masks, theirs: _Masks) -> dict[str, float]:
    return {name: _dice_of(ours.get(name, {}), theirs.get(name, {})) for name in sorted({*ours, *theirs})}


def _dice_of(ours: dict[_Place, NDArray[np.bool_]], theirs: dict[_Place, NDArray[np.bool_]]) -> float:
    sizes = sum(int(mask.sum()) for masks in (ours, theirs) for mask in masks.values())
    both = sum(int((mask & theirs[place]).sum()) for place, mask in ours.items() if place in theirs)
    return 2 * both / sizes if sizes else 1.0


# -- maps and numbers


def _map_differences(ours: Sequence[Dataset], theirs: Sequence[Dataset]) -> tuple[dict[str, float], list[str]]:
    first = {_map_name(ds): ds for ds in _of(ours, ParametricMapStorage)}
    second = {_map_name(ds): ds for ds in _of(theirs, ParametricMapStorage)}
    both = first.keys() & second.keys()
    differences = {f"the map {name}": _largest(first[name], second[name]) for name in sorted(both)}
    return differences, [f"the map {name}" for name in sorted(first.keys() ^ second.keys())]


def _map_name(ds: Dataset) -> str:
    return str(ds.get("ContentDescription") or ds.get("ContentLabel") or "")


def _largest(one: Dataset, other: Dataset) -> float:
    """Return the largest difference of a voxel; a plane that only one has counts with its own largest value."""
    ours = {_place(one, k): values for k, values in enumerate(_frames(one))}
    theirs = {_place(other, k): values for k, values in enumerate(_frames(other))}
    nothing = np.zeros(1)
    planes = ours.keys() | theirs.keys()
    return max(float(np.abs(ours.get(at, nothing) - theirs.get(at, nothing)).max()) for at in planes)


def _numbers(objects: Sequence[Dataset]) -> dict[str, float]:
    """Return every number of the reports, by the finding and concept it belongs to."""
    found: dict[str, float] = {}
    for ds in _of(objects, *_REPORTS):
        for name, value in _numbers_below(ds, ""):
            known = sum(1 for other in found if other == name or other.startswith(f"{name} #"))
            found[f"{name} #{known + 1}" if known else name] = value
    return found


def _numbers_below(item: Dataset, within: str) -> Iterator[tuple[str, float]]:
    children = list(item.get("ContentSequence", ()))
    for child in children:
        if child.get("ValueType") == "TEXT" and _concept(child) == "Tracking Identifier":
            within = str(child.TextValue)
    for child in children:
        if child.get("ValueType") == "NUM" and child.get("MeasuredValueSequence"):
            measured = child.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            derived = next((f" {_meaning(one)}" for one in child.get("ContentSequence", ()) if _is_derivation(one)), "")
            yield f"{within} {_concept(child)}{derived} [{unit}]".strip(), float(measured.NumericValue)
        else:
            yield from _numbers_below(child, within)


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeMeaning) if names else ""


def _is_derivation(item: Dataset) -> bool:
    return item.get("ValueType") == "CODE" and _concept(item) == "Derivation"


def _meaning(item: Dataset) -> str:
    return str(item.ConceptCodeSequence[0].CodeMeaning)


def _number_differences(ours: dict[str, float], theirs: dict[str, float]) -> tuple[dict[str, float], list[str]]:
    both = [name for name in ours if name in theirs]
    return {name: abs(ours[name] - theirs[name]) for name in both}, sorted(ours.keys() ^ theirs.keys())
