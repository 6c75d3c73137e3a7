"""What happens when memory runs out: the same once more, with less of it at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from imaging_ai.errors import ModelFailed

__all__ = ["is_out_of_memory", "within_memory"]

logger = logging.getLogger(__name__)

Plan = TypeVar("Plan")
Answer = TypeVar("Answer")


def is_out_of_memory(error: Exception) -> bool:
    """Say whether torch ran out of memory; on a CPU it says so with a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def within_memory(plans: Iterable[Plan], run: Callable[[Plan], Answer], note: Callable[[str], None]) -> Answer:
    """Try one plan after the other until memory is enough; each that follows another is noted.

    Raises
    ------
    torch.OutOfMemoryError, RuntimeError, MemoryError
        If it is not enough for the last either.
    """
    last: Exception | None = None
    for plan in plans:
        if last is not None:
            note(f"out of memory; again with {plan}")
            logger.warning("out of memory; again with %s", plan)
        try:
            return run(plan)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            last = error.with_traceback(None)  # so that it no longer holds the tensors of this try
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    raise last or ModelFailed("there is no way to run the network")
