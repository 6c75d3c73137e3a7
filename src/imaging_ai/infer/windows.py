"""The network over an image, window by window where the bundle says so: the windows and weights of MONAI, its answer.

MONAI's `sliding_window_inference` is repeated here for its usual options, so that an image goes through in bfloat16
where that gives the same answer, that windows which are the same throughout are run once, and that a run which is out
of memory goes on with less: fewer windows at once, then the answer put together in the memory of the processor, then
all of it on the processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.inferer import Inferer, SlidingWindowInferer
from monai.utils.misc import ensure_tuple_rep, fall_back_tuple
from torch.nn import functional

from imaging_ai.errors import ModelFailed
from imaging_ai.infer.engine import fast_precision, in_precision, laid_out
from imaging_ai.infer.lanes import answers, unheard
from imaging_ai.infer.memory import is_out_of_memory, within_memory
from imaging_ai.infer.resample import largest_channel

__all__ = ["Windows"]

_CPU = torch.device("cpu")
#: Windows at once on a GPU, where few leave it idle.
_GPU_WINDOWS = 16
#: An image of fewer windows is not worth looking at one of them twice.
_FEW = 8
#: The part of the labels that must stay the same in less precision (Dice over all labels but the first).
_SAME = 0.99
#: The same for each label by itself, of those that have at least so many voxels: a lesion in a large organ counts.
_SAME_EACH, _VOXELS = 0.95, 200
#: Every how many voxels are looked at to find where labels change most.
_COARSE = 4

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How an image goes through: windows at once, where they run, where their answers are put together."""

    batch: int
    device: torch.device
    stitch: torch.device
    precision: torch.dtype

    def __str__(self) -> str:
        where = "" if self.stitch == self.device else f", put together on the {self.stitch.type}"
        return f"{self.batch} window{'s' * (self.batch > 1)} at once on the {self.device.type}{where}"

    def lanes(self, windows: int) -> int:
        """Return how many threads share what is at once: one for each core, and none that has nothing to do."""
        return max(1, min(torch.get_num_threads(), self.batch, windows)) if self.device.type == "cpu" else 1

    def ask(self, network: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
        """Return the answer of a network to ``[batch, channel, x, y(, z)]`` where it is put together."""
        with in_precision(self.device, self.precision):
            return _first(network(laid_out(windows.to(self.device)))).to(self.stitch)


class Windows:
    """A bundle's inferer. `notes` tell how the last image went through, where that was not as usual.

    `overlapping` says that each channel is a label of its own, and not the largest of them the label.
    """

    def __init__(
        self,
        inferer: Inferer,
        window_batch: int | None = None,
        precision: str = "float32",
        *,
        overlapping: bool = False,
    ) -> None:
        self._inferer = inferer
        self._wanted = window_batch
        self._precision = precision
        self._overlapping = overlapping
        self.notes: tuple[str, ...] = ()

    def __call__(self, image: torch.Tensor, network: torch.nn.Module, progress: Progress) -> torch.Tensor:
        """Return the network's answer for ``[1, channel, x, y(, z)]``, on the device that could hold it.

        Raises
        ------
        torch.OutOfMemoryError, RuntimeError, MemoryError
            If memory ran out with one window at once too.
        """
        self.notes = ()
        precision = self._first_precision(image)
        answer = self._within_memory(image, network, progress, precision)
        if precision == torch.float32 or self._precision != "auto":
            return answer
        agreement = self._agreement(image, network, answer, precision)
        self._note(f"{str(precision)[6:]} agrees with float32 by a Dice of {agreement:.4f} where labels change most")
        if agreement >= _SAME:
            return answer
        self._note("too little: all of it ran in float32")
        del answer
        return self._within_memory(image, network, progress, torch.float32)

    def _note(self, sentence: str) -> None:
        self.notes = (*self.notes, sentence)

    def _first_precision(self, image: torch.Tensor) -> torch.dtype:
        if self._precision != "auto":
            return torch.bfloat16 if self._precision == "bfloat16" else torch.float32
        grid = _Grid.of(self._inferer, image.shape[2:])
        return fast_precision(image.device) if grid is not None and len(grid.windows) >= _FEW else torch.float32

    def _within_memory(
        self, image: torch.Tensor, network: torch.nn.Module, progress: Progress, precision: torch.dtype
    ) -> torch.Tensor:
        plans = self._plans(image.device, precision)
        return within_memory(plans, lambda plan: self._infer(image, network, progress, plan), self._note)

    def _plans(self, device: torch.device, precision: torch.dtype) -> Iterator[_Plan]:
        on_gpu = device.type == "cuda"
        batch = max(self.batch, _GPU_WINDOWS) if on_gpu and not self._wanted else self.batch
        while batch > 1:
            yield _Plan(batch, device, device, precision)
            batch //= 2
        yield _Plan(1, device, device, precision)
        if on_gpu:
            yield _Plan(1, device, _CPU, precision)
            yield _Plan(1, _CPU, _CPU, torch.float32)

    @property
    def batch(self) -> int:
        """How many windows the bundle or `window_batch` lets through the network at once."""
        if not isinstance(self._inferer, SlidingWindowInferer):
            return 1
        return self._wanted or int(self._inferer.sw_batch_size)

    def _infer(self, image: torch.Tensor, network: torch.nn.Module, progress: Progress, plan: _Plan) -> torch.Tensor:
        moved = plan.device != image.device
        if moved:
            network.to(plan.device)
        try:
            with in_precision(plan.device, plan.precision):
                grid = _Grid.of(self._inferer, image.shape[2:])
                found = grid.stitched(image, network, progress, plan) if grid is not None else None
                return self._as_monai(image, network, progress, plan) if found is None else found
        finally:
            if moved:
                network.to(image.device)

    def _as_monai(self, image: torch.Tensor, network: torch.nn.Module, progress: Progress, plan: _Plan) -> torch.Tensor:
        """Run an inferer of another kind, or a network of another resolution, as MONAI does."""
        inferer, done = self._inferer, 0
        if isinstance(inferer, SlidingWindowInferer):
            inferer.sw_batch_size = plan.batch

        def counted(windows: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal done
            answer = network(windows, *args, **kwargs)
            done += len(windows)
            progress(done / (done + 1))
            return answer

        answer = inferer(image.to(plan.device), counted)
        progress(1.0)
        return _first(answer).float()

    def _agreement(
        self, image: torch.Tensor, network: torch.nn.Module, answer: torch.Tensor, precision: torch.dtype
    ) -> float:
        """Return the Dice between both precisions in the part of the image whose labels change most.

        It is half a window along each axis; of a network that reads no such part, a whole one.
        """
        grid = _Grid.of(self._inferer, image.shape[2:])
        if grid is None:
            return 0.0
        padded, network = grid.padded(image), unheard(network)
        share = self._share(answer[0][(slice(None), *[slice(None, None, _COARSE)] * len(grid.shape))])
        for parts in (2, 1):
            some = laid_out(padded[0][(slice(None), *grid.most_divided(share, parts))][None])
            try:
                return _dice_at_worst(*(self._labels(network, some, kind) for kind in (precision, torch.float32)))
            except Exception as error:  # the edge to the network: it refuses a size as it likes
                if parts == 1 or is_out_of_memory(error):
                    raise
        return 0.0

    def _share(self, answer: torch.Tensor) -> torch.Tensor:
        """Say how much each voxel of ``[channel, x, y(, z)]`` belongs to a label, from 0 to 1."""
        return 1 - answer.softmax(0)[0] if self._one_of(answer) else answer.sigmoid().amax(0)

    def _labels(self, network: torch.nn.Module, windows: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
        """Return a network's labels of the first of some windows in a precision; of channels that overlap, each."""
        with in_precision(windows.device, precision):
            answer = _first(network(windows))[0].float()
        if self._one_of(answer):
            return largest_channel(answer)
        low, high = answer.aminmax()
        return answer > (0.5 if low >= 0 and high <= 1 else 0)  # probabilities, or their logits

    def _one_of(self, answer: torch.Tensor) -> bool:
        return len(answer) > 1 and not self._overlapping


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """The windows of an image, as MONAI's sliding window lays them."""

    inferer: SlidingWindowInferer
    shape: tuple[int, ...]
    roi: tuple[int, ...]
    size: tuple[int, ...]
    windows: Sequence[tuple[slice, ...]]

    @classmethod
    def of(cls, inferer: Inferer, shape: Sequence[int]) -> _Grid | None:
        """Lay the windows; None for inferers of another kind."""
        if type(inferer) is not SlidingWindowInferer or not _is_usual(inferer):
            return None
        roi = tuple(int(n) for n in fall_back_tuple(inferer.roi_size, shape))
        if len(roi) != len(shape):
            return None
        size = tuple(max(n, window) for n, window in zip(shape, roi, strict=True))
        overlaps = ensure_tuple_rep(inferer.overlap, len(shape))
        steps = [
            window if window == n else max(1, int(window * (1 - overlap)))
            for n, window, overlap in zip(size, roi, overlaps, strict=True)
        ]
        return cls(inferer, tuple(shape), roi, size, dense_patch_slices(size, roi, steps, return_slice=True))

    def padded(self, image: torch.Tensor) -> torch.Tensor:
        """Return the image, at least as large as a window."""
        if self.size == self.shape:
            return image
        ends = [((n - m) // 2, n - m - (n - m) // 2) for n, m in zip(self.size, self.shape, strict=True)]
        flat = [end for pair in reversed(ends) for end in pair]
        return functional.pad(image, flat, mode=str(self.inferer.padding_mode), value=self.inferer.cval)

    def cropped(self, answer: torch.Tensor) -> torch.Tensor:
        """Undo `padded`."""
        starts = [(n - m) // 2 for n, m in zip(self.size, self.shape, strict=True)]
        inside = [slice(start, start + m) for start, m in zip(starts, self.shape, strict=True)]
        return answer[0][(slice(None), *inside)][None]

    def most_divided(self, share: torch.Tensor, parts: int) -> tuple[slice, ...]:
        """Return where in `padded` labels change most: a window, each side divided by `parts`.

        `share` says of every few voxels ``[x, y(, z)]`` how much they belong to a label. Where the rarer of the two,
        background and all else, is most frequent, there is most to get wrong.
        """
        side = [max(1, n // parts) for n in self.roi]
        size = [max(1, min(n // _COARSE, m)) for n, m in zip(side, share.shape, strict=True)]
        pool = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}[share.ndim]
        step = [max(1, n // 4) for n in size]
        mean = pool(share[None, None], size, step)[0, 0]
        corner = torch.unravel_index(torch.minimum(mean, 1 - mean).argmax(), mean.shape)
        missing = [(n - m) // 2 for n, m in zip(self.size, self.shape, strict=True)]
        starts = [
            min(int(at) * apart * _COARSE + before, n - wide)
            for at, apart, before, n, wide in zip(corner, step, missing, self.size, side, strict=True)
        ]
        return tuple(slice(start, start + wide) for start, wide in zip(starts, side, strict=True))

    def stitched(
        self, image: torch.Tensor, network: torch.nn.Module, progress: Progress, plan: _Plan
    ) -> torch.Tensor | None:
        """Return the mean of the windows' answers, by their weights; None for answers of another size."""
        image = self.padded(image)
        weight = compute_importance_map(
            self.roi, mode=self.inferer.mode, sigma_scale=self.inferer.sigma_scale, device=plan.stitch
        )
        total: torch.Tensor | None = None
        groups = self._alike(image)
        lanes = plan.lanes(len(groups))
        some = [groups[k : k + plan.batch // lanes] for k in range(0, len(groups), plan.batch // lanes)]
        given = (torch.stack([image[0][(slice(None), *alike[0])] for alike in batch]) for batch in some)
        with closing(answers(network, given, plan.ask, lanes)) as found:
            for done, (batch, windows) in enumerate(zip(some, found, strict=True), start=1):
                if windows.shape[2:] != weight.shape:
                    return None
                if total is None:
                    total = torch.zeros((1, windows.shape[1], *self.size), device=plan.stitch)
                for alike, answer in zip(batch, windows, strict=True):
                    for window in alike:
                        total[0][(slice(None), *window)].addcmul_(answer.float(), weight)
                progress(done / len(some))
        if total is None:
            return None
        count = torch.zeros(self.size, device=plan.stitch)
        for window in self.windows:
            count[window] += weight
        return self.cropped(total.div_(count))

    def _alike(self, image: torch.Tensor) -> list[list[tuple[slice, ...]]]:
        """Group the windows by what they hold: mostly each is alone, but air is the same wherever it is.

        Those are alike whose channels have one and the same value throughout.
        """
        axes = tuple(range(1, image.ndim - 1))
        parts = (image[0][(slice(None), *window)] for window in self.windows)
        ends = torch.stack([torch.stack([part.amin(axes), part.amax(axes)]) for part in parts]).tolist()
        groups: dict[object, list[tuple[slice, ...]]] = {}
        for k, (window, (low, high)) in enumerate(zip(self.windows, ends, strict=True)):
            groups.setdefault(tuple(low) if low == high else k, []).append(window)
        return list(groups.values())


def _is_usual(inferer: SlidingWindowInferer) -> bool:
    """Say whether an inferer has none of the options that are not repeated here."""
    places = (inferer.device, inferer.sw_device, inferer.buffer_steps, inferer.cpu_thresh, inferer.roi_weight_map)
    return all(place is None for place in places) and not inferer.with_coord


def _dice_at_worst(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the Dice over all labels but the first, or that of a label that agrees worse than it may by itself."""
    if one.dtype == torch.bool:
        each = [_dice(*pair) for pair in zip(one, other, strict=True) if _voxels(*pair) >= _VOXELS]
    else:
        each = [
            _dice(one == value, other == value)
            for value in range(1, int(torch.maximum(one, other).max()) + 1)
            if _voxels(one == value, other == value) >= _VOXELS
        ]
    worst = min(each, default=1.0)
    return min(worst, _dice(one, other)) if worst < _SAME_EACH else _dice(one, other)


def _voxels(one: torch.Tensor, other: torch.Tensor) -> int:
    """Return how many voxels the larger of two masks has."""
    return max(int(torch.count_nonzero(one)), int(torch.count_nonzero(other)))


def _dice(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the Dice over all labels but the first; 1 where there are no others."""
    either = int(torch.count_nonzero(one)) + int(torch.count_nonzero(other))
    return 2 * int(torch.count_nonzero((one == other) & (one != 0))) / either if either else 1.0


def _first(answer: Any) -> torch.Tensor:
    """Return the answer of full resolution: with deep supervision it is the first."""
    while isinstance(answer, list | tuple):
        answer = answer[0]
    if isinstance(answer, Mapping):
        raise ModelFailed(f"the network answers several things by name ({', '.join(map(str, answer))}), not one image")
    if not isinstance(answer, torch.Tensor):
        raise ModelFailed(f"the network answered a {type(answer).__name__}, not an image")
    return answer
