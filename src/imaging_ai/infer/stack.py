"""Frames to one stack of parallel, evenly spaced planes, ordered by where they lie and never by their number.

What cannot be one stack is refused with a coded reason, since a model would answer nonsense without a word:
`mixed-orientations`, `mixed-sizes`, `repeated-positions`, `missing-slices`, `uneven-spacing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging_ai.errors import SeriesRefused
from imaging_ai.infer.frames import Frame

__all__ = ["Stack", "build_stack"]

#: Two planes are one place when they are nearer than this part of the spacing (and of a millimetre).
_SAME_PLACE = 0.02
#: A plane may lie this part of the spacing beside its even place; scanners round positions.
_UNEVEN = 0.05
#: Directions are the same when their cosines differ by no more than this.
_SAME_DIRECTION = 1e-3
#: Strays of another orientation or size are left out when there are no more than this part of the series.
_STRAYS = 0.1
#: More different planes than this are no stack with a few strays, but slices around an axis or a heap.
_STACKS = 50


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Frames in order, slice 0 lowest along the normal; `affine` maps (column, row, slice, 1) to LPS+ mm."""

    frames: tuple[Frame, ...]
    affine: NDArray[np.float64]
    notes: tuple[str, ...]


def build_stack(frames: Sequence[Frame], same_pixels: Callable[[Frame, Frame], bool]) -> Stack:
    """Put frames in order; `same_pixels` says whether two frames at one place show the same.

    Raises
    ------
    SeriesRefused
        If they are not one evenly spaced stack.
    """
    planes, notes = _leave_out_strays(frames)
    normal = planes[0].normal
    planes = sorted(planes, key=lambda frame: float(frame.position @ normal))
    planes, repeated = _leave_out_copies(planes, normal, same_pixels)
    notes += repeated
    if len(planes) == 1 and not planes[0].thickness:
        notes.append("the only slice does not say how thick it is (Slice Thickness): volumes are those of 1 mm")
    return Stack(tuple(planes), _affine(planes, normal), tuple(notes))


def _leave_out_strays(frames: Sequence[Frame]) -> tuple[list[Frame], list[str]]:
    """Keep the frames of the commonest plane; localizers and a few strays go, more than a few are refused."""
    notes = []
    kept = [frame for frame in frames if not frame.localizer] or list(frames)
    if len(kept) < len(frames):
        notes.append(f"{len(frames) - len(kept)} localizer frames are left out")
    groups: list[list[Frame]] = []
    for frame in kept:
        for group in groups:
            if _parallel(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
            if len(groups) > _STACKS:
                raise SeriesRefused(
                    "mixed-orientations", f"the {len(kept)} frames lie in more than {_STACKS} directions or sizes"
                )
    main = max(groups, key=len)
    strays = [frame for group in groups if group is not main for frame in group]
    if len(strays) > _STRAYS * len(kept):
        turned = any(np.abs(frame.orientation - main[0].orientation).max() > _SAME_DIRECTION for frame in strays)
        reason = "mixed-orientations" if turned else "mixed-sizes"
        raise SeriesRefused(
            reason,
            f"{len(strays)} of {len(kept)} frames differ in "
            f"{'orientation' if turned else 'size or pixel spacing'}: this is more than one stack",
        )
    if strays:
        notes.append(f"{len(strays)} frames of another orientation or size are left out")
    return main, notes


def _parallel(one: Frame, other: Frame) -> bool:
    return (
        bool(np.abs(one.orientation - other.orientation).max() <= _SAME_DIRECTION)
        and np.allclose(one.pixel_spacing, other.pixel_spacing, rtol=1e-3)
        and one.ds.get("Rows") == other.ds.get("Rows")
        and one.ds.get("Columns") == other.ds.get("Columns")
    )


def _leave_out_copies(
    planes: list[Frame], normal: NDArray[np.float64], same_pixels: Callable[[Frame, Frame], bool]
) -> tuple[list[Frame], list[str]]:
    """Keep one frame of each place; frames at one place that show different things are phases, and refused."""
    heights = np.array([frame.position @ normal for frame in planes])
    steps = np.diff(heights)
    apart = steps[steps > 1e-3]
    tolerance = _SAME_PLACE * min(1.0, float(np.median(apart)) if len(apart) else 1.0)
    kept = [planes[0]]
    for frame, height in zip(planes[1:], heights[1:], strict=True):
        last = kept[-1]
        if height - last.position @ normal > tolerance:
            kept.append(frame)
        elif np.abs(frame.position - last.position).max() > tolerance or not same_pixels(last, frame):
            raise SeriesRefused("repeated-positions", _phase_message(planes, len(apart) + 1, last, frame))
    copies = len(planes) - len(kept)
    return kept, [f"{copies} copies of other frames are left out"] if copies else []


def _phase_message(planes: list[Frame], places: int, one: Frame, other: Frame) -> str:
    others = dict(other.phases)
    differing = [keyword for keyword, value in one.phases if others.get(keyword, value) != value]
    why = f"; they differ in {differing[0]}" if differing else ""
    return (
        f"{len(planes)} frames at about {places} positions{why}: "
        "several volumes (phases, echoes or reconstructions) are in this series, and a model reads one"
    )


def _affine(planes: list[Frame], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    first = planes[0]
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * first.pixel_spacing[1]
    affine[:3, 1] = first.orientation[3:] * first.pixel_spacing[0]
    affine[:3, 2] = normal * (first.thickness or 1.0)
    affine[:3, 3] = first.position
    if len(planes) > 1:
        positions = np.stack([frame.position for frame in planes])
        affine[:3, 2] = _even_step(positions, normal)
    return affine


def _even_step(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the step from slice to slice, from the first to the last; refuse what leaves the straight line."""
    steps = np.diff(positions @ normal)
    usual = float(np.median(steps))
    holes = np.flatnonzero(steps > 1.5 * usual)
    if len(holes):
        absent = int(np.rint(steps[holes] / usual - 1).sum())
        raise SeriesRefused(
            "missing-slices",
            f"about {absent} slices are missing in {len(holes)} places, the first after slice {holes[0] + 1} "
            f"of {len(positions)} (spacing {usual:.3g} mm)",
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    aside = positions - (positions[0] + np.arange(len(positions))[:, None] * step)
    worst = float(np.linalg.norm(aside, axis=1).max())
    if worst > max(_UNEVEN * usual, 0.02):
        raise SeriesRefused(
            "uneven-spacing",
            f"slices lie up to {worst:.3g} mm beside even places (spacing {usual:.3g} mm); "
            f"more than {_UNEVEN:.0%} of the spacing is refused",
        )
    return np.asarray(step)
