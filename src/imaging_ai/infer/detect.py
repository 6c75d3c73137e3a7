"""What a network says of boxes, to evaluations with a place in the patient: a finding for each box that scores enough.

Boxes are taken in the indices of the image that the network was given, before the bundle brings them to the world:
MONAI's transform does that by two corners, which is right only where the image lies along the axes of the patient. Here
the centre and the edges go through the image's whole affine, so that a box keeps its form on any plane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.transforms.compose import Compose
from numpy.typing import NDArray
from scipy.special import expit, logit

from imaging_ai.catalog.detecting import Detector
from imaging_ai.core.box import PatientBox
from imaging_ai.core.finding import Code, Evaluation, Finding, SegmentDescription
from imaging_ai.core.geometry import Grid
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.errors import BundleInvalid, ModelFailed
from imaging_ai.infer.measure import measure_box
from imaging_ai.infer.model import LoadedModel, Prepared
from imaging_ai.infer.retinanet import Boxes

__all__ = ["as_findings", "detect"]

#: The transform that brings boxes to the world, those that may follow it, and those that say boxes otherwise.
_WORLD = ("AffineBoxToWorldCoordinated",)
_FOLLOWING = ("ConvertBoxModed", "DeleteItemsd", "SelectItemsd", "ToDeviced", "EnsureTyped", "CastToTyped")
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
#: A score of exactly 0 or 1 has no odds.
_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A box with its label, and its score or probability."""

    label: int
    chance: float
    box: PatientBox


