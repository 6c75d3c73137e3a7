"""A bundle's postprocessing, from the network's answer to labels, and the probabilities that it passes on the way.

Probabilities are what stands before `AsDiscreted`. Mostly they are on the source grid by then and cost a copy; where
labels go back to it and not probabilities, one channel of these goes back as well, interpolated.

Where a bundle takes all channels back to the source and then their largest, as nearly all do, both are done slice by
slice, axis by axis (`resample.py`): the same labels, without all channels on the grid of the source at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.post.array import AsDiscrete
from monai.transforms.post.dictionary import Activationsd, AsDiscreted, Invertd
from numpy.typing import NDArray

from imaging_ai.errors import ModelFailed
from imaging_ai.infer.resample import Back, way_back
from imaging_ai.infer.tensors import Prediction, checked_probability, labels_on, probability_on

__all__ = ["Answer", "Postprocessing"]

#: Transforms that may give labels other numbers.
_RENAMING = ("MapLabel", "Lambda")


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Labels on the source grid, and where asked for the probability that a voxel belongs to any segment."""

    labels: Prediction
    probability: NDArray[np.float32] | None = None


class Postprocessing:
    """The transforms that follow a network; `segment_values` are the labels, or the channels, that are segments."""

    def __init__(self, transforms: Callable[[Any], Any], segment_values: Sequence[int]) -> None:
        self._run = transforms
        self._segments = list(segment_values)
        self.transforms: Sequence[Any] = transforms.transforms if isinstance(transforms, Compose) else [transforms]
        discrete = (k for k, step in enumerate(self.transforms) if isinstance(step, AsDiscrete | AsDiscreted))
        self._discrete = next(discrete, None)
        self._inversion = self._plain_inversion()

    @property
    def overlapping(self) -> bool:
        """Whether each channel of the network's answer is decided on by itself, by a threshold."""
        return self._discrete is not None and not np.any(self.transforms[self._discrete].argmax)

    def channels_of(self, labels: Sequence[int], count: int) -> list[int]:
        """Return which of so many channels of an answer stand for labels.

        Raises
        ------
        ModelFailed
            If the labels get other numbers after they were channels.
        """
        if count == 1:
            return [0] * len(labels)
        steps = self.transforms[(self._discrete or 0) + 1 :]
        if self._discrete is None or not any(type(step).__name__.startswith(_RENAMING) for step in steps):
            return list(labels)
        if count == 2 and self._is_argmax():
            return [1] * len(labels)  # there is no other that could be meant
        raise ModelFailed(
            "the postprocessing gives labels other numbers after AsDiscreted: which channel of the network stands for "
            "a segment is not known"
        )

    def __call__(self, data: dict[str, Any], source: MetaTensor, *, probability: bool) -> Answer:
        """Return what `data["pred"]` says, on the grid of `source`.

        Raises
        ------
        ModelFailed
            If it says nothing sensible, or nothing that is a probability where one is asked for.
        """
        if self._inversion is not None and isinstance(self._run, Compose):
            data = self._before_inversion(data)
            operations = getattr(data.get(self.transforms[self._inversion].orig_keys[0]), "applied_operations", [])
            back = way_back(operations, data["pred"]) if isinstance(data["pred"], MetaTensor) else None
            if back is not None and back.shape == tuple(source.shape[::-1]):
                return self._by_slices(data, back, source, probability=probability)
            data = self._run(data, start=self._inversion, end=self._inversion + 1)
            return self._from(self._inversion + 1, data, source, probability=probability)
        return self._from(0, data, source, probability=probability)

    def _from(self, step: int, data: dict[str, Any], source: MetaTensor, *, probability: bool) -> Answer:
        """Run the transforms from one of them on, as MONAI does."""
        if not probability:
            data = self._run(data, start=step) if isinstance(self._run, Compose) else self._run(data)
            return Answer(labels_on(data["pred"], source))
        if self._discrete is None or not isinstance(self._run, Compose):
            raise ModelFailed("the postprocessing has no AsDiscreted: what would be a probability is not known")
        data = self._run(data, start=step, end=self._discrete)
        chances = self._brought_back(self._of_any(data["pred"]), data)
        found = probability_on(chances, source)
        return Answer(labels_on(self._run(data, start=self._discrete)["pred"], source), found)

    def _plain_inversion(self) -> int | None:
        """Return where probabilities go back to the source for their largest to be taken next, if that is all."""
        if not self._discrete or not isinstance(step := self.transforms[self._discrete], AsDiscreted):
            return None
        inversion = self.transforms[self._discrete - 1]
        if not isinstance(inversion, Invertd) or tuple(inversion.keys) != ("pred",) or tuple(step.keys) != ("pred",):
            return None
        others = (*step.to_onehot, *step.threshold, *step.rounding)
        plain = all(step.argmax) and all(other is None for other in others) and not step.converter.kwargs
        as_it_is = not any(inversion.nearest_interp) and not any(map(_changes, inversion.post_func))
        return self._discrete - 1 if plain and as_it_is else None

    def _before_inversion(self, data: dict[str, Any]) -> dict[str, Any]:
        """Run the transforms that precede it; a softmax takes no second copy of all channels."""
        for step in self.transforms[: self._inversion]:
            if isinstance(step, Activationsd) and _is_softmax(step) and data["pred"].is_floating_point():
                values = data["pred"].as_tensor() if isinstance(data["pred"], MetaTensor) else data["pred"]
                for part in values.unbind(1):
                    part.copy_(part.softmax(0))
            else:
                data = step(data)
        return data

    def _by_slices(self, data: dict[str, Any], back: Back, source: MetaTensor, *, probability: bool) -> Answer:
        values = data["pred"].as_tensor()
        labels = back.labels(values)
        found = None
        if probability:
            planes = [plane[0].cpu().numpy() for plane in back.planes(self._of_any(values))]
            found = checked_probability(np.stack(planes))
        rest = self.transforms[(self._discrete or 0) + 1 :]
        if not rest:
            small = labels.cpu().numpy()
            return Answer(small if small.dtype == np.uint8 else small.astype(np.uint16), found)
        whole = labels.permute(2, 1, 0)[None].float()
        data["pred"] = MetaTensor(whole, affine=source.affine, applied_operations=[])
        for step in rest:
            data = step(data)
        return Answer(labels_on(data["pred"], source), found)

    def _of_any(self, answer: torch.Tensor) -> torch.Tensor:
        """Return one channel, a new tensor: of channels of which one is true the sum, of those that overlap the most.

        A lone channel is that of the only segment.
        """
        if len(answer) == 1:
            return answer.clone()
        chosen = answer[self.channels_of(self._segments, len(answer))]
        return chosen.sum(0, keepdim=True) if self._is_argmax() else chosen.amax(0, keepdim=True)

    def _is_argmax(self) -> bool:
        step = self.transforms[self._discrete or 0]
        return bool(step.argmax[step.keys.index("pred")] if isinstance(step, AsDiscreted) else step.argmax)

    def _brought_back(self, chances: torch.Tensor, data: dict[str, Any]) -> torch.Tensor:
        """Invert what the bundle inverts only after it made labels."""
        for step in self.transforms[self._discrete :]:
            if isinstance(step, Invertd):
                linear = copy.copy(step)
                linear.nearest_interp = (False,) * len(step.keys)
                given: dict[Any, Any] = dict(data, pred=chances)
                chances = linear(given)["pred"]
        return chances


def _is_softmax(step: Activationsd) -> bool:
    """Say whether activations are a softmax over the channels and nothing else."""
    alone = all(step.softmax) and not any(step.sigmoid) and not any(step.other) and not step.converter.kwargs
    return alone and tuple(step.keys) == ("pred",)


def _changes(function: Callable[[Any], Any] | None) -> bool:
    """Say whether an inversion does something to what it brought back."""
    probe = object()
    return function is not None and function(probe) is not probe
