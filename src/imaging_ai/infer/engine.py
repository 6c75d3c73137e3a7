"""A network made ready to run fast, in place, with the same answer; and how exact its arithmetic must be.

In evaluation a batch normalisation is a scale and a shift by channel, so it goes into the weights of the convolution
before it (Jacob et al., 2018, section 3.2). A transposed convolution that doubles the resolution is a convolution whose
channels are the voxels of two by two by two (Shi et al., 2016), which fills the vectors of a processor where its few
channels do not. Convolutions run faster on channels that lie next to each other. Processors
with instructions for bfloat16 multiply two to ten times as many of them as of float32; whether an answer stays the same
by them is seen on each image (`windows.py`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ["fast_precision", "in_precision", "make_ready"]

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMALISATIONS = (nn.BatchNorm2d, nn.BatchNorm3d)
#: A transposed convolution that answers so few channels leaves most of a vector empty.
_FEW_CHANNELS = 4
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
            if type(layer) is nn.ConvTranspose3d and Doubling.fits(layer):
                setattr(owner, name, Doubling(layer))
    if channels_last:
        for parameter in network.parameters():
            if parameter.ndim in (4, 5):
                layout = torch.channels_last if parameter.ndim == 4 else torch.channels_last_3d
                parameter.data = parameter.data.contiguous(memory_format=layout)


class Doubling(nn.Module):
    """A transposed convolution of 3 x 3 x 3 that doubles the resolution, by channels that become voxels.

    Along an axis, voxel ``2 i`` is made of voxel ``i`` by the middle of the kernel, and ``2 i + 1`` of ``i`` and
    ``i + 1`` by its last and its first part.
    """

    #: For even and odd voxels: the part of the kernel that reads the next voxel (-1: none), and what reads this one.
    _PARTS = ((-1, 1), (0, 2))

    def __init__(self, like: nn.ConvTranspose3d) -> None:
        super().__init__()
        inner, outer = like.weight.shape[:2]
        kernel = like.weight.new_zeros(8, outer, inner, 2, 2, 2)
        for voxel, parities in enumerate(itertools.product((0, 1), repeat=3)):
            for reads in itertools.product((0, 1), repeat=3):
                parts = [self._PARTS[parity][1 - read] for parity, read in zip(parities, reads, strict=True)]
                if min(parts) >= 0:
                    (i, j, k), (a, b, c) = reads, parts
                    kernel[voxel, :, :, i, j, k] = like.weight[:, :, a, b, c].T
        self.weight = nn.Parameter(kernel.flatten(0, 1), requires_grad=False)
        self.bias: nn.Parameter | None = None
        if like.bias is not None:
            self.bias = nn.Parameter(like.bias.repeat(8), requires_grad=False)

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Say whether a layer is one that is faster so: on a processor, and with few channels to answer."""
        return (
            isinstance(layer, nn.ConvTranspose3d)
            and layer.weight.device.type == "cpu"
            and layer.out_channels <= _FEW_CHANNELS
            and (layer.groups, layer.padding_mode) == (1, "zeros")
            and (layer.kernel_size, layer.stride) == ((3, 3, 3), (2, 2, 2))
            and (layer.padding, layer.output_padding, layer.dilation) == ((1, 1, 1), (1, 1, 1), (1, 1, 1))
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return ``[batch, channel, 2 x, 2 y, 2 z]`` for ``[batch, channel, x, y, z]``."""
        voxels = functional.conv3d(image, self.weight, self.bias, padding=1)[..., 1:, 1:, 1:]
        batch, _, x, y, z = voxels.shape
        parted = voxels.reshape(batch, 2, 2, 2, -1, x, y, z).permute(0, 5, 1, 6, 2, 7, 3, 4)
        return parted.reshape(batch, 2 * x, 2 * y, 2 * z, -1).permute(0, 4, 1, 2, 3)


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
    if transposed and convolution.groups != 1:
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
