"""A network made ready to run fast, in place, with the same answer; and how exact its arithmetic must be.

In evaluation a batch normalisation is a scale and a shift by channel, so it goes into the weights of the convolution
before it (Jacob et al., 2018, section 3.2). Layers of few channels are arranged so that they fill the vectors of a
processor (`layers.py`). Convolutions run faster on channels that lie next to each other. Processors with instructions
for bfloat16 multiply two to ten times as many of them as of float32; whether an answer stays the same by them is seen
on each image (`windows.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from imaging_ai.infer.layers import Doubling, Runs

__all__ = ["fast_precision", "in_precision", "laid_out", "make_ready"]

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMALISATIONS = (nn.BatchNorm2d, nn.BatchNorm3d)
#: What passes its input on, in evaluation.
_SILENT = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def make_ready(network: nn.Module, *, channels_last: bool) -> None:
    """Fold normalisations and arrange weights of a network in evaluation; its answer changes by rounding only."""
    uses = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    for module in list(network.modules()):
        if type(module).forward is nn.Sequential.forward and uses[id(module)] == 1:
            _fold_within(list(_in_order(module)), uses)
    for owner in list(network.modules()):
        for name, layer in list(owner.named_children()):
            if not _is_itself(layer):
                continue
            if type(layer) is nn.ConvTranspose3d and Doubling.fits(layer):
                setattr(owner, name, Doubling(layer))
            elif type(layer) is nn.Conv3d and Runs.fits(layer):
                setattr(owner, name, Runs(layer))
    if channels_last:
        for parameter in network.parameters():
            if parameter.ndim in (4, 5):
                layout = torch.channels_last if parameter.ndim == 4 else torch.channels_last_3d
                parameter.data = parameter.data.contiguous(memory_format=layout)


def _in_order(sequence: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield the layers of a sequence in the order of their run, those of sequences in it too, with where they are."""
    for name, layer in sequence.named_children():
        if type(layer).forward is nn.Sequential.forward and not layer._forward_hooks:
            yield from _in_order(layer)
        else:
            yield sequence, name, layer


def _fold_within(layers: list[tuple[nn.Module, str, nn.Module]], uses: Counter[int]) -> None:
    before: nn.Module | None = None
    for owner, name, layer in layers:
        if (
            isinstance(layer, _NORMALISATIONS)
            and isinstance(before, _CONVOLUTIONS)
            and uses[id(before)] == uses[id(layer)] == 1
            and _fold(before, layer)
        ):
            setattr(owner, name, nn.Identity())
        elif not isinstance(layer, _SILENT):
            before = layer


def _fold(
    convolution: nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d,
    normalisation: nn.BatchNorm2d | nn.BatchNorm3d,
) -> bool:
    """Scale and shift what a convolution answers as the normalisation would; say whether that could be."""
    mean, variance = normalisation.running_mean, normalisation.running_var
    if mean is None or variance is None or normalisation.training:
        return False
    transposed = isinstance(convolution, nn.ConvTranspose2d | nn.ConvTranspose3d)
    if (transposed and convolution.groups != 1) or not (_is_itself(convolution) and _is_itself(normalisation)):
        return False
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        mean,
        variance,
        normalisation.eps,
        normalisation.weight,
        normalisation.bias,
        transpose=transposed,
    )
    return True


def _is_itself(layer: nn.Module) -> bool:
    """Say whether a layer's weights are its own: normalised ones are made anew of others before each run."""
    return not layer._forward_pre_hooks and not layer._forward_hooks and not is_parametrized(layer)


def laid_out(windows: torch.Tensor) -> torch.Tensor:
    """Return windows with their channels next to each other, as convolutions read them fastest."""
    if windows.ndim in (4, 5) and windows.shape[1] == 1:  # torch takes a lone channel for one that lies apart
        batch, _, *spatial = windows.contiguous().stride()
        return windows.contiguous().as_strided(windows.shape, (batch, 1, *spatial))
    if windows.ndim == 5:
        return windows.contiguous(memory_format=torch.channels_last_3d)
    return windows.contiguous(memory_format=torch.channels_last) if windows.ndim == 4 else windows


def fast_precision(device: torch.device) -> torch.dtype:
    """Return the type of numbers that a device multiplies fastest among those that hold what float32 holds."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if able else torch.float32


@contextmanager
def in_precision(device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """Let the convolutions and products of matrices run in a precision."""
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        yield
