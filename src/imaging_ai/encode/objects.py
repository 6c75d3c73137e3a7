"""What the encoder hands over, and what it may be told of an earlier run."""

from __future__ import annotations

from dataclasses import dataclass, field

from imaging_ai.core.finding import ResultKind

__all__ = ["EncodedObject", "Predecessor"]


@dataclass(frozen=True, slots=True)
class Predecessor:
    """One object of the run that this run supersedes."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class EncodedObject:
    """A finished DICOM object; `data` is a complete file (PS3.10), Explicit VR Little Endian.

    `related` are the SOP Instance UIDs that it may refer to besides the source's: the other objects of its job,
    and the ones that it supersedes.
    """

    kind: ResultKind
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    data: bytes | memoryview = field(repr=False)
    related: frozenset[str] = frozenset()
