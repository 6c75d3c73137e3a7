"""How unlike what a model knows a series is: the Mahalanobis distance of the features that its own network computes.

The features are the mean over space, and over all windows and slices, of the deepest layer's answer, as Lee et al.
(NeurIPS 2018, "A simple unified framework for detecting out-of-distribution samples") take them of classifiers and
González et al. (Medical Image Analysis 82, 2022) of segmenters. They come out of the run itself and cost nothing more.
Features are heavy-tailed: each is brought to the logarithm of its size and to unit spread. There are few series:
the covariance is shrunk as Ledoit and Wolf have it (Journal of Multivariate Analysis 88, 2004).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imaging_ai.catalog import ModelEntry
from imaging_ai.errors import BundleInvalid, InputError

__all__ = ["Familiar", "Heard", "deepest_layer", "familiar_of", "fit", "listening", "read_familiar", "write_familiar"]

_FEWEST = 5
_USUAL = 95.0
_LEAST = 1e-6
#: Of the mean over all features. One that is silent in all series but one must not count more than all others together.
_QUIET_SIZE, _QUIET_SPREAD = 0.01, 0.25
_Vector = NDArray[np.float64]


class Heard:
    """What a layer answered, summed up; in whichever order, of whichever thread."""

    def __init__(self) -> None:
        self._pooled: list[torch.Tensor] = []

    def add(self, answer: Any) -> None:
        """Take in one answer ``[batch, channel, …]``."""
        if isinstance(answer, torch.Tensor) and answer.ndim >= 2:
            pooled = answer.detach().float().flatten(2).mean(2) if answer.ndim > 2 else answer.detach().float()
            self._pooled.append(pooled.double().cpu())

    @property
    def count(self) -> int:
        """How many windows or slices were heard."""
        return sum(len(rows) for rows in self._pooled)

    @property
    def features(self) -> _Vector | None:
        """The mean feature, None when the layer was not reached."""
        rows = torch.cat(self._pooled).sort(0).values if self._pooled else None
        return None if rows is None else np.asarray(rows.mean(0).numpy())


@contextmanager
def listening(network: torch.nn.Module, layer: str) -> Iterator[Heard]:
    """Listen to a layer of a network, by its name, while the block runs it.

    Raises
    ------
    BundleInvalid
        If the network has no such layer.
    """
    try:
        module = network.get_submodule(layer)
    except AttributeError as error:
        raise BundleInvalid(f"the network has no layer {layer!r} to take features of") from error
    heard = Heard()
    hook = module.register_forward_hook(lambda _module, _given, answer: heard.add(answer))
    try:
        yield heard
    finally:
        hook.remove()


def familiar_of(entry: ModelEntry) -> Familiar | None:
    """Read the statistics that come with a model; None when it has none.

    Raises
    ------
    BundleInvalid
        If they lie outside of the bundle, are missing or damaged.
    """
    if not entry.familiarity.statistics:
        return None
    file = (entry.path / entry.familiarity.statistics).resolve()
    if not file.is_relative_to(entry.path.resolve()):
        raise BundleInvalid(f"{entry.name}: {entry.familiarity.statistics} is outside of the bundle")
    return read_familiar(file)


@contextmanager
def deepest_layer(network: torch.nn.Module) -> Iterator[list[str]]:
    """Find, while the block runs the network, the last of the layers whose answer is smallest in space.

    The list has its name after the block.
    """
    smallest: list[tuple[int, str]] = []
    found: list[str] = []

    def note(name: str, answer: Any) -> None:
        if isinstance(answer, torch.Tensor) and answer.ndim > 2 and answer.shape[1] > 1:
            size = int(np.prod(answer.shape[2:]))
            if not smallest or size <= smallest[0][0]:
                smallest[:] = [(size, name)]

    leaves = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    hooks = [
        module.register_forward_hook(lambda _module, _given, answer, name=name: note(name, answer))
        for name, module in leaves
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        found[:] = [name for _, name in smallest]


@dataclass(frozen=True, slots=True, eq=False)
class Familiar:
    """The features of the series that a model knows: their mean, main directions, and how far they usually lie.

    Features count as ``sign(x) log(1 + |x| / size) / spread``. `directions` is ``[direction, feature]``, orthonormal,
    `variances` that of each; `rest` is the variance of every other direction. `usual` is the distance that a score of 1
    stands for, `count` the number of series.
    """

    layer: str
    size: _Vector
    spread: _Vector
    mean: _Vector
    directions: NDArray[np.float64]
    variances: _Vector
    rest: float
    usual: float
    count: int

    def score(self, features: _Vector) -> float:
        """Return how far features lie, 1 being as far as what is familiar usually lies at most.

        Raises
        ------
        BundleInvalid
            If there are not as many as the statistics have.
        """
        if features.shape != self.mean.shape:
            raise BundleInvalid(f"the layer {self.layer} gives {len(features)} features, not {len(self.mean)}")
        away = _compressed(features, self.size) / self.spread - self.mean
        along = self.directions @ away
        beside = max(0.0, float(away @ away - along @ along))
        return float(np.sqrt(np.sum(along**2 / self.variances) + beside / self.rest)) / self.usual


def _compressed(features: NDArray[np.float64], size: _Vector) -> NDArray[np.float64]:
    return np.asarray(np.sign(features) * np.log1p(np.abs(features) / size))


def fit(layer: str, features: Sequence[_Vector]) -> Familiar:
    """Describe what is familiar by the features of some series.

    Raises
    ------
    InputError
        If there are too few, or they do not differ.
    """
    if len(features) < _FEWEST:
        raise InputError(f"{len(features)} series are too few to know what is familiar; at least {_FEWEST} are needed")
    rows = np.stack(features)
    if not np.isfinite(rows).all() or np.allclose(rows, rows[0]):
        raise InputError("the features of all series are the same, or no numbers: nothing can be learnt of them")
    left_out = [_described(layer, np.delete(rows, k, axis=0)).score(row) for k, row in enumerate(rows)]
    return replace(_described(layer, rows), usual=float(np.percentile(left_out, _USUAL)))


def _described(layer: str, rows: NDArray[np.float64]) -> Familiar:
    """Return mean and shrunk covariance (Ledoit and Wolf 2004, lemmas 3.2 to 3.4), by its main directions."""
    size = np.abs(rows).mean(axis=0)
    size = np.maximum(size, _QUIET_SIZE * size.mean()) + _LEAST
    logs = _compressed(rows, size)
    spread = logs.std(axis=0)
    spread = np.maximum(spread, _QUIET_SPREAD * spread.mean()) + _LEAST
    mean = (logs / spread).mean(axis=0)
    away = logs / spread - mean
    count, features = away.shape
    _, singular, directions = np.linalg.svd(away, full_matrices=False)
    variances = singular**2 / count
    usual = float(variances.sum()) / features
    off = float(((variances - usual) ** 2).sum() + (features - len(variances)) * usual**2) / features
    lengths = (away**2).sum(axis=1)
    noise = float(lengths @ lengths / count - variances @ variances) / (count * features)
    shrinkage = min(1.0, max(noise / off, _LEAST)) if off else 1.0  # of one feature there is one direction
    shrunk = (1 - shrinkage) * variances + shrinkage * usual
    return Familiar(layer, size, spread, mean, directions, shrunk, shrinkage * usual, 1.0, count)


_ARRAYS = ("size", "spread", "mean", "directions", "variances")


def write_familiar(familiar: Familiar, file: Path) -> None:
    """Write the statistics as arrays of float32 (NumPy's npz), a few hundred kilobytes at most."""
    arrays = {name: getattr(familiar, name).astype(np.float32) for name in _ARRAYS}
    numbers = np.array([familiar.rest, familiar.usual, familiar.count], dtype=np.float64)
    with file.open("wb") as stream:
        np.savez_compressed(stream, layer=np.array(familiar.layer), numbers=numbers, **arrays)


def read_familiar(file: Path) -> Familiar:
    """Read what `write_familiar` wrote; nothing in the file is executed.

    Raises
    ------
    BundleInvalid
        If it is missing, damaged, or of no such statistics.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name].astype(np.float64) for name in _ARRAYS}
            layer, (rest, usual, count) = str(stored["layer"]), (float(number) for number in stored["numbers"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleInvalid(
            f"{file.name} has no statistics of features ({type(error).__name__}): models fit"
        ) from error
    shape = arrays["mean"].shape
    fits = len(shape) == 1 and arrays["size"].shape == arrays["spread"].shape == shape
    fits = fits and arrays["directions"].shape == (len(arrays["variances"]), *shape)
    positive = min(rest, usual, *arrays["variances"], *arrays["size"], *arrays["spread"]) > 0
    if not fits or not positive or not all(np.isfinite(one).all() for one in arrays.values()):
        raise BundleInvalid(f"{file.name}: its numbers are no statistics of features; make them anew by models fit")
    return Familiar(layer, rest=rest, usual=usual, count=int(count), **arrays)
