"""What a network says of classes, to evaluations: calibrated probabilities of a study, a series or each instance.

The numbers of the network are taken as they come out of it; of the bundle's postprocessing only the activation is
kept. How a number becomes a probability is in `catalog/classes.py`. Tracking UIDs are derived from the job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms.post.array import Activations
from monai.transforms.post.dictionary import Activationsd
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, logsumexp, softmax

from imaging_ai.catalog import Classifier
from imaging_ai.catalog.classes import Activation
from imaging_ai.core.finding import Evaluation
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.errors import ModelFailed
from imaging_ai.infer.memory import within_memory
from imaging_ai.infer.model import LoadedModel

__all__ = ["activation_of", "class_scores", "classify", "probabilities", "reported", "scores"]

#: Slices that go through a planar network at once.
_AT_ONCE = 8


def classify(
    model: LoadedModel,
    volumes: Volume | Mapping[str, Volume],
    job_uid: str,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[Evaluation, ...]:
    """Say of each class how probable it is: of the whole, and where the model speaks of instances then of each of them.

    Raises
    ------
    SeriesRefused, ModelFailed, ModelOutOfMemory
        As `LoadedModel.answer`; also if the network answers fewer numbers than there are classes.
    """
    classifier = model.entry.classifier
    if classifier is None:
        return ()
    chances = probabilities(scores(model, volumes, progress), classifier, activation_of(model, classifier))
    first = volumes if isinstance(volumes, Volume) else volumes[next(iter(model.entry.inputs or volumes))]
    said = list(_evaluations(classifier, _summary(chances, classifier), job_uid))
    if classifier.level == "instance":
        if not model.planar:
            raise ModelFailed(f'{model.entry.name}: level = "instance" is for networks that read flat images')
        for sop_instance_uid, number, slices in _instances(first):
            of_these = _summary(chances[slices], classifier)
            said += _evaluations(classifier, of_these, job_uid, f", image {number}", sop_instance_uid)
    return tuple(said)


def reported(evaluations: Sequence[Evaluation], classifier: Classifier | None) -> tuple[Evaluation, ...]:
    """Choose those that a report names: all of the whole, and of the instances all or those with a finding."""
    every = classifier is not None and classifier.report == "all"
    return tuple(one for one in evaluations if every or one.present or not one.instances)


def scores(
    model: LoadedModel,
    volumes: Volume | Mapping[str, Volume],
    progress: Callable[[float], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Return the numbers that the network answers, ``[row, number]``, before any activation.

    There is one row for a volume, and of a planar network one for each slice, in their order.
    """
    first = volumes if isinstance(volumes, Volume) else next(iter(volumes.values()))
    expected = first.grid.slices if model.planar else 1
    rows: list[torch.Tensor] = []
    model.how = ()
    asking = _Asking(model)
    with model.running():
        torch.manual_seed(0)
        for inputs in _batches(prepared.inputs for prepared in model.preparations(volumes)):
            rows += asking(inputs)
            progress(len(rows) / expected)
    model.how = asking.notes
    numbers: NDArray[np.float32] = torch.stack(rows).numpy()
    if not np.isfinite(numbers).all():
        raise ModelFailed(f"{model.entry.name} answered values that are not numbers")
    return numbers


@dataclass(frozen=True, slots=True)
class _Plan:
    """How inputs go through a network: so many at once, there."""

    batch: int
    device: torch.device

    def __str__(self) -> str:
        return f"{self.batch} image{'s' * (self.batch > 1)} at once on the {self.device.type}"


