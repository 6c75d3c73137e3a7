"""What the path of a rendered resource names: a study, series, instance, or frames (PS3.18 tables 10.4.1-3 and -4)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from imaging_ai.archive.retrieve import Retriever
from imaging_ai.core.instance import StoredInstance
from imaging_ai.errors import BadParameterError, NotFound
from imaging_ai.render.source import Source
from imaging_ai.serve.dicomweb.wire import uid

__all__ = ["Place", "paths"]

_FRAMES = re.compile(r"[0-9]{1,9}(,[0-9]{1,9}){0,9999}")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the archive; `frames` is empty where all are meant."""

    study: str
    series: str | None
    instance: str | None
    frames: tuple[int, ...] = ()

    @classmethod
    def of(cls, found: Mapping[str, str]) -> Place:
        """Read the parameters of a path. Raises `BadParameterError` if a UID or the frames are malformed."""
        study, series, instance = (
            uid(found[name], name) if name in found else None for name in ("study", "series", "instance")
        )
        return cls(study or "", series, instance, _frames(found["frames"]) if "frames" in found else ())

    @property
    def level(self) -> Literal["study", "series", "instance"]:
        """What kind of object it is, for the audit."""
        return "instance" if self.instance else "series" if self.series else "study"

    @property
    def object_uid(self) -> str:
        """The UID of that object."""
        return self.instance or self.series or self.study

    def stored(self, retriever: Retriever) -> tuple[StoredInstance, ...]:
        """Return the instances here. Raises `NotFound`, or `Gone` when they were deleted."""
        return tuple(one.instance for one in retriever.listed(self.study, self.series, self.instance))

    def check_frames(self, source: Source) -> None:
        """Raise `NotFound` if the instance lacks one of the frames."""
        if self.frames and max(self.frames) > source.frame_count:
            raise NotFound(f"frame {max(self.frames)} does not exist: the instance has {source.frame_count} frames")


def _frames(text: str) -> tuple[int, ...]:
    if not _FRAMES.fullmatch(text):
        raise BadParameterError("frames", "is not a list of at most 10000 frame numbers, such as 1,3")
    frames = tuple(map(int, text.split(",")))
    if min(frames) < 1:
        raise BadParameterError("frames", "frames count from 1")
    return frames


def paths(resource: str) -> list[str]:
    """Return the paths of a resource on each level."""
    study = "/studies/{study:str}"
    series = study + "/series/{series:str}"
    instance = series + "/instances/{instance:str}"
    return [f"{parent}/{resource}" for parent in (study, series, instance, instance + "/frames/{frames:str}")]
