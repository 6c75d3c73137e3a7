"""Findings and evaluations of a model explained: from the loaded model and its answers to maps on the source.

The methods are in `explain/attribution.py`, the checks in `explain/sanity.py`. A finding is explained within windows of
the network's size around it, a class by the whole input; a network that reads slices, by those that say most. What
cannot be explained is noted, and never costs the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.post.array import Activations
from monai.transforms.post.dictionary import Activationsd
from monai.utils.misc import fall_back_tuple
from numpy.typing import NDArray

from imaging_ai.catalog import Explaining
from imaging_ai.catalog.explaining import Method
from imaging_ai.core.explanation import Explanation
from imaging_ai.core.finding import Evaluation, Finding
from imaging_ai.core.volume import Volume
from imaging_ai.errors import ImagingAiError, ModelFailed
from imaging_ai.explain.attribution import attribute, baseline_of, passes_at_once
from imaging_ai.explain.network import Score, class_score, explainable, region_score, trace
from imaging_ai.explain.pieces import Window, fitted, unfitted, windows_over
from imaging_ai.explain.sanity import Similarity, curves, randomised
from imaging_ai.explain.words import described
from imaging_ai.infer.classify import activation_of, class_scores, probabilities, scores
from imaging_ai.infer.model import LoadedModel, Prepared, first_cause, in_a_line
from imaging_ai.infer.tensors import resampled_onto

__all__ = ["Explained", "explain"]

_MOST_PLANES = 8


@dataclass(frozen=True, slots=True)
class Explained:
    """The explanations of a run; `notes` say what could not be explained and why, `seconds` how long each took."""

    explanations: tuple[Explanation, ...] = ()
    notes: tuple[str, ...] = ()
    record: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Subject:
    """What is to be explained: a finding, or a class; `channel` is its place in the network's answer.

    `instances` are the SOP Instance UIDs of which a class is said, all when empty.
    """

    label: str
    identifier: str
    uid: str
    channel: int
    activation: str
    finding: Finding | None = None
    instances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """An input of the network ``[1, channel, x, y(, z)]``, and what counts of its answer: logit and probability."""

    inputs: torch.Tensor
    score: Score
    probability: Score
    window: Window


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What the network is given at once, cut into pieces; `plane` is the slice where it reads slices."""

    prepared: Prepared
    pads: list[int]
    shape: tuple[int, ...]
    pieces: tuple[_Piece, ...]
    plane: int | None


def explain(
    model: LoadedModel,
    volumes: Mapping[str, Volume],
    findings: Sequence[Finding],
    evaluations: Sequence[Evaluation],
    options: Explaining,
    progress: Callable[[float], None] = lambda _: None,
) -> Explained:
    """Explain what was found, the largest first, and what a classifier says, the most probable first."""
    if not options.wanted:
        return Explained()
    if model.entry.detector:
        return Explained(notes=("boxes are not explained: methods of classes and of segments do not fit them",))
    subjects = _subjects(model, findings, evaluations, options)[: options.max_findings]
    made: list[Explanation] = []
    notes: list[str] = []
    record: list[dict[str, object]] = []
    todo = [(number, subject, method) for number, subject in enumerate(subjects, 1) for method in options.methods]
    views: dict[int, list[_View]] = {}
    for done, (number, subject, method) in enumerate(todo):
        progress(done / len(todo))
        began = time.perf_counter()
        try:
            if number not in views:  # of one subject at a time: they are as large as the series
                label = subject.channel
                channel = model.channel_of(label) if subject.finding else label
                views = {number: list(_views(model, volumes, replace(subject, channel=channel)))}
            first = next(iter(volumes.values()))
            one, alike = _explained(model, first, views[number], subject, number, method, options)
        except Exception as error:  # noqa: BLE001 - the edge to captum and gradients; the result must not be lost
            reason = error.message if isinstance(error, ImagingAiError) else in_a_line(first_cause(error))
            notes.append(f"{subject.identifier} is not explained by {method}: {reason}")
            continue
        made.append(one)
        tree: dict[str, object] = {**one.as_tree(), "seconds": round(time.perf_counter() - began, 2)}
        if alike:
            tree["randomised"] = [
                {"layers": a.layers, "rank_correlation": round(a.rank_correlation, 3), "ssim": round(a.ssim, 3)}
                for a in alike
            ]
        record.append(tree)
    progress(1.0)
    return Explained(tuple(made), tuple(notes), tuple(record))


def _subjects(
    model: LoadedModel, findings: Sequence[Finding], evaluations: Sequence[Evaluation], options: Explaining
) -> list[_Subject]:
    entry = model.entry
    activation = _activation(model)
    found = sorted((one for one in findings if one.found), key=lambda one: -one.region.voxels)
    subjects = [
        _Subject(
            one.description.label,
            one.tracking_identifier,
            one.tracking_uid,
            entry.segment_values[entry.segments.index(one.description)],
            activation,
            finding=one,
        )
        for one in found
    ]
    if classifier := entry.classifier:
        activation = activation_of(model, classifier)
        each = options.instances and any(one.instances for one in evaluations)
        said = [
            one
            for one in evaluations
            if (bool(one.instances) == each or one.tracking_identifier in options.targets)
            and (one.present or options.when == "always")
        ]
        subjects += [
            _Subject(
                one.description.label,
                one.tracking_identifier,
                one.tracking_uid,
                classifier.values[classifier.classes.index(one.description)],
                activation,
                instances=one.instances,
            )
            for one in sorted(said, key=lambda one: -one.probability)
        ]
    return [one for one in subjects if not options.targets or {one.label, one.identifier} & set(options.targets)]


