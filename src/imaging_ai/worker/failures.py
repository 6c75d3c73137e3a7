"""From exceptions to what the ledger, the log and the operator get to know of them.

Messages of our own errors are written for people and carry no patient data. Those of others may carry anything, so
only their type and the lines they passed are told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from imaging_ai.core.job import Failure, Stage
from imaging_ai.errors import ImagingAiError, ModelOutOfMemory, SeriesRefused, UnavailableError

__all__ = ["Outage", "failure_of"]


def failure_of(error: BaseException, stage: Stage) -> Failure:
    """Return what an exception in a stage means for the job."""
    if isinstance(error, SeriesRefused):
        return Failure(Stage.READ, error.reason, error.message, permanent=True)  # the series, not the machine
    if isinstance(error, ImagingAiError):
        return Failure(stage, error.code, error.message, permanent=not error.retry)
    if isinstance(error, MemoryError):
        return Failure(stage, ModelOutOfMemory.code, "the process ran out of memory", permanent=False)
    if isinstance(error, OSError):
        return Failure(stage, "system-error", error.strerror or type(error).__name__, permanent=False)
    return Failure(stage, "internal-error", f"{type(error).__name__}; the log says where", permanent=True)


class Outage:
    """Bears with a part of the server that is away: says so once, and once when it is back."""

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger, self._what = logger, what
        self._away = False

    @contextmanager
    def tolerated(self) -> Iterator[None]:
        """Swallow and log an `UnavailableError` of the block."""
        try:
            yield
        except UnavailableError as error:
            if not self._away:
                self._logger.warning("%s waits: %s", self._what, error)
            self._away = True
        else:
            if self._away:
                self._logger.info("%s goes on", self._what)
            self._away = False
