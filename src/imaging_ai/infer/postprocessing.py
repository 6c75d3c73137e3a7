"""A bundle's postprocessing, from the network's answer to labels, and the probabilities that it passes on the way.

Probabilities are what stands before `AsDiscreted`. Mostly they are on the source grid by then and cost a copy; where
labels go back to it and not probabilities, one channel of these goes back as well, interpolated.
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
from monai.transforms.post.dictionary import AsDiscreted, Invertd
from numpy.typing import NDArray

from imaging_ai.errors import ModelFailed
from imaging_ai.infer.tensors import Prediction, labels_on, probability_on

__all__ = ["Answer", "Postprocessing"]


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

    def __call__(self, data: dict[str, Any], source: MetaTensor, *, probability: bool) -> Answer:
        """Return what `data["pred"]` says, on the grid of `source`.

        Raises
        ------
        ModelFailed
            If it says nothing sensible, or nothing that is a probability where one is asked for.
        """
        if not probability:
            return Answer(labels_on(self._run(data)["pred"], source))
        if self._discrete is None or not isinstance(self._run, Compose):
            raise ModelFailed("the postprocessing has no AsDiscreted: what would be a probability is not known")
        data = self._run(data, end=self._discrete)
        chances = self._brought_back(self._of_any(data["pred"]), data)
        found = probability_on(chances, source)
        return Answer(labels_on(self._run(data, start=self._discrete)["pred"], source), found)

    def _of_any(self, answer: torch.Tensor) -> torch.Tensor:
        """Return one channel, a new tensor: of channels of which one is true the sum, of those that overlap the most.

        A lone channel is that of the only segment.
        """
        if len(answer) == 1:
            return answer.clone()
        chosen = answer[self._segments]
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
