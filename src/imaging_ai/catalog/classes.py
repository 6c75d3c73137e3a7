"""`[[classes]]`: what the numbers of a classifier mean, and `[classify]`: what they are about, how they are read.

A network's number is no probability until it was calibrated on cases that it has not learned from: by one temperature
for all classes (Guo et al. 2017, "On calibration of modern neural networks"), or by a line through the log-odds of
each class (Platt 1999).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from imaging_ai.catalog.metadata import network_format
from imaging_ai.catalog.table import Label, Table, Triple
from imaging_ai.core.finding import ClassDescription, Code

__all__ = ["Class", "Classifier", "Classify", "classes_from", "classifier_of", "description_of", "remarks_on"]

FINDING = Code("404684003", "SCT", "Clinical finding")

Level = Literal["study", "series", "instance"]
Activation = Literal["softmax", "sigmoid", "none"]
#: Slope and intercept for the log-odds of a class.
Platt = tuple[float, float]
_Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Class(Table, frozen=True):
    """A number of a classifier's answer by its place from 0, or a label of a detector's, and what it stands for."""

    value: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    label: Label
    finding: Triple | None = None
    finding_site: Triple | None = None
    threshold: _Probability = 0.5
    platt: Platt | None = None


class Classify(Table, frozen=True):
    """What a classifier speaks of, and how its numbers become probabilities."""

    level: Level = "series"
    activation: Activation | None = None
    temperature: Annotated[float, msgspec.Meta(gt=0)] | None = None
    summary: Literal["max", "mean"] = "max"
    report: Literal["present", "all"] = "present"


@dataclass(frozen=True, slots=True)
class Classifier:
    """What the numbers of a network mean.

    `values` are the places of `classes` in its answer, in their order, and `platt` their calibration, None where the
    temperature is used. `activation` is None where the bundle's postprocessing says it. `summary` makes one
    probability of those of several slices; `report` says which instances the SR names.
    """

    classes: tuple[ClassDescription, ...]
    values: tuple[int, ...]
    platt: tuple[Platt | None, ...]
    level: Level
    activation: Activation | None
    temperature: float | None
    summary: Literal["max", "mean"]
    report: Literal["present", "all"]

    def calibrated(self, index: int) -> bool:
        """Say whether the probability of a class was made to be one; else it is only what the network says."""
        return self.temperature is not None or self.platt[index] is not None

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """The choices that may change an answer, as an algorithm's parameters."""
        named = [(f"threshold of {c.label}", f"{c.threshold:g}") for c in self.classes]
        named += [
            (f"platt of {described.label}", f"{line[0]:g} {line[1]:g}")
            for described, line in zip(self.classes, self.platt, strict=True)
            if line
        ]
        return (*((("temperature", f"{self.temperature:g}"),) if self.temperature else ()), *named)


def classes_from(metadata: dict[str, Any]) -> tuple[Class, ...]:
    """Name the classes by `channel_def`, where the metadata says that the network answers classes; all of them."""
    answer = network_format(metadata, "outputs")
    channels = answer.get("channel_def")
    if str(answer.get("format", "")).lower() not in {"classes", "classification"} or not isinstance(channels, dict):
        return ()
    named = {int(key): str(label) for key, label in channels.items() if str(key).isdigit()}
    return tuple(Class(value=value, label=label[:64] or f"{value}") for value, label in sorted(named.items()))


def classifier_of(classes: tuple[Class, ...], how: Classify) -> Classifier | None:
    """Return what the two tables say together; None where there are no classes.

    Raises
    ------
    ValueError
        If they contradict themselves or each other.
    """
    if not classes:
        if how != Classify():
            raise ValueError("[classify] without [[classes]]: name what the network answers")
        return None
    values = tuple(one.value for one in classes)
    if len(set(values)) < len(values):
        raise ValueError("[[classes]] value: two classes have the same; give each its own")
    if how.activation == "none" and (how.temperature or any(one.platt for one in classes)):
        raise ValueError('[classify] activation = "none": there are no logits to calibrate')
    return Classifier(
        classes=tuple(description_of(one) for one in classes),
        values=values,
        platt=tuple(one.platt for one in classes),
        level=how.level,
        activation=how.activation,
        temperature=how.temperature,
        summary=how.summary,
        report=how.report,
    )


def remarks_on(classes: tuple[Class, ...], how: Classify) -> list[str]:
    """Say, a sentence each, what a complete classifier has and these have not."""
    remarks = [f"class {one.value} ({one.label}) has no finding" for one in classes if one.finding is None]
    if classes and how.temperature is None and not all(one.platt for one in classes):
        remarks.append("no temperature in [classify] and no platt: what it says of a class is a score, no probability")
    return remarks


def description_of(one: Class) -> ClassDescription:
    """Return what a report says of a class."""
    return ClassDescription(
        label=one.label,
        finding=Code(*one.finding) if one.finding else FINDING,
        threshold=one.threshold,
        finding_site=Code(*one.finding_site) if one.finding_site else None,
    )
