"""Comparing a run in the shadow: whatever goes wrong with it, the job that has completed is none the worse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import encoded
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.folder import FolderStore
from imaging_ai.core.job import SHADOW_OF, JobState
from imaging_ai.queue.ledger import Ledger
from imaging_ai.shadow import Shadows
from ledgers import claim, complete, open_database, schedule, sqlite_url


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


def pair(ledger: Ledger) -> tuple[int, int]:
    """Complete a job and its twin in the shadow; return their ids."""
    same = {"study_instance_uid": "1.2", "series_instance_uids": ("1.2.3",)}
    shown = schedule(ledger, model="spleen", **same)
    complete(ledger, claim(ledger))
    shadow = schedule(ledger, model="spleen@2", parameters={SHADOW_OF: "spleen"}, **same)
    complete(ledger, claim(ledger))
    return shown, shadow


@pytest.mark.parametrize("last", ["shown", "shadow"])
def test_whichever_ends_second_leaves_the_agreement_with_the_one_in_the_shadow(
    ledger: Ledger, archive: Archive, last: str
) -> None:
    shown, shadow = pair(ledger)
    volume = encoded.phantom_volume((4, 6, 6))
    objects = [one.data for one in encoded.encode(volume).values()]
    Shadows(archive, ledger).note(ledger.get({"shown": shown, "shadow": shadow}[last]), objects)
    kept = ledger.get(shadow).provenance["agreement"]
    assert isinstance(kept, dict) and kept["with"] == shown and kept["identical"] is False
    assert "agreement" not in ledger.get(shown).provenance


def test_results_that_cannot_be_compared_leave_the_job_completed(ledger: Ledger, archive: Archive) -> None:
    _, shadow = pair(ledger)
    Shadows(archive, ledger).note(ledger.get(shadow), [b"nothing that is DICOM"])
    assert ledger.get(shadow).state is JobState.COMPLETED
    assert "agreement" not in ledger.get(shadow).provenance