def detect(
    model: LoadedModel,
    volumes: Volume | Mapping[str, Volume],
    job_uid: str,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[Evaluation, ...]:
    """Say where each thing is that a detector knows, the best boxes first; of what is nowhere, that it is absent.

    Raises
    ------
    SeriesRefused, ModelFailed, ModelOutOfMemory
        As `LoadedModel.answer`; also if what it answers is no boxes.
    """
    detector = model.entry.detector
    if detector is None:
        return ()
    first = volumes if isinstance(volumes, Volume) else volumes[next(iter(model.entry.inputs or volumes))]
    model.how = ()
    with model.running():
        torch.manual_seed(0)
        candidates = list(_candidates(model, volumes, first.grid, progress))
    said = [list(_evaluations(detector, index, candidates, first, job_uid)) for index in range(len(detector.values))]
    if more := sum(_beyond(detector, one) for one in said):
        model.how = (f"{more} boxes are not told: they are beyond max_findings = {detector.max_findings}",)
    return tuple(one for some in said for one in some[: detector.max_findings])


def as_findings(evaluations: Sequence[Evaluation], grid: Grid) -> tuple[Finding, ...]:
    """Return boxes as the findings that a picture is drawn of: the voxels that they cover."""
    return tuple(
        Finding(
            segment_number=number,
            description=SegmentDescription(one.description.label, _ABNORMAL, one.description.finding),
            region=one.box.region(grid),
            tracking_identifier=one.tracking_identifier,
            tracking_uid=one.tracking_uid,
            measurements=one.measurements,
        )
        for number, one in enumerate((one for one in evaluations if one.box), start=1)
        if one.box
    )


def _candidates(
    model: LoadedModel, volumes: Volume | Mapping[str, Volume], grid: Grid, progress: Callable[[float], None]
) -> Iterator[_Candidate]:
    """Yield every box that the network answers, the best first of each image."""
    retina, detector = model.retina, model.entry.detector
    if retina is None or detector is None:
        raise BundleInvalid(f"{model.entry.name} has no detector of boxes")
    count = grid.slices if model.planar else 1
    for done, prepared in enumerate(model.preparations(volumes)):

        def part_of_all(part: float, done: int = done) -> None:
            progress((done + part) / count)

        found = _postprocessed(retina(prepared.inputs, model.network, part_of_all), prepared, model.steps_after)
        chances = _chances(found, detector)
        for place in np.argsort(-chances, kind="stable"):
            box = _in_patient(found.boxes[place].double().numpy(), prepared, grid)
            if box is not None and box.outlines(grid):
                yield _Candidate(int(found.labels[place]), float(chances[place]), box)


def _postprocessed(found: Boxes, prepared: Prepared, steps: Sequence[Any]) -> Boxes:
    """Run the bundle's transforms of boxes, up to the one that would bring them to the world.

    Raises
    ------
    ModelFailed
        If another one follows than is known, or boxes and scores no longer belong together.
    """
    names = [type(step).__name__ for step in steps]
    world = next((k for k, name in enumerate(names) if name in (*_WORLD, "ConvertBoxModed")), len(names))
    if strangers := [name for name in names[world:] if name not in (*_WORLD, *_FOLLOWING)]:
        raise ModelFailed(f"what {strangers[0]} does to boxes in the world is not known here")
    before = [step for step in steps[:world] if type(step).__name__ != "DeleteItemsd"]
    box, label, score = found.keys
    data: dict[str, Any] = {**prepared.data, box: found.boxes, label: found.labels, score: found.scores}
    data = Compose(before)({**data, "image": prepared.image}) if before else data
    boxes, labels, scores = (torch.as_tensor(data[key]) for key in found.keys)
    if not len(boxes) == len(labels) == len(scores) or (len(boxes) and boxes.shape[1] != 2 * (prepared.image.ndim - 1)):
        raise ModelFailed("the postprocessing leaves boxes, labels and scores that do not belong together")
    return replace(found, boxes=boxes, labels=labels, scores=scores)


def _chances(found: Boxes, detector: Detector) -> NDArray[np.float64]:
    """Return the scores, those of calibrated classes as probabilities."""
    scores = found.scores.double().numpy()
    if scores.size and (scores.min() < 0 or scores.max() > 1):
        raise ModelFailed(f"the boxes' scores go from {scores.min():g} to {scores.max():g}; they must be from 0 to 1")
    odds = logit(np.clip(scores, _LEAST, 1 - _LEAST))
    chances = scores.copy()
    for value, line in zip(detector.values, detector.platt, strict=True):
        if line is not None:
            of_it = found.labels.numpy() == value
            chances[of_it] = expit(line[0] * odds[of_it] + line[1])
    return np.asarray(chances)


def _in_patient(box: NDArray[np.float64], prepared: Prepared, grid: Grid) -> PatientBox | None:
    """Bring a box from the indices of the network's image to the patient; None where nothing of it is in the image."""
    low, high = box.reshape(2, -1)
    size = np.array(prepared.image.shape[1:], dtype=np.float64)
    low, high = np.maximum(low, -0.5), np.minimum(high, size - 0.5)
    if not (high > low).all():
        return None
    if len(low) == 2:  # a flat image is one slice thick
        low, high = np.append(low, -0.5), np.append(high, 0.5)
    to_patient = _RAS_TO_LPS @ np.asarray(prepared.image.affine, dtype=np.float64)
    return PatientBox.between(low, high, to_patient).along(grid)


def _evaluations(
    detector: Detector, index: int, candidates: Sequence[_Candidate], volume: Volume, job_uid: str
) -> Iterator[Evaluation]:
    """Yield all boxes of a class that score enough, the best first; or that it is absent."""
    value, described = detector.values[index], detector.classes[index]
    of_it = sorted((one for one in candidates if one.label == value), key=lambda one: -one.chance)
    enough = [one for one in of_it if one.chance >= described.threshold]
    calibrated = detector.platt[index] is not None
    if not enough:
        best = max((one.chance for one in of_it), default=0.0)
        uid = derive_uid(job_uid, "tracking", "box", str(value), "0")
        yield Evaluation(described, best, described.label, uid, calibrated=calibrated)
    for number, one in enumerate(enough, start=1):
        yield Evaluation(
            description=described,
            probability=one.chance,
            tracking_identifier=described.label if len(enough) == 1 else f"{described.label} {number}",
            tracking_uid=derive_uid(job_uid, "tracking", "box", str(value), str(number)),
            instances=(volume.sources[one.box.nearest_slice(volume.grid)].sop_instance_uid,),
            calibrated=calibrated,
            box=one.box,
            measurements=measure_box(one.box) if volume.located else (),
        )


def _beyond(detector: Detector, evaluations: Sequence[Evaluation]) -> int:
    return max(0, len(evaluations) - detector.max_findings)
