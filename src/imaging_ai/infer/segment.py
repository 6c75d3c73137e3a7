"""What a model answered, to findings: one for each segment or each lesion, with measurements and tracking identifiers.

Tracking UIDs are derived from the job, so that a second attempt says the same of the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from imaging_ai.catalog import ModelEntry
from imaging_ai.core.finding import Code, Finding, ParametricMap, SegmentDescription
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.region import Box, Region
from imaging_ai.core.volume import Volume
from imaging_ai.errors import ModelFailed
from imaging_ai.infer.measure import measure

__all__ = ["find", "probability_map"]

_PROBABILITY = Code("110854", "DCM", "Fractional Probabilistic Segmentation")
_NO_UNIT = Code("1", "UCUM", "no units")
_TO_BE_SEEN = 0.01

#: So many segments are each looked for by themselves; the boxes of more are found in one go.
_FEW = 4
#: Voxels that touch with a corner belong together.
_TOUCHING = np.ones((3, 3, 3), np.bool_)


def find(
    prediction: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.bool_],
    volume: Volume,
    entry: ModelEntry,
    job_uid: str,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[Finding, ...]:
    """Make the findings of a prediction; a segment that was looked for and not found is one with an empty mask.

    `note` is told in a sentence what no finding was made of because there are too many.

    Raises
    ------
    ModelFailed
        If the prediction does not fit the volume or the segments.
    """
    if prediction.shape[-3:] != volume.grid.shape:
        raise ModelFailed(f"the answer has the shape {prediction.shape[-3:]}, its source {volume.grid.shape}")
    findings: list[Finding] = []
    segments = 0
    for value, description, found in _segments(prediction, entry):
        pieces = _pieces(found, description, entry, volume.grid.voxel_volume, note)
        for index, piece in enumerate(pieces, start=1):
            segments += piece.found
            identifier = description.label if len(pieces) == 1 else f"{description.label} {index}"
            findings.append(
                Finding(
                    segment_number=segments if piece.found else 0,
                    description=description,
                    region=piece,
                    tracking_identifier=identifier,
                    tracking_uid=derive_uid(job_uid, "tracking", str(value), str(index)),
                    measurements=measure(piece, volume, entry.measurements.report),
                )
            )
    return tuple(findings)


def probability_map(probability: NDArray[np.float32], entry: ModelEntry) -> ParametricMap | None:
    """Describe the probability that a voxel belongs to a segment; None where it is below one in a hundred throughout.

    Nothing is taken out of it that a finding lacks (small pieces, those beyond the largest): it is what the model said.
    """
    if probability.max(initial=0) < _TO_BE_SEEN:
        return None
    labels = " or ".join(segment.label for segment in entry.segments)
    return ParametricMap(
        name="probability",
        values=probability,
        limits=(0.0, 1.0),
        quantity=_PROBABILITY,
        unit=_NO_UNIT,
        description=f"Probability of {labels}"[:64],
        derivation=f"Probability by the network of {entry.algorithm.name} {entry.version} that a voxel is of: {labels}",
    )


def _segments(
    prediction: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.bool_], entry: ModelEntry
) -> Iterator[tuple[int, SegmentDescription, Region]]:
    """Yield each segment's value, its description, and where it is."""
    channels, shape = prediction.ndim == 4, prediction.shape[-3:]
    many = not channels and len(entry.segments) > _FEW
    boxes = ndimage.find_objects(prediction, max_label=max(entry.segment_values)) if many else []
    for value, description in zip(entry.segment_values, entry.segments, strict=True):
        if channels and value >= len(prediction):
            raise ModelFailed(f"the answer has {len(prediction)} channels, segment {description.label!r} is {value}")
        if not channels and value == 0:
            raise ModelFailed(f"the answer is a label map, where segment {description.label!r} cannot be 0")
        if many:
            box = boxes[value - 1]
            found = Region(shape, box, prediction[box] == value) if box else Region.nothing(shape)
        else:
            found = Region.of(prediction[value] if channels else prediction == value)
        yield value, description, found


def _pieces(
    found: Region, description: SegmentDescription, entry: ModelEntry, voxel_volume: float, note: Callable[[str], None]
) -> list[Region]:
    """Split a segment into what counts: connected pieces that are large enough, together or each on its own."""
    smallest = description.min_volume_ml * 1000 / voxel_volume
    apart = entry.measurements.instances == "components"
    if not found.found or (not apart and smallest <= 1):
        return [found]
    labels, count = ndimage.label(found.inside, _TOUCHING)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    kept = [int(k) for k in np.argsort(-sizes, kind="stable") + 1 if sizes[k - 1] >= smallest]
    if not kept:
        return [Region.nothing(found.shape)]
    if not apart:
        return [replace(found, inside=np.isin(labels, kept))]
    if len(kept) > (most := entry.measurements.max_findings):
        note(f"{description.label}: of {len(kept)} pieces the largest {most} are findings (max_findings), no others")
    boxes: list[Box] = ndimage.find_objects(labels)
    return [Region(found.shape, _within(found.box, boxes[k - 1]), labels[boxes[k - 1]] == k) for k in kept[:most]]


def _within(outer: Box, inner: Box) -> Box:
    """Return a box that is given within another, in the coordinates of the whole."""
    return tuple(_side(o, i) for o, i in zip(outer, inner, strict=True))


def _side(outer: slice, inner: slice) -> slice:
    start, stop, _ = inner.indices(outer.stop - outer.start)
    return slice(outer.start + start, outer.start + stop)
