"""How near a network runs to what its device can do: operations and bytes of its kernels against measured peaks.

A kernel cannot end sooner than its operations take at the peak of the device, or its inputs and outputs at the peak of
the memory (Williams et al., 2009). The peaks are measured: a large product of matrices, a large copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from imaging_ai.infer.engine import fast_precision, in_precision, laid_out


class _Bytes(TorchDispatchMode):
    """Count what the kernels read and write; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [one for one in tree_flatten((args, kwargs, answer))[0] if isinstance(one, torch.Tensor)]
            self.total += sum(one.numel() * one.element_size() for one in tensors)
        return answer


def roofline(network: torch.nn.Module, windows: torch.Tensor) -> dict[str, float]:
    """Return milliseconds for `windows`, measured and at least, and the operations and bytes behind that."""
    device, precision, windows = windows.device, fast_precision(windows.device), laid_out(windows)
    with torch.inference_mode(), in_precision(device, precision):
        seconds = _best(lambda: network(windows), device)
        with FlopCounterMode(display=False) as operations:
            network(windows)
        with _Bytes() as moved:
            network(windows)
    size = 8192 if device.type == "cuda" else 2048
    one = torch.randn(size, size, device=device, dtype=precision)
    peak = 2 * size**3 / _best(lambda: one @ one, device)
    large = torch.empty((1 << 32 if device.type == "cuda" else 1 << 28), dtype=torch.uint8, device=device)
    bandwidth = 2 * large.numel() / _best(large.clone, device)
    flops = operations.get_total_flops()
    least = max(flops / peak, moved.total / bandwidth)
    return {
        "windows": len(windows),
        "ms": seconds * 1e3,
        "least_ms": least * 1e3,
        "part_of_roofline": least / seconds,
        "gflop": flops / 1e9,
        "gigabytes": moved.total / 1e9,
        "peak_tflops": peak / 1e12,
        "bandwidth_gb_per_s": bandwidth / 1e9,
    }


def _best(work: Callable[[], object], device: torch.device, repeat: int = 5) -> float:
    seconds = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
