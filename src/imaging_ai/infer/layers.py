"""Convolutions of few channels, arranged to fill the vectors of a processor; they answer the same.

A processor multiplies sixteen channels at once or more. Where a layer answers fewer, voxels take the place of channels.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Doubling", "Runs"]

#: A convolution that answers so few channels leaves most of a vector empty.
_FEW_CHANNELS = 4
_VECTOR = 16


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


class Runs(nn.Module):
    """A convolution of 3 x 3 x 3 from few channels to few, which answers a run of voxels along z at once.

    A run of n voxels is made of the n + 2 around it, which lie next to each other with all their channels: both are
    the channels of a convolution of 3 x 3 x 1.
    """

    def __init__(self, like: nn.Conv3d) -> None:
        super().__init__()
        outer, inner = like.weight.shape[:2]
        self.length = _VECTOR >> (max(inner, outer) - 1).bit_length()
        kernel = like.weight.new_zeros(self.length, outer, self.length + 2, inner, 3, 3)
        for voxel in range(self.length):
            kernel[voxel, :, voxel : voxel + 3] = like.weight.permute(0, 4, 1, 2, 3)
        self.weight = nn.Parameter(kernel.flatten(2, 3).flatten(0, 1)[..., None], requires_grad=False)
        self.bias: nn.Parameter | None = None
        if like.bias is not None:
            self.bias = nn.Parameter(like.bias.repeat(self.length), requires_grad=False)

    @staticmethod
    def fits(layer: nn.Conv3d) -> bool:
        """Say whether a layer is one that is faster so: on a processor, with few channels, of the usual kind."""
        return (
            layer.weight.device.type == "cpu"
            and max(layer.in_channels, layer.out_channels) <= _FEW_CHANNELS
            and (layer.groups, layer.padding_mode) == (1, "zeros")
            and (layer.kernel_size, layer.stride) == ((3, 3, 3), (1, 1, 1))
            and (layer.padding, layer.dilation) == ((1, 1, 1), (1, 1, 1))
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return ``[batch, channel, x, y, z]`` for an image of that shape."""
        batch, channels, x, y, z = image.shape
        rest = -z % self.length
        lines = functional.pad(image.permute(0, 2, 3, 4, 1), (0, 0, 1, 1 + rest)).flatten(3)
        runs = lines.unfold(3, (self.length + 2) * channels, self.length * channels).permute(0, 4, 1, 2, 3)
        runs = runs.contiguous(memory_format=torch.channels_last_3d)
        answer = functional.conv3d(runs, self.weight, self.bias, padding=(1, 1, 0))
        return answer.permute(0, 2, 3, 4, 1).reshape(batch, x, y, z + rest, -1)[:, :, :, :z].permute(0, 4, 1, 2, 3)