class _Asking:
    """A classifier's network, asked for less at once when memory runs out: what was too much is not tried again."""

    def __init__(self, model: LoadedModel) -> None:
        self._network = model.network
        self._plan = _Plan(_AT_ONCE, model.device)
        self.notes: tuple[str, ...] = ()

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[batch, number]`` for ``[batch, channel, x, y(, z)]``."""
        return within_memory(self._plans(len(inputs)), lambda plan: self._ask(inputs, plan), self._note)

    def _plans(self, count: int) -> Iterator[_Plan]:
        batch, device = min(self._plan.batch, count), self._plan.device
        while batch > 1:
            yield _Plan(batch, device)
            batch //= 2
        yield _Plan(1, device)
        if device.type == "cuda":
            yield _Plan(1, torch.device("cpu"))

    def _ask(self, inputs: torch.Tensor, plan: _Plan) -> torch.Tensor:
        if self.notes:
            self._plan = plan
        self._network.to(plan.device)
        try:
            parts = [inputs[k : k + plan.batch].to(plan.device) for k in range(0, len(inputs), plan.batch)]
            return torch.cat([class_scores(self._network(part)).float().cpu() for part in parts])
        finally:
            self._network.to(inputs.device)

    def _note(self, sentence: str) -> None:
        self.notes = (*self.notes, sentence)


def class_scores(answer: Any) -> torch.Tensor:
    """Pick ``[batch, number]`` out of what a network answers: alone, or beside an image in a tuple or a dictionary.

    Raises
    ------
    ModelFailed
        If there is nothing but images.
    """
    parts = answer.values() if isinstance(answer, Mapping) else answer if isinstance(answer, list | tuple) else [answer]
    for part in parts:
        if isinstance(part, torch.Tensor) and part.ndim and all(size == 1 for size in part.shape[2:]):
            return part.reshape(len(part), -1)
    raise ModelFailed("the network answers an image: [[classes]] are of one that answers a number for each class")


def activation_of(model: LoadedModel, classifier: Classifier) -> Activation:
    """Return what makes numbers comparable: as `dicom.toml` says, else as the bundle does, else softmax."""
    if classifier.activation is not None:
        return classifier.activation
    steps = [step for step in model.steps_after if isinstance(step, Activations | Activationsd)]
    return "sigmoid" if any(np.any(step.sigmoid) for step in steps) else "softmax"


def probabilities(numbers: NDArray[np.float32], classifier: Classifier, activation: Activation) -> NDArray[np.float64]:
    """Turn numbers ``[row, number]`` into probabilities ``[row, class]``.

    Raises
    ------
    ModelFailed
        If there are too few, or they are no probabilities where they must be.
    """
    count, needed = numbers.shape[1], max(classifier.values) + 1
    if count < needed:
        raise ModelFailed(f"the network answers {count} numbers, its classes need {needed}")
    if activation == "softmax" and count == 1:
        raise ModelFailed('the softmax of one number is always 1: [classify] activation = "sigmoid"')
    logits = numbers.astype(np.float64)
    if activation == "none":
        if logits.min() < 0 or logits.max() > 1:
            raise ModelFailed(f'the network answers {logits.min():g} to {logits.max():g}, and activation is "none"')
        return logits[:, classifier.values]
    cooled = logits / (classifier.temperature or 1.0)
    chances = softmax(cooled, axis=1) if activation == "softmax" else expit(cooled)
    columns = [
        chances[:, value] if line is None else expit(line[0] * _log_odds(logits, value, activation) + line[1])
        for value, line in zip(classifier.values, classifier.platt, strict=True)
    ]
    return np.stack(columns, axis=1)


def _log_odds(logits: NDArray[np.float64], value: int, activation: Activation) -> NDArray[np.float64]:
    """Return the logarithm of the odds of a class against all others, before calibration."""
    if activation == "sigmoid":
        return logits[:, value]
    logs = log_softmax(logits, axis=1)
    return np.asarray(logs[:, value] - logsumexp(np.delete(logs, value, axis=1), axis=1))


def _summary(chances: NDArray[np.float64], classifier: Classifier) -> NDArray[np.float64]:
    """Make one row of several."""
    return np.asarray(chances.max(axis=0) if classifier.summary == "max" else chances.mean(axis=0))


def _batches(inputs: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Put inputs of one shape together."""
    waiting: list[torch.Tensor] = []
    for one in inputs:
        if waiting and (len(waiting) == _AT_ONCE or one.shape != waiting[0].shape):
            yield torch.cat(waiting)
            waiting = []
        waiting.append(one)
    if waiting:
        yield torch.cat(waiting)


def _instances(volume: Volume) -> Iterator[tuple[str, str, list[int]]]:
    """Yield each instance of a volume: its UID, its Instance Number, and the slices that were read from it."""
    slices: dict[str, list[int]] = {}
    for k, source in enumerate(volume.sources):
        slices.setdefault(source.sop_instance_uid, []).append(k)
    numbers = {str(header.SOPInstanceUID): str(header.get("InstanceNumber") or "") for header in volume.headers}
    for index, (uid, some) in enumerate(slices.items(), start=1):
        yield uid, numbers.get(uid) or str(index), some


def _evaluations(
    classifier: Classifier, chances: NDArray[np.float64], job_uid: str, of: str = "", sop_instance_uid: str = ""
) -> Iterator[Evaluation]:
    for index, (value, described) in enumerate(zip(classifier.values, classifier.classes, strict=True)):
        yield Evaluation(
            description=described,
            probability=float(chances[index]),
            tracking_identifier=f"{described.label}{of}",
            tracking_uid=derive_uid(job_uid, "tracking", "class", str(value), sop_instance_uid),
            instances=(sop_instance_uid,) if sop_instance_uid else (),
            calibrated=classifier.calibrated(index),
        )
