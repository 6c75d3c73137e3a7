"""A classifier that learns in seconds to see a bright spot in noise, so that it is known where its evidence lies."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

__all__ = ["SIZE", "fresh", "images", "learned"]

SIZE = 20


def images(count: int, seed: int, dimensions: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make noise ``[count, 1, x, y(, z)]``, every second with a spot; return it, 0 or 1, and the centre of the spot."""
    chance = torch.Generator().manual_seed(seed)
    noise = torch.rand((count, 1, *[SIZE] * dimensions), generator=chance)
    there = torch.arange(count) % 2
    centres = torch.randint(4, SIZE - 4, (count, dimensions), generator=chance)
    for image, is_there, centre in zip(noise, there, centres, strict=True):
        if is_there:
            image[(0, *(slice(int(c) - 2, int(c) + 3) for c in centre))] += 1
    return noise, there, centres


def fresh(dimensions: int = 3, seed: int = 0) -> torch.nn.Module:
    """Make the network with the weights that it begins with; its activations work in place, as those of the zoo do."""
    torch.manual_seed(seed)
    convolution: Any = torch.nn.Conv3d if dimensions == 3 else torch.nn.Conv2d
    pool: Any = torch.nn.AdaptiveMaxPool3d if dimensions == 3 else torch.nn.AdaptiveMaxPool2d
    return torch.nn.Sequential(
        convolution(1, 8, 3, padding=1),
        torch.nn.ReLU(inplace=True),
        convolution(8, 8, 3, stride=2, padding=1),
        torch.nn.ReLU(inplace=True),
        convolution(8, 16, 3, stride=2, padding=1),
        torch.nn.ReLU(inplace=True),
        pool(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 2),
    ).eval()


@cache
def learned(dimensions: int = 3) -> torch.nn.Module:
    """Train the network; it is right of nearly all images that it has not seen."""
    network = fresh(dimensions).train()
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(50):
        noise, there, _ = images(16, seed=step, dimensions=dimensions)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(noise), there).backward()
        optimiser.step()
    return network.eval().requires_grad_(False)
