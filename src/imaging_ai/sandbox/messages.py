"""What a model's process and the one that started it say to each other, as MessagePack over a socket of the two.

What comes from the model's process is taken for what it may be, a lie: it is decoded into these types or not at all,
and its length is bounded. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from imaging_ai.archive import gate
from imaging_ai.catalog import Explaining, ModelEntry
from imaging_ai.core.finding import Evaluation, Measurement, ResultKind, SegmentDescription
from imaging_ai.core.instance import InstanceHeader
from imaging_ai.core.job import Failure, Stage
from imaging_ai.errors import InputError, ResultInvalid
from imaging_ai.sandbox.confine import Walls
from imaging_ai.sandbox.series import Lengths

__all__ = [
    "Analyst",
    "Answer",
    "Answered",
    "Begin",
    "Check",
    "Checked",
    "Failed",
    "Found",
    "FromModel",
    "Learn",
    "Made",
    "Order",
    "Progress",
    "Ready",
    "Report",
    "Said",
    "Series",
    "Spec",
    "Task",
    "ToModel",
]

#: Told the percentage that is done, and the stage.
Report = Callable[[int, Stage], None]
Series = Mapping[str, Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Spec:
    """How a process runs models: device, threads, bytes of models that stay loaded, whether bundles' own code runs."""

    device: str = "auto"
    threads: int = 0
    memory_budget: int = 4 << 30
    allow_scripts: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for, beside the series and the model.

    `supersedes` has study, series, SOP class and SOP instance UID of each object of the run that this one replaces.
    `explained` is what the rule or a person says of explanations, None for the model's own word.
    """

    job_uid: str
    created_at: float
    supersedes: tuple[tuple[str, str, str, str], ...] = ()
    reject_superseded: bool = False
    remark: str = ""
    explained: Explaining | list[str] | bool | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A finding without its region: that went into the objects."""

    segment_number: int
    description: SegmentDescription
    found: bool
    tracking_identifier: str
    tracking_uid: str
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """An object that was made: a complete DICOM file, and what it says it is."""

    kind: ResultKind
    data: bytes | memoryview
    header: InstanceHeader

    @classmethod
    def of(cls, kind: ResultKind, data: bytes | memoryview) -> Made:
        """Look at what was made.

        Raises
        ------
        ResultInvalid
            If it is no DICOM file.
        """
        try:
            return cls(kind, data, gate.scan(data, size=len(data)))
        except InputError as error:
            raise ResultInvalid(f"a model's process made what is no DICOM object: {error.message}") from error

    @property
    def sop_instance_uid(self) -> str:
        """The SOP Instance UID."""
        return self.header.sop_instance_uid


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a model made of a series. `refused` says why it was not read; the only object is then the report of that.

    `share` is the part of the memory for jobs, of this machine or of its GPU, that it took; None where not measured.
    """

    findings: tuple[Found, ...]
    objects: tuple[Made, ...]
    provenance: dict[str, object]
    evaluations: tuple[Evaluation, ...] = ()
    refused: Failure | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """What a trial of a model showed; `shape`, `seconds`, `peak_bytes` and `said` are of a run on a phantom."""

    device: str
    model_bytes: int
    load_seconds: float
    shape: tuple[int, ...] = ()
    seconds: float = 0.0
    peak_bytes: int = 0
    said: str = ""


class Analyst(Protocol):
    """What runs a model on a series: a confined process, or (in tests) this one."""

    def analyse(self, entry: ModelEntry, digest: str, series: Series, order: Order, report: Report) -> Answer:
        """Run the bundle that has `digest`; raise as `analysis.analyse` does."""


# -- to the model's process


class Begin(msgspec.Struct, frozen=True, tag=True):
    """First of all, behind the walls."""

    spec: Spec
    log_level: int


class Task(msgspec.Struct, frozen=True, tag=True):
    """Run a model; a descriptor with the series follows."""

    name: str
    bundle: str
    digest: str
    lengths: Lengths
    order: Order


class Check(msgspec.Struct, frozen=True, tag=True):
    """Load a model, and run it on a phantom."""

    name: str
    bundle: str
    digest: str
    trial: bool


class Learn(msgspec.Struct, frozen=True, tag=True):
    """Say what a layer answers to a series, the deepest when it is not named; a descriptor with the series follows."""

    name: str
    bundle: str
    digest: str
    lengths: Lengths
    layer: str


ToModel = Begin | Task | Check | Learn

# -- from it


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It did not work: an error of ours by name and arguments, or the type of another's."""

    kind: str
    arguments: tuple[str, ...] = ()


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The walls stand, as far as they do, and the libraries are loaded."""

    walls: Walls
    failed: Failed | None = None


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How far it is."""

    percent: int
    stage: Stage


class Said(msgspec.Struct, frozen=True, tag=True):
    """A record for the log."""

    level: int
    logger: str
    text: str


class Answered(msgspec.Struct, frozen=True, tag=True):
    """It has ended well; the bytes of each object follow, in their order, so many of each.

    `on_gpu` says of a GPU's memory, in bytes, what the process holds, the most that it held, and how much there is.
    """

    findings: tuple[Found, ...] = ()
    kinds: tuple[ResultKind, ...] = ()
    lengths: tuple[int, ...] = ()
    provenance: dict[str, object] = {}
    evaluations: tuple[Evaluation, ...] = ()
    refused: Failure | None = None
    checked: Checked | None = None
    features: tuple[str, tuple[float, ...]] | None = None
    on_gpu: tuple[int, int, int] = (0, 0, 0)


FromModel = Ready | Progress | Said | Failed | Answered
