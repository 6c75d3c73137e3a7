"""The network over an image, window by window where the bundle says so: the windows and weights of MONAI, its answer.

MONAI's `sliding_window_inference` is repeated here for its usual options, so that an image goes through in bfloat16
where that gives the same answer, that windows which are the same throughout are run once, and that a run which is out
of memory goes on with less: fewer windows at once, then the answer put together in the memory of the processor, then
all of it on the processor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.inferer import Inferer, SlidingWindowInferer
from monai.utils.misc import ensure_tuple_rep, fall_back_tuple
from torch.nn import functional

from imaging_ai.errors import ModelFailed
from imaging_ai.infer.engine import fast_precision, in_precision
from imaging_ai.infer.resample import largest_channel

__all__ = ["Windows", "is_out_of_memory"]

logger = logging.getLogger(__name__)

_CPU = torch.device("cpu")
#: Windows at once on a GPU, where few leave it idle.
_GPU_WINDOWS = 16
#: An image of fewer windows is not worth looking at one of them twice.
_FEW = 8
#: The part of a window's labels that must stay the same in less precision (Dice over all labels but the first).
_SAME = 0.99

#: Every how many voxels are looked at to find that window.
_COARSE = 4

Progress = Callable[[float], None]


def is_out_of_memory(error: Exception) -> bool:
    """Say whether torch ran out of memory; on a CPU it says so with a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


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


class Windows:
    """A bundle's inferer. `notes` tell how the last image went through, where that was not as usual."""

    def __init__(self, inferer: Inferer, window_batch: int | None = None, precision: str = "float32") -> None:
        self._inferer = inferer
        self._wanted = window_batch
        self._precision = precision
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
        self._note(f"{str(precision)[6:]} agrees with float32 by a Dice of {agreement:.4f} in the fullest window")
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
        """Try one plan after the other until memory is enough."""
        last: Exception | None = None
        for plan in self._plans(image.device, precision):
            if last is not None:
                self._note(f"out of memory; again with {plan}")
                logger.warning("out of memory; again with %s", plan)
            last = None
            try:
                return self._infer(image, network, progress, plan)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                last = error.with_traceback(None)  # so that it no longer holds the tensors of this try
            if image.is_cuda:
                torch.cuda.empty_cache()
        raise last or ModelFailed("there is no way to run the network")

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
        """Return the Dice between both precisions in the window that holds the most of what is not background."""
        grid = _Grid.of(self._inferer, image.shape[2:])
        if grid is None:
            return 0.0
        where = grid.fullest(answer)
        window = grid.padded(image)[0][(slice(None), *where)][None]
        decided = []
        for kind in (precision, torch.float32):
            with in_precision(image.device, kind):
                decided.append(_decided(_first(network(_laid_out(window)))[0].float()))
        one, other = decided
        either = int(torch.count_nonzero(one)) + int(torch.count_nonzero(other))
        return 2 * int(torch.count_nonzero((one == other) & (one != 0))) / either if either else 1.0


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

    def fullest(self, answer: torch.Tensor) -> tuple[slice, ...]:
        """Return the window with the most voxels that are not background in ``[1, channel, x, y(, z)]``."""
        coarse = _decided(answer[0][(slice(None), *[slice(None, None, _COARSE)] * len(self.shape))])
        starts = [(n - m) // 2 for n, m in zip(self.size, self.shape, strict=True)]

        def full(window: tuple[slice, ...]) -> int:
            inside = [
                slice(max(0, part.start - start) // _COARSE, max(0, part.stop - start) // _COARSE)
                for part, start in zip(window, starts, strict=True)
            ]
            return int(torch.count_nonzero(coarse[tuple(inside)]))

        return max(self.windows, key=full)

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
        for start in range(0, len(groups), plan.batch):
            some = groups[start : start + plan.batch]
            given = torch.stack([image[0][(slice(None), *alike[0])] for alike in some])
            answers = _first(network(_laid_out(given.to(plan.device)))).to(plan.stitch)
            if answers.shape[2:] != weight.shape:
                return None
            if total is None:
                total = torch.zeros((1, answers.shape[1], *self.size), device=plan.stitch)
            for alike, answer in zip(some, answers, strict=True):
                for window in alike:
                    total[0][(slice(None), *window)].addcmul_(answer.float(), weight)
            progress((start + len(some)) / len(groups))
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


def _laid_out(windows: torch.Tensor) -> torch.Tensor:
    """Return windows with their channels next to each other, as convolutions read them fastest."""
    if windows.ndim == 5:
        return windows.contiguous(memory_format=torch.channels_last_3d)
    return windows.contiguous(memory_format=torch.channels_last) if windows.ndim == 4 else windows


def _decided(answer: torch.Tensor) -> torch.Tensor:
    """Return which channel of ``[channel, x, y(, z)]`` is the largest; of a lone one, where it is positive."""
    return largest_channel(answer) if len(answer) > 1 else (answer[0] > 0).to(torch.uint8)


def _first(answer: Any) -> torch.Tensor:
    """Return the answer of full resolution: with deep supervision it is the first."""
    while isinstance(answer, list | tuple):
        answer = answer[0]
    if not isinstance(answer, torch.Tensor):
        raise ModelFailed(f"the network answered a {type(answer).__name__}, not an image")
    return answer
