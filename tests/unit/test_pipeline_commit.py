"""What becomes of the files of a job when the commit that registers them goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from sqlmodel import Session

import phantoms
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.folder import FolderStore
from imaging_ai.catalog import Catalog
from imaging_ai.core.job import JobState
from imaging_ai.db.engine import Database
from imaging_ai.errors import DatabaseUnavailable, ResultInvalid, WrongState
from imaging_ai.pipeline import Pipeline
from imaging_ai.queue.ledger import Ledger
from imaging_ai.sandbox.messages import Analyst, Answer, Made
from imaging_ai.send.deliveries import Deliveries
from ledgers import claim, open_database, schedule, sqlite_url
from shelf import keep


class AnswerLost(Database):
    """Commits, and then the connection breaks before anybody hears of it."""

    @contextmanager
    def write(self) -> Iterator[Session]:
        with super().write() as session:
            yield session
        raise DatabaseUnavailable("the connection to the database was lost")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    database = open_database(sqlite_url(tmp_path))
    yield Ledger(database)
    database.dispose()


@pytest.fixture
def archive(ledger: Ledger, tmp_path: Path) -> Iterator[Archive]:
    opened = Archive(ledger.database, FolderStore(tmp_path / "store", min_free_bytes=0))
    yield opened
    opened.close()


def pipeline(database: Database, ledger: Ledger, archive: Archive) -> Pipeline:
    return Pipeline(database, archive, ledger, Deliveries(database), Catalog([]), cast("Analyst", None))


def answer() -> Answer:
    (ds,) = phantoms.series(np.zeros((1, 600, 1000), np.float32), name="result")
    return Answer((), (Made.of("SEG", phantoms.to_bytes(ds)),), {})


def test_results_whose_commit_went_through_unheard_keep_their_files(
    ledger: Ledger, archive: Archive, tmp_path: Path
) -> None:
    schedule(ledger)
    job = claim(ledger)
    deaf = AnswerLost(sqlite_url(tmp_path))
    with pytest.raises(DatabaseUnavailable):
        pipeline(deaf, ledger, archive)._register(job, job.attempt, answer())
    assert ledger.get(job.id).state is JobState.COMPLETED
    (registered,) = archive.results(job.id)
    assert archive.read(registered)[128:132] == b"DICM"


def test_a_result_never_joins_a_series_that_was_received(ledger: Ledger, archive: Archive, tmp_path: Path) -> None:
    schedule(ledger)
    job = claim(ledger)
    first, forged = phantoms.series(np.zeros((2, 600, 1000), np.float32), name="received")
    keep(archive, phantoms.to_bytes(first))
    lie = Answer((), (Made.of("SEG", phantoms.to_bytes(forged)),), {})
    with pytest.raises(ResultInvalid, match="was received"):
        pipeline(ledger.database, ledger, archive)._register(job, job.attempt, lie)
    assert len(archive.instances(str(first.SeriesInstanceUID), str(first.StudyInstanceUID))) == 1
    assert ledger.get(job.id).state is JobState.IN_PROGRESS


def test_results_of_an_attempt_that_is_no_longer_ours_leave_no_file(
    ledger: Ledger, archive: Archive, tmp_path: Path
) -> None:
    schedule(ledger)
    job = claim(ledger)
    ledger.release(job.id, job.attempt)
    with pytest.raises(WrongState):
        pipeline(ledger.database, ledger, archive)._register(job, job.attempt, answer())
    assert list((tmp_path / "store" / "objects").rglob("*.dcm")) == []
