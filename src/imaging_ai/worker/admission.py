"""How many jobs run at once on a machine: as many as are known to fit into its memory together.

What a job takes is known from those before it: of the same model, on a series of about as many instances or more. One
of which nothing is known runs alone. They are let in by turns, so that one that must wait is not overtaken for ever.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imaging_ai.core.job import Failure, Job
from imaging_ai.worker.child import Interrupt

__all__ = ["Admission", "Shares"]

Stop = Failure | Interrupt

#: A run may take so much more than the one before.
_MARGIN = 1.1
_CHECK_EVERY = 0.5


class Shares:
    """The shares of memory that jobs took, by digest of the model and instances of the series, in powers of two."""

    def __init__(self) -> None:
        self._taken: dict[str, dict[int, float]] = {}

    def of(self, digest: str, instances: int) -> float:
        """Return the share that such a job will take at most; 1, which is all, where that is not known."""
        known = self._taken.get(digest, {})
        size = min((one for one in known if one >= instances.bit_length()), default=None)
        return 1.0 if size is None else min(1.0, known[size] * _MARGIN)

    def took(self, digest: str, instances: int, share: float) -> None:
        """Keep what a job took."""
        known, size = self._taken.setdefault(digest, {}), instances.bit_length()
        known[size] = max(share, known.get(size, 0.0))

    def forget(self, digest: str) -> None:
        """Forget what was known of a model: it has turned out to be too little."""
        self._taken.pop(digest, None)


class Admission:
    """The door that jobs wait at until they fit in beside those that run."""

    def __init__(self) -> None:
        self._shares = Shares()
        self._inside: dict[int, float] = {}
        self._waiting: deque[int] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def admitted(self, job: Job, check: Callable[[], Stop | None]) -> Iterator[Stop | None]:
        """Wait until a job fits in, and let it out at the end of the block.

        `check` is asked twice a second; when it has something to say, the block gets that, and the job is not let in.
        """
        try:
            yield self._enter(job, check)
        finally:
            with self._changed:
                self._inside.pop(job.id, None)
                self._changed.notify_all()

    def took(self, job: Job, share: float | None, *, too_much: bool) -> None:
        """Keep what share of the memory a job took, None where that is not known; or that there was too little."""
        with self._changed:
            if too_much:
                self._shares.forget(job.model_digest)
            elif share is not None:
                self._shares.took(job.model_digest, len(job.inputs), share)

    def _enter(self, job: Job, check: Callable[[], Stop | None]) -> Stop | None:
        with self._changed:
            self._waiting.append(job.id)
        try:
            while not self._let_in(job):
                if (stopped := check()) is not None:
                    return stopped
            return None
        finally:
            with self._changed:
                self._waiting.remove(job.id)
                self._changed.notify_all()

    def _let_in(self, job: Job) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self._fits(job), _CHECK_EVERY):
                return False
            self._inside[job.id] = self._shares.of(job.model_digest, len(job.inputs))
            return True

    def _fits(self, job: Job) -> bool:
        share = self._shares.of(job.model_digest, len(job.inputs))
        first = self._waiting[0] == job.id
        return first and (not self._inside or sum(self._inside.values()) + share <= 1.0)
