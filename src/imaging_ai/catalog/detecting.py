"""`[detect]`: what the labels of a detector's boxes mean, named by `[[classes]]`, and how many of them are told.

A box's score is no probability, unless a line through its log-odds made it one (Platt 1999, as for classifiers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from imaging_ai.catalog.classes import Class, Classify, Platt, description_of
from imaging_ai.catalog.metadata import network_format
from imaging_ai.catalog.table import Table
from imaging_ai.core.finding import ClassDescription

__all__ = ["Detect", "Detector", "boxes_from", "detector_of", "remarks_on_boxes"]


class Detect(Table, frozen=True):
    """Which of the boxes are told: of each label the best, as many as this."""

    max_findings: Annotated[int, msgspec.Meta(ge=1, le=300)] = 20


@dataclass(frozen=True, slots=True)
class Detector:
    """What the labels of boxes mean: `values` are those of `classes`, in their order, and `platt` their calibration."""

    classes: tuple[ClassDescription, ...]
    values: tuple[int, ...]
    platt: tuple[Platt | None, ...]
    max_findings: int

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """The choices that may change an answer, as an algorithm's parameters."""
        named = [(f"threshold of {one.label}", f"{one.threshold:g}") for one in self.classes]
        named += [
            (f"platt of {described.label}", f"{line[0]:g} {line[1]:g}")
            for described, line in zip(self.classes, self.platt, strict=True)
            if line
        ]
        return (*named, ("max_findings", str(self.max_findings)))


def boxes_from(metadata: dict[str, Any]) -> tuple[Class, ...]:
    """Name the labels of boxes by `channel_def`, or by number, where the network answers boxes."""
    answer = network_format(metadata, "outputs")
    if str(answer.get("type", "")).lower() != "object":
        return ()
    channels = answer.get("channel_def")
    named = channels if isinstance(channels, dict) else {}
    count = answer.get("num_channels")
    labels = range(count if isinstance(count, int) and 0 < count <= 256 else 1)
    return tuple(Class(value=k, label=str(named.get(str(k)) or f"Finding {k}")[:64]) for k in labels)


def detector_of(classes: tuple[Class, ...], how: Detect, classify: Classify) -> Detector:
    """Return what the tables say together.

    Raises
    ------
    ValueError
        If they contradict themselves or each other.
    """
    if not classes:
        raise ValueError("[detect] without [[classes]]: name the labels of the boxes")
    if classify != Classify():
        raise ValueError("[classify] beside [detect]: the [[classes]] are of the one or of the other")
    values = tuple(one.value for one in classes)
    if len(set(values)) < len(values):
        raise ValueError("[[classes]] value: two classes have the same; give each its own")
    return Detector(
        classes=tuple(description_of(one) for one in classes),
        values=values,
        platt=tuple(one.platt for one in classes),
        max_findings=how.max_findings,
    )


def remarks_on_boxes(classes: tuple[Class, ...]) -> list[str]:
    """Say, a sentence each, what a complete detector has and these have not."""
    remarks = [f"class {one.value} ({one.label}) has no finding" for one in classes if one.finding is None]
    if not all(one.platt for one in classes):
        remarks.append("no platt: what it says of a box is a score, no probability")
    return remarks
