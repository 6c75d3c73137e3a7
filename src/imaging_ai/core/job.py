"""A job: the state machine of a Unified Procedure Step (PS3.4 CC.1.1), with lease, attempts and a failure.

SCHEDULED ──claim──▶ IN PROGRESS ──▶ COMPLETED
    │ ▲                  │
    │ └── retry, lost ───┤
    └──── cancel ────▶ CANCELED ◀── failed for good, cancelled while running
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

__all__ = [
    "FINAL_STATES",
    "SHADOW_OF",
    "TRANSITIONS",
    "DeliveryState",
    "Failure",
    "Job",
    "JobRequest",
    "JobState",
    "Priority",
    "Stage",
]


#: The parameter of a job that names the model behind which it runs.
SHADOW_OF = "shadow_of"


class JobState(StrEnum):
    """Procedure Step State (0074,1000)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


FINAL_STATES = frozenset({JobState.COMPLETED, JobState.CANCELED})

#: Which state may follow which. IN PROGRESS goes back to SCHEDULED when its worker was lost or the failure is passing.
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.SCHEDULED: frozenset({JobState.IN_PROGRESS, JobState.CANCELED}),
    JobState.IN_PROGRESS: frozenset({JobState.COMPLETED, JobState.CANCELED, JobState.SCHEDULED}),
    JobState.COMPLETED: frozenset(),
    JobState.CANCELED: frozenset({JobState.SCHEDULED}),  # replay by hand (`jobs retry`)
}


class Priority(IntEnum):
    """Scheduled Procedure Step Priority (0074,1200), ordered: the larger goes first."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2


class Stage(StrEnum):
    """Where in the flow a job is, or failed."""

    ROUTE = "route"
    QUEUE = "queue"
    READ = "read"
    INFER = "infer"
    EXPLAIN = "explain"
    ENCODE = "encode"
    VALIDATE = "validate"
    REGISTER = "register"
    SEND = "send"


class DeliveryState(StrEnum):
    """The life of one (result, destination)."""

    WAITING = "WAITING"
    SENDING = "SENDING"
    SENT = "SENT"  # the peer answered success; not yet seen at the peer
    CONFIRMED = "CONFIRMED"
    DEAD = "DEAD"  # refused for good, or out of attempts; replay by hand


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job ended without a result: the stage, a short code, and a sentence without patient data."""

    stage: Stage
    code: str
    reason: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Job:
    """One run of one model version on one series (or set of series), as the ledger has it.

    Times are seconds since the epoch, UTC. `attempt` counts claims; a worker may only finish the
    attempt that it claimed. `max_attempts` bounds those that failed. `model` is "" for an entry
    that only records why nothing ran.
    """

    id: int
    job_uid: str
    state: JobState
    priority: Priority
    queue: str
    study_instance_uid: str
    series_instance_uids: tuple[str, ...]
    revision: int
    rule: str
    model: str
    model_digest: str
    destinations: tuple[str, ...]
    attempt: int
    max_attempts: int
    progress: int
    stage: Stage
    created_at: float
    not_before: float
    started_at: float | None = None
    finished_at: float | None = None
    cancel_requested: bool = False
    failure: Failure | None = None
    supersedes: int | None = None
    provenance: dict[str, object] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    parameters: dict[str, object] = field(default_factory=dict)

    @property
    def shadow_of(self) -> str:
        """The model that this run stands behind: its results are kept and not sent; "" for a run that counts."""
        return str(self.parameters.get(SHADOW_OF, ""))


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What the router asks of the ledger: run `model` on these instances.

    `dedupe_key` is the same for the same model, rule and input instances, so that asking twice is asking once.
    `inputs` are the SOP Instance UIDs as the rules saw them. `model` is "" when the request only records why
    nothing ran; `queue` is then "". `job_uid` is given for a work item that asks for the run; otherwise it is made.
    """

    dedupe_key: str
    study_instance_uid: str
    series_instance_uids: tuple[str, ...]
    inputs: tuple[str, ...]
    revision: int
    rule: str = ""
    model: str = ""
    model_digest: str = ""
    queue: str = ""
    destinations: tuple[str, ...] = ()
    priority: Priority = Priority.MEDIUM
    parameters: dict[str, object] = field(default_factory=dict)
    job_uid: str = ""