def _activation(model: LoadedModel) -> str:
    steps = [step for step in model.steps_after if isinstance(step, Activations | Activationsd)]
    return "sigmoid" if any(np.any(getattr(step, "sigmoid", False)) for step in steps) else "softmax"


def _explained(
    model: LoadedModel,
    first: Volume,
    views: Sequence[_View],
    subject: _Subject,
    number: int,
    method: Method,
    options: Explaining,
) -> tuple[Explanation, tuple[Similarity, ...]]:
    values: NDArray[np.float32] = np.zeros(first.grid.shape, np.float32)
    told: dict[str, str] = {}
    checks: dict[str, float] = {}
    alike: tuple[Similarity, ...] = ()
    with explainable(model.network) as network:
        for view in views:
            canvas = torch.zeros(view.shape)
            count = torch.zeros(view.shape)
            for piece in view.pieces:
                found = attribute(network, piece.inputs, piece.score, method, options)
                canvas[piece.window] += found.values.cpu()
                count[piece.window] += 1
                if not told:  # the first piece is the one that says most: it is the one that is checked
                    told = {**_extent(view, piece), **found.parameters}
                    if found.completeness is not None:
                        checks["completeness error"] = found.completeness
                    if "faithfulness" in options.checks:
                        checks |= _checked(network, piece, found.values, options)
                    if "randomization" in options.checks:
                        alike = _randomised(network, piece, method, options)
                        checks["untrained"] = alike[-1].rank_correlation
            on_source = _to_source(model, unfitted(canvas / count.clamp(min=1), view.pads), view)
            if view.plane is None:
                values = on_source
            else:
                values[view.plane] = on_source[0]
    if not told:
        raise ModelFailed("nothing of it lies in what the network is given")
    algorithm = model.entry.algorithm
    explanation = described(
        values,
        method,
        number,
        of=(subject.identifier, subject.uid),
        target=_target(subject),
        checks=checks,
        parameters=told,
        volume=first,
        finding=subject.finding,
        heading=f"{algorithm.name} {model.entry.version}",
    )
    return explanation, alike


def _target(subject: _Subject) -> str:
    what = "the mean logit of its channel over it" if subject.finding else "the logit of the class"
    return f"{what}, {subject.identifier}"


def _extent(view: _View, piece: _Piece) -> dict[str, str]:
    """Say which part of the image it was, where it was not the whole."""
    told = {}
    sides = [(side, size) for side, size in zip(piece.window, view.shape, strict=True) if isinstance(side, slice)]
    if any(side.stop - side.start < size for side, size in sides):
        size = " x ".join(str(side.stop - side.start) for side, _ in sides)
        told["within"] = f"{len(view.pieces)} window{'s'[: len(view.pieces) > 1]} of {size} around it"
    if view.plane is not None or len(sides) < len(piece.window):
        told["within"] = f"at most {_MOST_PLANES} slices, each on its own"
    return told


def _checked(network: torch.nn.Module, piece: _Piece, values: torch.Tensor, options: Explaining) -> dict[str, float]:
    at_once = passes_at_once(trace(network, piece.inputs)[1], options)
    baseline = baseline_of(piece.inputs, options.baseline)
    found = curves(network, piece.inputs, values, piece.probability, baseline, at_once)
    return {
        "insertion": found.insertion,
        "deletion": found.deletion,
        "insertion by chance": found.random_insertion,
        "deletion by chance": found.random_deletion,
        "margin": found.margin,
    }


def _randomised(network: torch.nn.Module, piece: _Piece, method: Method, options: Explaining) -> tuple[Similarity, ...]:
    again = lambda other: attribute(other, piece.inputs, piece.score, method, options).values  # noqa: E731
    return randomised(network, piece.inputs, again)


def _views(model: LoadedModel, volumes: Mapping[str, Volume], subject: _Subject) -> Iterator[_View]:
    """Yield what the network is given for a subject, with the piece that says most first."""
    given: Any = volumes if model.entry.inputs else next(iter(volumes.values()))
    if model.reads_planes and model.slice_axis is not None:
        yield _cut(model, model.prepare(given), subject, model.slice_axis)
        return
    if not model.planar:
        yield _view(model, model.prepare(given), subject, None)
        return
    for k in _planes(model, given, subject):
        view = _view(model, model.prepare(given, k), subject, k)
        if view.pieces:
            yield view


