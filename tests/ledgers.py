"""Ledgers for tests: databases with the schema, requests, a clock to turn, and jobs in a given state."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from sqlmodel import SQLModel

from imaging_ai.core.identity import new_uid
from imaging_ai.core.job import Job, JobRequest
from imaging_ai.db.engine import Database
from imaging_ai.queue.ledger import Ledger

_numbers = itertools.count()


class Clock:
    """A clock that goes only when told."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        self.now += seconds
        return self.now


def open_database(url: str) -> Database:
    """Open a database and create its tables."""
    database = Database(url)
    SQLModel.metadata.create_all(database.engine)
    return database


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'ledger.sqlite'}"


def request(**given: Any) -> JobRequest:
    """Return a request for work that nobody has asked for yet."""
    values: dict[str, Any] = {
        "dedupe_key": f"key-{next(_numbers)}",
        "study_instance_uid": new_uid(),
        "series_instance_uids": (new_uid(),),
        "inputs": (),
        "revision": 1,
        "rule": "rule",
        "model": "model",
        "queue": "inference-cpu",
    }
    return JobRequest(**values | given)


def schedule(ledger: Ledger, **given: Any) -> int:
    """Schedule a job and return its id."""
    with ledger.database.write() as session:
        job_id = ledger.schedule(session, request(**given))
    assert job_id is not None
    return job_id


def claim(ledger: Ledger, queue: str = "inference-cpu", owner: str = "elsewhere:1:a") -> Job:
    """Claim a job that must be there."""
    job = ledger.claim(queue, owner, 30.0)
    assert job is not None
    return job


def complete(ledger: Ledger, job: Job) -> None:
    with ledger.database.write() as session:
        ledger.complete(session, job.id, job.attempt, {"device": "cpu"})
