"""Time points of a series that shows each plane several times (a cine), told apart by the tags that tell the time.

Only time is taken apart here: what differs in echo, b-value or kernel at one place stays refused (`stack.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pydicom import Dataset

from imaging_ai.errors import SeriesRefused
from imaging_ai.infer.frames import Frame, Part, frames_of
from imaging_ai.infer.volume import parse_instance

__all__ = ["time_points"]

#: What tells the time of an image within a cycle or a passage, the most telling first.
_TIMES = (
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "NominalPercentageOfCardiacPhase",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "FrameReferenceTime",
    "ContentTime",
    "AcquisitionTime",
)
#: What images differ in that are not of the same kind, whenever they were taken.
_KINDS = frozenset({"DiffusionBValue", "EchoTime", "EchoNumbers", "ImageType", "FrameType", "ConvolutionKernel"})
#: Places are the same when they are nearer than this, in millimetres.
_SAME_PLACE = 0.02

_Place = tuple[int, ...]


def time_points(series: Mapping[str, Iterable[bytes | Dataset]]) -> Sequence[Mapping[str, Sequence[Dataset | Part]]]:
    """Split one series into its time points, in order; what has one, or is several series, comes back as it is.

    Of an enhanced multi-frame instance each time point has some frames.

    Raises
    ------
    SeriesRefused
        If it has several images at its places that time tells apart, but not as many at each.
    """
    parsed = {name: [parse_instance(file) for file in files] for name, files in series.items()}
    whole: list[Mapping[str, Sequence[Dataset | Part]]] = [parsed]
    if len(parsed) > 1:
        return whole
    [(name, datasets)] = parsed.items()
    places = _places(datasets)
    counts = sorted(len(frames) for frames in places.values())
    usual = counts[len(counts) // 2] if counts else 1
    keyword = _telling(places.values()) if usual > 1 else None
    if keyword is None:  # one volume, or several that are not told apart by time: reading it decides
        return whole
    if counts[0] < counts[-1]:
        raise SeriesRefused(
            "repeated-positions",
            f"the {len(places)} positions have {counts[0]} to {counts[-1]} time points each: send the cine whole",
        )
    ordered = [sorted(frames, key=lambda frame: float(dict(frame.phases)[keyword])) for frames in places.values()]
    return [{name: _parts(frames[k] for frames in ordered)} for k in range(usual)]


def _parts(frames: Iterable[Frame]) -> list[Dataset | Part]:
    """Return what holds these frames and no other."""
    held: dict[int, list[Frame]] = {}
    for frame in frames:
        held.setdefault(id(frame.ds), []).append(frame)
    return [
        Part(some[0].ds, frozenset(one.index for one in some)) if "NumberOfFrames" in some[0].ds else some[0].ds
        for some in held.values()
    ]


def _places(datasets: Iterable[Dataset]) -> dict[_Place, list[Frame]]:
    """Gather the frames by where they lie."""
    places: dict[_Place, list[Frame]] = {}
    for ds in datasets:
        try:
            frames = frames_of(ds)
        except SeriesRefused:
            continue
        for frame in frames:
            if not frame.localizer:
                where = np.concatenate([frame.position / _SAME_PLACE, frame.orientation * 1000])
                places.setdefault(tuple(np.rint(where).astype(int).tolist()), []).append(frame)
    return places


def _telling(places: Iterable[Sequence[Frame]]) -> str | None:
    """Return the first keyword by which all images at each place differ, if they are of one kind."""
    groups = list(places)
    if any(len({_kind(frame) for frame in frames}) > 1 for frames in groups):
        return None  # each of them has a time of its own too
    for keyword in _TIMES:
        values = [[_number(dict(frame.phases).get(keyword)) for frame in frames] for frames in groups]
        if all(None not in found and len(set(found)) == len(found) for found in values):
            return keyword
    return None


def _kind(frame: Frame) -> tuple[tuple[str, str], ...]:
    return tuple(phase for phase in frame.phases if phase[0] in _KINDS)


def _number(value: str | None) -> float | None:
    try:
        return float(value or "")
    except ValueError:
        return None
