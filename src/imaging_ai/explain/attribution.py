"""Which voxels made a network answer what it answered, by captum.

Grad-CAM (Selvaraju et al. 2017), guided Grad-CAM (the same paper; Springenberg et al. 2015), integrated gradients
(Sundararajan et al. 2017), occlusion (Zeiler and Fergus 2014); in two and three dimensions, for any number that can be
had from an answer (`network.Score`). Passes go through the network in batches that fit into memory. The cells of
Grad-CAM are put where the gradients of their layer say that they look: strides with a padding shift them, and what is
usually done, to stretch them over the image, is wrong by half a cell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from imaging_ai.catalog import Explaining
from imaging_ai.catalog.explaining import Method
from imaging_ai.errors import ModelFailed, ModelOutOfMemory
from imaging_ai.explain.network import Score, Scored, coarsest, trace

__all__ = ["Attribution", "attribute", "baseline_of", "passes_at_once"]

#: Blurring for the baseline: this part of the size of the input.
_BLUR = 1 / 12
#: Side of a patch over the distance of its neighbours.
_OVERLAP = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """What each voxel of an input adds: float32 of the input's grid ``[x, y(, z)]``, and how that was found.

    `completeness` is of integrated gradients alone: how far the sum is from what it should be,
    ``|sum - (F(x) - F(baseline))| / |F(x) - F(baseline)|``.
    """

    values: torch.Tensor
    parameters: Mapping[str, str] = field(default_factory=dict)
    completeness: float | None = None


def attribute(
    network: torch.nn.Module, inputs: torch.Tensor, score: Score, method: Method, options: Explaining
) -> Attribution:
    """Attribute `score` of the answer to `inputs` ``[1, channel, x, y(, z)]``; use it within `explainable(network)`.

    Raises
    ------
    ModelFailed
        If the network has no layer of that name, or none that fits.
    ModelOutOfMemory
        If a single pass would take more than `memory_gb`.
    """
    scored = Scored(network, score)
    inputs = inputs.detach().clone().requires_grad_()
    layers, taken = trace(network, inputs.detach())
    if method in ("grad-cam", "guided-grad-cam"):
        passes_at_once(taken, options)
        name = options.layer or coarsest(layers, inputs.ndim - 2)
        return _by_layer(scored, inputs, name, guided=method == "guided-grad-cam")
    if method == "integrated-gradients":
        return _integrated(scored, inputs, options, passes_at_once(taken, options))
    return _occluded(scored, inputs, options, passes_at_once(taken, options))


def passes_at_once(taken: int, options: Explaining) -> int:
    """Return how many inputs may go through the network together when one takes so many bytes."""
    limit = options.memory_gb * 2**30
    if taken > limit:
        raise ModelOutOfMemory(
            f"an explanation would take about {taken / 2**30:.1f} GB; [explain] memory_gb allows {options.memory_gb:g}"
        )
    return max(1, int(limit // taken))


def baseline_of(inputs: torch.Tensor, kind: str) -> torch.Tensor:
    """Return "nothing there" for ``[1, channel, x, y(, z)]``: the least or mean value of each channel, or a blur."""
    inputs = inputs.detach()
    places = tuple(range(2, inputs.ndim))
    if kind == "blur":
        sigma = (0, 0, *(size * _BLUR for size in inputs.shape[2:]))
        return torch.from_numpy(gaussian_filter(inputs.cpu().numpy(), sigma)).to(inputs)
    value = inputs.mean(places, keepdim=True) if kind == "mean" else inputs.amin(places, keepdim=True)
    return value.expand_as(inputs).clone()


def _by_layer(scored: Scored, inputs: torch.Tensor, name: str, *, guided: bool) -> Attribution:
    from captum.attr import GuidedBackprop, LayerGradCam  # it loads Matplotlib: only for who explains

    modules = dict(scored.network.named_modules())
    if name not in modules:
        raise ModelFailed(f"[explain] layer: the network has no {name!r}")
    coarse = LayerGradCam(scored, modules[name]).attribute(inputs, relu_attributions=True).detach()[0, 0]
    shifts = _shifts(scored.network, modules[name], inputs)
    found = _stretched(coarse, tuple(inputs.shape[2:]), shifts)
    told = {"layer": name or "the network itself", "cells": " x ".join(map(str, coarse.shape))}
    told["moved by"] = " x ".join(f"{shift:+.1f}" for shift in shifts) + " voxels"
    if guided:
        if not any(isinstance(layer, torch.nn.ReLU) for layer in modules.values()):
            told["gradients"] = "plain, for the network has no ReLU to guide by"
        found = found * GuidedBackprop(scored).attribute(inputs).detach()[0].sum(0)
    return Attribution(found, told)


def _shifts(network: torch.nn.Module, layer: torch.nn.Module, inputs: torch.Tensor) -> list[float]:
    """Return how far, in voxels, the cells of a layer look beside where they would lie stretched over the image.

    They are seen in noise, or in stronger noise where they keep still; the shift is 0 where nothing moves them.
    """
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn(inputs.shape, generator=chance).to(inputs) * inputs.std()
    for seen in (noise + inputs.mean(), 4 * noise + inputs.mean(), inputs):
        if shifts := _off_centre(network, layer, seen.detach().requires_grad_()):
            return shifts
    return [0.0] * (inputs.ndim - 2)


def _off_centre(network: torch.nn.Module, layer: torch.nn.Module, seen: torch.Tensor) -> list[float]:
    """Compare the centre of a cell's squared gradients with its place, for two cells that lie alike to both ends.

    So what the ends cut off cancels out. Nothing is returned where a cell has no gradient.
    """
    kept: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda _, __, output: kept.append(output))
    try:
        network(seen)
    finally:
        hook.remove()
    grid, sizes = kept[0].shape[2:], seen.shape[2:]
    shifts = np.zeros(len(sizes))
    for end in (1, -1):
        cell = [size // 3 if end > 0 else size - 1 - size // 3 for size in grid]
        answer = kept[0][0].flatten(1)[:, int(np.ravel_multi_index(cell, grid))].square().sum()
        (gradient,) = torch.autograd.grad(answer, seen, retain_graph=end > 0)
        weight = gradient[0].square().sum(0).double().cpu().numpy()
        total = weight.sum()
        if not total > 0:
            return []
        for axis, (size, count) in enumerate(zip(sizes, grid, strict=True)):
            along = weight.sum(tuple(other for other in range(len(sizes)) if other != axis))
            shifts[axis] += (along @ np.arange(size)) / total - ((cell[axis] + 0.5) * size / count - 0.5)
    most = [size / count / 2 for size, count in zip(sizes, grid, strict=True)]
    return [float(np.clip(shift / 2, -limit, limit)) for shift, limit in zip(shifts, most, strict=True)]


def _stretched(coarse: torch.Tensor, sizes: tuple[int, ...], shifts: list[float]) -> torch.Tensor:
    """Interpolate cells linearly on a finer grid, each moved by so many voxels."""
    for axis, (size, shift) in enumerate(zip(sizes, shifts, strict=True)):
        count = coarse.shape[axis]
        places = (torch.arange(size, device=coarse.device) + 0.5 - shift) * count / size - 0.5
        places = places.clamp(0, count - 1)
        low = places.floor().long()
        part = (places - low).reshape([-1 if k == axis else 1 for k in range(len(sizes))])
        high = (low + 1).clamp(max=count - 1)
        coarse = coarse.index_select(axis, low) * (1 - part) + coarse.index_select(axis, high) * part
    return coarse


def _integrated(scored: Scored, inputs: torch.Tensor, options: Explaining, at_once: int) -> Attribution:
    from captum.attr import IntegratedGradients

    baseline = baseline_of(inputs, options.baseline)
    found = IntegratedGradients(scored).attribute(
        inputs, baseline, n_steps=options.steps, method="gausslegendre", internal_batch_size=at_once
    )
    with torch.no_grad():
        difference = float(scored(inputs.detach()) - scored(baseline))
    error = abs(float(found.double().sum()) - difference) / max(abs(difference), 1e-12)
    told = {"baseline": options.baseline, "steps": f"{options.steps}"}
    return Attribution(found.detach()[0].sum(0), told, error)


def _occluded(scored: Scored, inputs: torch.Tensor, options: Explaining, at_once: int) -> Attribution:
    """Cover evenly spaced patches that overlap by a third, as many along each axis, one after the other."""
    from captum.attr import Occlusion

    sizes = np.array(inputs.shape[2:])
    each = max(2, math.floor(options.occlusions ** (1 / len(sizes)) + 1e-9))
    strides = np.maximum(1, np.ceil(sizes / each)).astype(int)
    patch = np.minimum(sizes, np.ceil(strides * _OVERLAP)).astype(int)
    with torch.no_grad():
        found = Occlusion(scored).attribute(
            inputs.detach(),
            sliding_window_shapes=(inputs.shape[1], *map(int, patch)),
            strides=(inputs.shape[1], *map(int, strides)),
            baselines=baseline_of(inputs, options.baseline),
            perturbations_per_eval=at_once,
        )
    return Attribution(found[0].mean(0), {"baseline": options.baseline, "patch": " x ".join(map(str, patch))})
