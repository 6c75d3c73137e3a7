"""What an explanation needs of a network: one number for each input, gradients that are right, its layers in order."""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from imaging_ai.errors import ModelFailed

__all__ = ["Layer", "Score", "Scored", "class_score", "coarsest", "explainable", "region_score", "trace"]

#: From what a network answers to one number for each of the batch.
Score = Callable[[Any], torch.Tensor]
#: What a pass keeps besides the outputs of its layers: sums, concatenations, gradients.
_BESIDES = 2.0


class Scored(torch.nn.Module):
    """A network that answers one number for each input, ``[batch]``."""

    def __init__(self, network: torch.nn.Module, score: Score) -> None:
        super().__init__()
        self.network = network
        self.score = score

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[batch]`` for ``[batch, channel, x, y(, z)]``."""
        return self.score(self.network(inputs))


def class_score(channel: int, activation: str = "none", pick: Callable[[Any], torch.Tensor] | None = None) -> Score:
    """Score by a class of ``[batch, class]``, which `pick` finds in an answer: its logit, or with an activation."""
    return lambda answer: _activated((pick or _first)(answer), activation)[:, channel]


def region_score(channel: int, mask: torch.Tensor, activation: str = "none") -> Score:
    """Score by the mean of a channel over a region ``[x, y(, z)]`` (Seg-Grad-CAM, Vinogradova et al. 2020).

    An answer of one channel has no other; `activation` makes probabilities of logits.
    """
    weights = mask.float() / mask.sum().clamp(min=1)

    def score(answer: Any) -> torch.Tensor:
        image = _activated(_first(answer), activation)
        one = image[:, channel if image.shape[1] > 1 else 0]
        return (one * weights.to(one.device)).flatten(1).sum(1)

    return score


def _first(answer: Any) -> torch.Tensor:
    while isinstance(answer, list | tuple):  # deep supervision: the first has full resolution
        answer = answer[0]
    if not isinstance(answer, torch.Tensor):
        raise ModelFailed(f"the network answers a {type(answer).__name__}, which no explanation reads")
    return answer


def _activated(logits: torch.Tensor, activation: str) -> torch.Tensor:
    if activation == "none":
        return logits
    if activation == "softmax" and logits.shape[1] > 1:
        return logits.softmax(1)
    return logits.sigmoid()


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that was called once: its name, and the grid of what it answers."""

    name: str
    grid: tuple[int, ...]


@contextmanager
def explainable(network: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Lend a network in 32-bit floats, with gradients, whose activations do not overwrite what these need."""
    if any(one.is_floating_point() and one.dtype != torch.float32 for one in network.parameters()):
        network = copy.deepcopy(network).float()
    in_place = [layer for layer in network.modules() if getattr(layer, "inplace", False) is True]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # captum tells of its hooks, which it takes away again
        for layer in in_place:
            layer.inplace = False  # type: ignore[assignment]
            stack.callback(setattr, layer, "inplace", True)
        yield network


def trace(network: torch.nn.Module, inputs: torch.Tensor) -> tuple[list[Layer], int]:
    """Run a network once; return the layers that it called once, as they ended, and the bytes that a pass takes."""
    calls: Counter[str] = Counter()
    layers: list[Layer] = []
    taken = inputs.numel() * inputs.element_size()

    def noted(name: str, is_leaf: bool) -> Callable[..., None]:
        def note(_: torch.nn.Module, __: Any, output: Any) -> None:
            nonlocal taken
            calls[name] += 1
            if isinstance(output, torch.Tensor):
                layers.append(Layer(name, tuple(output.shape[2:])))
                taken += output.numel() * output.element_size() * is_leaf

        return note

    hooks = [
        module.register_forward_hook(noted(name, not any(module.children())))
        for name, module in network.named_modules()
    ]
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [layer for layer in layers if calls[layer.name] == 1], int(taken * _BESIDES)


def coarsest(layers: list[Layer], dimensions: int) -> str:
    """Choose the layer for Grad-CAM: the last on the coarsest grid that still tells places apart.

    In a classifier that is the last one before its pooling (Selvaraju et al. 2017), in a U-Net the bottom
    (Vinogradova et al. 2020).

    Raises
    ------
    ModelFailed
        If no layer answers an image.
    """
    images = [layer for layer in layers if len(layer.grid) == dimensions and math.prod(layer.grid) > 1]
    if not images:
        raise ModelFailed("no layer of the network answers an image: Grad-CAM needs one; name it by [explain] layer")
    least = min(math.prod(layer.grid) for layer in images)
    return [layer.name for layer in images if math.prod(layer.grid) == least][-1]
