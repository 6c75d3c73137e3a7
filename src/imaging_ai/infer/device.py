"""Where a model runs: a CPU with so many threads, or one GPU."""

from __future__ import annotations

import os

import torch

from imaging_ai.errors import ConfigError

__all__ = ["choose_device", "gpu_memory"]


def choose_device(wanted: str = "auto", *, threads: int = 0) -> torch.device:
    """Return the device `wanted`: "cpu", "cuda", "cuda:1", or "auto" for the first GPU if there is one.

    `threads` bounds the threads that one operation uses on the CPU; 0 means one for each core that this process may
    use. It is set for the whole process.

    Raises
    ------
    ConfigError
        If there is no such device.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or usable)
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"device {wanted!r} is not known; use cpu, cuda, cuda:N or auto") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {wanted!r}: this machine has {torch.cuda.device_count()} GPUs; use cpu or auto")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {wanted!r} is not supported; use cpu, cuda, cuda:N or auto")
    if device.type == "cuda":  # the same kernels every time, so that the same image gives the same bytes
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return device


def gpu_memory(device: torch.device) -> tuple[int, int, int]:
    """Return the bytes of a GPU that this process holds, the most since it was asked last, and how many there are.

    What it does not use it gives back. All are 0 on a CPU.
    """
    if device.type != "cuda":
        return 0, 0, 0
    most = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_reserved(device), most, torch.cuda.get_device_properties(device).total_memory