def _planes(model: LoadedModel, given: Any, subject: _Subject) -> list[int]:
    """Choose slices for a network that reads slices: where a finding is largest, where a class is most probable."""
    if subject.finding:
        weight: NDArray[Any] = np.asarray(subject.finding.region.areas, np.float64)
    else:
        classifier = model.entry.classifier
        assert classifier is not None
        index = classifier.values.index(subject.channel)
        activation = activation_of(model, classifier)
        weight = probabilities(scores(model, given), classifier, activation)[:, index]
        sources = next(iter(given.values()) if isinstance(given, Mapping) else iter([given])).sources
        weight = weight * [not subject.instances or one.sop_instance_uid in subject.instances for one in sources]
    return [int(k) for k in np.argsort(-weight, kind="stable")[:_MOST_PLANES] if weight[k] > 0]


def _view(model: LoadedModel, prepared: Prepared, subject: _Subject, plane: int | None) -> _View:
    sizes = tuple(prepared.inputs.shape[2:])
    if subject.finding is None:
        whole = tuple(slice(0, size) for size in sizes)
        score = class_score(subject.channel, pick=class_scores)
        probability = class_score(subject.channel, subject.activation, class_scores)
        piece = _Piece(prepared.inputs, score, probability, whole)
        return _View(prepared, [0] * 2 * len(sizes), sizes, (piece,), plane)
    roi = fall_back_tuple(model.window, sizes) if model.window else sizes
    inputs, pads = fitted(prepared.inputs, roi)
    mask, _ = fitted(_mask(subject.finding, prepared, plane), roi)
    pieces = [
        _piece(inputs, mask, subject, window, window) for window in (windows_over(mask, roi) if mask.any() else [])
    ]
    return _View(prepared, pads, tuple(inputs.shape[2:]), tuple(pieces), plane)


def _cut(model: LoadedModel, prepared: Prepared, subject: _Subject, axis: int) -> _View:
    """Cut an image as a SliceInferer does, across `axis`, in those slices where a finding is largest.

    Raises
    ------
    ModelFailed
        If it is no finding that is explained.
    """
    if subject.finding is None:
        raise ModelFailed("a class is explained by what a network is given, and not by slices that its inferer cuts")
    sizes = [size for k, size in enumerate(prepared.inputs.shape[2:]) if k != axis]
    roi = fall_back_tuple(model.window, sizes) if model.window else tuple(sizes)
    padded = (*roi[:axis], 1, *roi[axis:])
    inputs, pads = fitted(prepared.inputs, padded)
    mask, _ = fitted(_mask(subject.finding, prepared, None), padded)
    areas = mask.sum([k for k in range(mask.ndim) if k != axis])
    pieces = [
        _piece(inputs.select(2 + axis, k), flat, subject, window, (*window[:axis], k, *window[axis:]))
        for k in areas.argsort(descending=True, stable=True)[:_MOST_PLANES].tolist()
        if (flat := mask.select(axis, k)).any()
        for window in windows_over(flat, roi)
    ]
    return _View(prepared, pads, tuple(inputs.shape[2:]), tuple(pieces), None)


def _piece(inputs: torch.Tensor, mask: torch.Tensor, subject: _Subject, window: Window, placed: Window) -> _Piece:
    """Take a window of an image and of what was found in it; `placed` is where that lies in what is explained."""
    return _Piece(
        inputs[(slice(None), slice(None), *window)],
        region_score(subject.channel, mask[window]),
        region_score(subject.channel, mask[window], subject.activation),
        placed,
    )


def _mask(finding: Finding, prepared: Prepared, plane: int | None) -> torch.Tensor:
    """Return a finding on the grid of the network, ``[x, y(, z)]``; where it falls between voxels, the nearest ones."""
    region = finding.region.whole() if plane is None else finding.region.plane(plane)[None]
    target = _solid(prepared.image.as_tensor()[0], prepared.image.affine, plane)
    image = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(region.transpose(2, 1, 0), np.float32)), affine=prepared.source.affine
    )
    part = resampled_onto(image, target).as_tensor()
    mask = part >= min(0.5, float(part.max())) if part.max() > 0 else torch.zeros_like(part, dtype=torch.bool)
    return mask if plane is None else mask[..., 0]


def _to_source(model: LoadedModel, values: torch.Tensor, view: _View) -> NDArray[np.float32]:
    """Bring an attribution onto the source, ``[slice, row, column]``; of a flat image there is one slice."""
    solid = values[None] if view.plane is None else values[None, ..., None]
    loaded = view.prepared.source.as_tensor()
    axes = 3 if view.plane is None else 2
    grey = loaded[..., 0] if loaded.ndim > axes else loaded  # colours lie on the last axis
    source = _solid(grey, view.prepared.source.affine, view.plane)
    there: NDArray[np.float32] = model.to_source(solid, replace(view.prepared, source=source))[0]
    return there


def _solid(tensor: torch.Tensor, affine: torch.Tensor, plane: int | None) -> MetaTensor:
    """Return an image as one of three axes, a flat one as a single slice."""
    return MetaTensor(tensor if plane is None else tensor[..., None], affine=affine)
