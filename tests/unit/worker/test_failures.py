"""What a job, the log and the operator get to know of an exception."""

from __future__ import annotations

import pytest

from imaging_ai.core.job import Failure, Stage
from imaging_ai.errors import DatabaseUnavailable, ModelFailed, ModelOutOfMemory, SeriesRefused
from imaging_ai.logs import where
from imaging_ai.worker.failures import failure_of


@pytest.mark.parametrize(
    ("error", "code", "reason", "permanent"),
    [
        (ModelFailed("the output has no segment"), "model-failed", "the output has no segment", True),
        (ModelOutOfMemory("no memory left"), "model-out-of-memory", "no memory left", False),
        (DatabaseUnavailable("away"), "database-unavailable", "away", False),
        (MemoryError(), "model-out-of-memory", "the process ran out of memory", False),
        (OSError(28, "No space left on device", "/x/Doe"), "system-error", "No space left on device", False),
        (KeyError("Doe"), "internal-error", "KeyError; the log says where", True),
    ],
)
def test_an_exception_becomes_a_failure(error: Exception, code: str, reason: str, permanent: bool) -> None:
    assert failure_of(error, Stage.INFER) == Failure(Stage.INFER, code, reason, permanent)


def test_a_series_that_is_refused_is_at_fault_when_it_was_read_whenever_that_shows() -> None:
    refused = failure_of(SeriesRefused("gantry-tilt", "tilted by 12 degrees"), Stage.INFER)
    assert refused == Failure(Stage.READ, "gantry-tilt", "tilted by 12 degrees", permanent=True)


def test_where_tells_lines_and_causes_but_no_messages() -> None:
    def fail() -> None:
        try:
            raise KeyError("-".join(("a", "name")))
        except KeyError as error:
            raise ValueError("-".join(("a", "name"))) from error

    with pytest.raises(ValueError, match="name") as caught:
        fail()
    told = where(caught.value)
    assert "ValueError" in told
    assert "caused by KeyError" in told
    assert "in fail" in told
    assert "a-name" not in told
