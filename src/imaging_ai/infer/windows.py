"""The network over an image, window by window where the bundle says so, with progress and a try in less memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers.inferer import Inferer, SlidingWindowInferer
from monai.utils.misc import fall_back_tuple

from imaging_ai.errors import ModelFailed

__all__ = ["Windows", "is_out_of_memory"]

logger = logging.getLogger(__name__)


def is_out_of_memory(error: Exception) -> bool:
    """Say whether torch ran out of memory; on a CPU it says so with a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


class Windows:
    """A bundle's inferer."""

    def __init__(self, inferer: Inferer, window_batch: int | None = None) -> None:
        self._inferer = inferer
        self.batch = window_batch or self.batch

    def __call__(
        self, image: torch.Tensor, network: torch.nn.Module, progress: Callable[[float], None]
    ) -> torch.Tensor:
        """Return the network's answer for ``[batch, channel, x, y, z]``; out of memory, try again window by window."""
        try:
            return self._infer(image, network, progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self.batch == 1:
                raise
            logger.warning("out of memory with %d windows at once; again with one", self.batch)
        # Outside of the handler, so that the traceback no longer holds the tensors of the first try.
        if image.is_cuda:
            torch.cuda.empty_cache()
        usual, self.batch = self.batch, 1
        try:
            return self._infer(image, network, progress)
        finally:
            self.batch = usual

    @property
    def batch(self) -> int:
        """How many windows go through the network at once."""
        return int(self._inferer.sw_batch_size) if isinstance(self._inferer, SlidingWindowInferer) else 1

    @batch.setter
    def batch(self, windows: int) -> None:
        if isinstance(self._inferer, SlidingWindowInferer):
            self._inferer.sw_batch_size = windows

    def _infer(self, image: torch.Tensor, network: torch.nn.Module, progress: Callable[[float], None]) -> torch.Tensor:
        total, done = self._count(image.shape[2:]) * len(image), 0

        def counted(windows: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal done
            answer = network(windows, *args, **kwargs)
            done += len(windows)
            progress(min(1.0, done / total))
            return answer

        answer = self._inferer(image, counted)
        while isinstance(answer, list | tuple):  # deep supervision: the first has full resolution
            answer = answer[0]
        if not isinstance(answer, torch.Tensor):
            raise ModelFailed(f"the network answered a {type(answer).__name__}, not an image")
        return answer

    def _count(self, shape: Sequence[int]) -> int:
        inferer = self._inferer
        if not isinstance(inferer, SlidingWindowInferer):
            return 1
        roi = fall_back_tuple(inferer.roi_size, shape)
        overlaps = inferer.overlap if isinstance(inferer.overlap, Sequence) else [inferer.overlap] * len(shape)
        total = 1
        for size, window, overlap in zip(shape, roi, overlaps, strict=False):
            step = max(1, int(window * (1 - overlap)))
            total *= max(1, math.ceil((max(size, window) - window) / step) + 1)
        return total
