"""Several networks that answer together (MONAI's `EnsembleEvaluator`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["Ensemble", "members_of"]


class Ensemble(torch.nn.Module):
    """Networks of which each answers under a key of its own; the bundle's postprocessing combines the answers.

    Called as one network, it answers the mean of theirs: what an explanation or a score of features is taken from.
    """

    def __init__(self, networks: Sequence[torch.nn.Module], keys: Sequence[str]) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)
        self.keys = tuple(keys)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean of the answers to ``[batch, channel, x, y(, z)]``."""
        return torch.stack([_first(network(images)) for network in self.networks]).mean(0)


def members_of(network: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """List the networks that answer, each with the key of its answer."""
    if isinstance(network, Ensemble):
        return list(zip(network.keys, network.networks, strict=True))
    return [("pred", network)]


def _first(answer: object) -> torch.Tensor:
    while isinstance(answer, list | tuple):
        answer = answer[0]
    if not isinstance(answer, torch.Tensor):
        raise TypeError(f"a network of the ensemble answered a {type(answer).__name__}")
    return answer
