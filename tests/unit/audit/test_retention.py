"""Old events go to a file that proves itself, and what is left still verifies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from imaging_ai import audit
from imaging_ai.audit.anchor import anchor, anchors_in
from imaging_ai.audit.keys import Keyring
from imaging_ai.audit.retention import archive_events, verify_segment
from imaging_ai.audit.search import Search, found_by
from imaging_ai.audit.trail import attach
from imaging_ai.audit.verify import Report, checkpoint_seal, feed_seal, verify
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.errors import InputError, StorageUnavailable, WrongState

KEYS = Keyring.of(b"k" * 32)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Ten events and their anchor."""
    url = f"sqlite:///{tmp_path}/x.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    database = Database(url)
    attach(database, KEYS)
    migrate.upgrade(database)
    for _ in range(10):
        with database.write() as session:
            audit.record(session, "send", object_type="instance", object_uid="1.2")
    anchor(database, tmp_path / "anchors")
    yield database
    database.dispose()


def moment_of(database: Database, sequence: int) -> float:
    (page,) = found_by(database, Search())
    return next(one.event.at for one in page if one.sequence == sequence)


def archive(database: Database, before: float, path: Path) -> int:
    done = archive_events(database, KEYS, anchors_in(path.parent / "anchors"), before, path, actor="root")
    return done.last if done else 0


def checked(database: Database, folder: Path) -> Report:
    return verify(database, KEYS, anchors_in(folder / "anchors"))


def test_what_is_archived_proves_itself_and_what_is_left_too(database: Database, tmp_path: Path) -> None:
    assert archive(database, moment_of(database, 5), tmp_path / "one") == 4
    anchor(database, tmp_path / "anchors")
    left = checked(database, tmp_path)
    assert (left.whole, left.begins_after, left.events, left.last) == (True, 4, 7, 11)
    assert archive(database, time.time(), tmp_path / "two") == 10, "all but the newest"
    assert archive(database, time.time(), tmp_path / "three") == 11, "the event of that archiving is the newest now"
    first, second, third = (verify_segment(tmp_path / name, KEYS) for name in ("one", "two", "three"))
    assert [one.whole for one in (first, second, third)] == [True] * 3
    assert [(one.begins_after, one.last) for one in (first, second, third)] == [(0, 4), (4, 10), (10, 11)]
    assert (first.last, first.hash, second.hash) == (second.begins_after, second.begins_with, third.begins_with)
    (page,) = found_by(database, Search())
    assert [(one.sequence, one.event.action) for one in page] == [(12, "audit.archive"), (13, "audit.archive")]
    assert checked(database, tmp_path).whole


def test_nothing_is_archived_of_a_broken_trail_or_over_a_file_or_before_its_beginning(
    database: Database, tmp_path: Path
) -> None:
    assert archive(database, 0.0, tmp_path / "none") == 0
    (tmp_path / "there").write_text("kept")
    with pytest.raises(StorageUnavailable):
        archive(database, time.time(), tmp_path / "there")
    assert (tmp_path / "there").read_text() == "kept"
    with database.engine.begin() as connection:
        off = (
            "DROP TRIGGER audit_event_unchanged"
            if database.is_sqlite
            else "ALTER TABLE audit_event DISABLE TRIGGER ALL"
        )
        connection.execute(text(off))
        connection.execute(text("UPDATE audit_event SET actor = 'x' WHERE id = 9"))
    with pytest.raises(WrongState, match="broken at event 9"):
        archive(database, moment_of(database, 3), tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


def test_what_a_syslog_server_is_still_to_get_stays(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        values = {"seal": feed_seal(KEYS.key, "syslog", 6)}
        session.connection().execute(text("INSERT INTO audit_feed VALUES ('syslog', 6, '', 0, :seal)"), values)
    assert archive(database, time.time(), tmp_path / "one") == 6


def test_any_change_of_a_segment_is_found(database: Database, tmp_path: Path) -> None:
    archive(database, moment_of(database, 5), tmp_path / "one")
    lines = (tmp_path / "one").read_text().splitlines()
    assert len(lines) == 6
    for number, line in enumerate(lines):
        for name, value in json.loads(line).items():
            other = value + 1 if not isinstance(value, str) else ("1" if value[:1] != "1" else "2") + value[1:]
            assert is_broken(
                tmp_path, [*lines[:number], json.dumps({**json.loads(line), name: other}), *lines[number + 1 :]]
            )
        assert is_broken(tmp_path, [*lines[:number], *lines[number + 1 :]]), "a line was removed"


def is_broken(folder: Path, lines: list[str]) -> bool:
    (folder / "changed").write_text("\n".join(lines) + "\n")
    try:
        return not verify_segment(folder / "changed", KEYS).whole
    except InputError:
        return True


def test_a_checkpoint_that_somebody_made_is_found(database: Database, tmp_path: Path) -> None:
    """Whoever has only the database may let it delete by a checkpoint, but cannot seal one."""
    with database.engine.begin() as connection:
        sealed = connection.scalar(text("SELECT hash FROM audit_event WHERE id = 4"))
        values = {"hash": sealed, "key": KEYS.current, "seal": "0" * 64}
        connection.execute(text("INSERT INTO audit_checkpoint VALUES (4, :hash, :key, :seal)"), values)
        connection.execute(text("DELETE FROM audit_event WHERE id <= 3"))
    told = [(one.sequence, one.reason.split(" ")[1]) for one in checked(database, tmp_path).broken]
    assert told == [(4, "checkpoint"), (4, "event"), (4, "event")]


def test_a_checkpoint_that_no_event_tells_of_is_found_whatever_key_it_has(database: Database, tmp_path: Path) -> None:
    """Else an earlier key, once stolen, would be good for removing the oldest events."""
    with database.engine.begin() as connection:
        sealed = str(connection.scalar(text("SELECT hash FROM audit_event WHERE id = 4")))
        seal = checkpoint_seal(KEYS.key, 4, sealed, KEYS.current)
        values = {"hash": sealed, "key": KEYS.current, "seal": seal}
        connection.execute(text("INSERT INTO audit_checkpoint VALUES (4, :hash, :key, :seal)"), values)
        connection.execute(text("DELETE FROM audit_event WHERE id <= 4"))
    (told,) = checked(database, tmp_path).broken
    assert told.reason == "no event tells of the checkpoint that the trail begins at"
