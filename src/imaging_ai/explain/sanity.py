"""Whether an explanation can be trusted: does what it marks make the answer, and does it depend on what was learned?

Insertion and deletion (Petsiuk et al. 2018): the answer as the voxels that are said to matter most are put into the
baseline first, or taken away first, against the same in random orders. Randomisation of the model (Adebayo et al.
2018): the map again as the layers lose what they learned, from the last to the first; a map that stays as it was shows
the image and not the model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from skimage.metrics import structural_similarity

from imaging_ai.explain.network import Score, Scored, trace

__all__ = ["Curves", "Similarity", "curves", "randomised"]

#: How finely an input is cut into blocks that come and go together.
_BLOCKS = {2: 16, 3: 12}
_STEPS, _RANDOM_ORDERS = 8, 2


@dataclass(frozen=True, slots=True)
class Curves:
    """Areas under the curves of the score, from 0 to 1 of the voxels, and the mean of the random orders."""

    insertion: float
    deletion: float
    random_insertion: float
    random_deletion: float

    @property
    def margin(self) -> float:
        """How much better than chance it is, at its worse end; only above 0 does the map say what the network uses."""
        return min(self.insertion - self.random_insertion, self.random_deletion - self.deletion)


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike two maps are once `layers` layers, counted from the answer, have forgotten; signs count."""

    layers: int
    rank_correlation: float
    ssim: float


def curves(
    network: torch.nn.Module,
    inputs: torch.Tensor,
    attribution: torch.Tensor,
    probability: Score,
    baseline: torch.Tensor,
    at_once: int,
) -> Curves:
    """Insert and delete in the order of `attribution` ``[x, y(, z)]``, and in random orders.

    `probability` is from 0 to 1, for logits may rise without an end.
    """
    scored = Scored(network, probability)
    blocks = _blocks(tuple(inputs.shape[2:]))
    rng = np.random.default_rng(0)
    count = int(blocks.max()) + 1
    total = np.bincount(blocks.ravel(), attribution.detach().cpu().double().numpy().ravel(), count)
    weight = total / np.bincount(blocks.ravel(), minlength=count)
    shuffled = rng.permutation(count)  # blocks that weigh the same come in a random order
    orders = [shuffled[np.argsort(-weight[shuffled], kind="stable")]]
    orders += [rng.permutation(count) for _ in range(_RANDOM_ORDERS)]
    ends = _scores(scored, iter([baseline, inputs]), at_once)
    areas: list[tuple[float, float]] = []
    for order in orders:
        rank = np.empty(count, int)
        rank[order] = np.arange(count)
        places = torch.from_numpy(rank[blocks]).to(inputs.device)
        inserted = _scores(scored, _mixed(baseline, inputs, places, count), at_once)
        deleted = _scores(scored, _mixed(inputs, baseline, places, count), at_once)
        areas.append((_area([ends[0], *inserted, ends[1]]), _area([ends[1], *deleted, ends[0]])))
    chance = np.mean(areas[1:], axis=0)
    return Curves(*areas[0], *map(float, chance))


def _blocks(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Number the blocks of a grid."""
    most = _BLOCKS[len(shape)]
    axes = [np.arange(size) * min(size, most) // size for size in shape]
    numbers: NDArray[np.intp] = np.zeros((1,) * len(shape), np.intp)
    for axis, places in enumerate(axes):
        numbers = numbers * (places.max() + 1) + places.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return numbers


def _mixed(below: torch.Tensor, above: torch.Tensor, places: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Yield `below` with the first blocks of `above`, more and more of them."""
    for step in range(1, _STEPS):
        yield torch.where(places < round(count * step / _STEPS), above, below)


def _scores(scored: Scored, inputs: Iterator[torch.Tensor], at_once: int) -> list[float]:
    told: list[float] = []
    waiting: list[torch.Tensor] = []
    with torch.no_grad():
        for one in inputs:
            waiting.append(one)
            if len(waiting) == at_once:
                told += scored(torch.cat(waiting)).tolist()
                waiting = []
        if waiting:
            told += scored(torch.cat(waiting)).tolist()
    return told


def _area(scores: list[float]) -> float:
    return float(np.trapezoid(scores, dx=1 / (len(scores) - 1)))


def randomised(
    network: torch.nn.Module,
    inputs: torch.Tensor,
    explain: Callable[[torch.nn.Module], torch.Tensor],
    stages: int = 4,
) -> tuple[Similarity, ...]:
    """Explain again and again while the layers forget, from the last to the first, in so many stages.

    `explain` makes the map ``[x, y(, z)]`` of a network. The network itself is left as it is.
    """
    first = _numbers(explain(network))
    forgetting = copy.deepcopy(network)
    names = [layer.name for layer in trace(forgetting, inputs)[0]]
    modules = dict(forgetting.named_modules())
    learned = [modules[name] for name in reversed(names) if any(True for _ in modules[name].parameters(recurse=False))]
    found = []
    done = 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for stage in range(1, stages + 1):
            upto = max(1, round(len(learned) * (stage / stages) ** 2))  # the last layers one by one, the first in heaps
            if upto == done:
                continue
            for layer in learned[done:upto]:
                _forget(layer)
            done = upto
            found.append(_similarity(done, first, _numbers(explain(forgetting))))
    return tuple(found)


def _forget(layer: torch.nn.Module) -> None:
    """Give a layer the weights that it began with, or numbers of the same mean and spread."""
    reset = getattr(layer, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for parameter in layer.parameters(recurse=False):
        spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
        torch.nn.init.normal_(parameter, float(parameter.mean()), spread)


def _numbers(values: torch.Tensor) -> NDArray[np.float64]:
    return values.detach().cpu().double().numpy()


def _similarity(layers: int, one: NDArray[np.float64], other: NDArray[np.float64]) -> Similarity:
    ranks = [rankdata(values) for values in (one, other)]
    constant = any(np.ptp(values) == 0 for values in ranks)
    correlation = 0.0 if constant else float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    scaled = [values / max(np.abs(values).max(), 1e-30) for values in (one, other)]
    window = min(7, *(size - (size + 1) % 2 for size in one.shape))
    compare: Any = structural_similarity
    alike = float(compare(*scaled, data_range=1.0, win_size=window)) if window >= 3 else correlation
    return Similarity(layers, correlation, alike)
