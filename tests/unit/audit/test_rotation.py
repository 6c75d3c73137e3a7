"""Another key: it seals from one event on, in every process, and what was sealed before is all the old one is for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from imaging_ai import audit
from imaging_ai.audit.event import GENESIS, Event
from imaging_ai.audit.keys import Keyring, open_keys
from imaging_ai.audit.retention import archive_events, verify_segment
from imaging_ai.audit.rotation import rotate_key
from imaging_ai.audit.trail import append, attach, executor, head
from imaging_ai.audit.verify import Report, verify
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.errors import UnavailableError


class House:
    """A database, its key file, and processes that have both open."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.path = url, folder / "audit.key"
        self.first = self.process()
        migrate.upgrade(self.first)

    def process(self, path: Path | None = None) -> Database:
        database = Database(self.url)
        attach(database, open_keys(path or self.path))
        return database

    def rotate(self, database: Database | None = None, path: Path | None = None) -> Keyring:
        return rotate_key(database or self.first, path or self.path, actor="root")

    def verify(self) -> Report:
        return verify(self.first, open_keys(self.path))


both = pytest.mark.parametrize(
    "house", ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)], indirect=True
)


@pytest.fixture
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    kind = getattr(request, "param", "sqlite")
    url = f"sqlite:///{tmp_path}/x.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    house = House(url, tmp_path)
    yield house
    house.first.dispose()


def write(database: Database, count: int = 1) -> None:
    for _ in range(count):
        with database.write() as session:
            audit.record(session, "send", object_type="instance", object_uid="1.2")


def forge(database: Database, keys: Keyring, *, after: int) -> None:
    """Write three events at the end as somebody does who has the database and a key, and nothing else of ours."""
    number, _ = head(database) or (0, GENESIS)
    with database.engine.begin() as connection:
        off = "DROP TRIGGER audit_event_kept" if database.is_sqlite else "ALTER TABLE audit_event DISABLE TRIGGER ALL"
        if after < number:
            connection.execute(text(off))
            connection.execute(text("DELETE FROM audit_event WHERE id > :after"), {"after": after})
        thief = Database(database.url)
        attach(thief, Keyring(keys.keys, keys.current))
        events = [Event(1.0, "send", "success", "A", "", "instance", "1.2", "never happened")] * 3
        append(executor(connection), events, thief.info, shared=False)
        thief.dispose()


def test_the_new_key_seals_from_its_event_on_and_both_verify(house: House) -> None:
    write(house.first, 2)
    old = open_keys(house.path)
    new = house.rotate()
    write(house.first, 2)
    report = house.verify()
    assert (report.whole, report.keys) == (True, {old.current: (1, 2), new.current: (3, 5)})
    with house.first.read() as session:
        row = session.connection().execute(text("SELECT action, actor, detail FROM audit_event WHERE id = 3")).one()
    assert row == ("audit.rotate-key", "root", f"{old.current} is replaced by {new.current}")
    assert not verify(house.first, Keyring.of(new.key)).whole, "the earlier key is needed"
    assert not verify(house.first, old).whole, "and the later one"


@both
def test_every_process_seals_with_it_from_its_next_event_on(house: House) -> None:
    others = [house.process() for _ in range(3)]
    write(others[0])
    with others[1].write() as session:  # a transaction that is open meanwhile, where that can be
        audit.record(session, "send", object_type="instance", object_uid="1.2")
        if not house.first.is_sqlite:
            house.rotate()
    house.rotate()
    for one in others:
        write(one)
    house.rotate(others[2])
    write(house.first)
    assert house.verify().whole
    assert len(house.verify().keys) == (3 if house.first.is_sqlite else 4)
    for one in others:
        one.dispose()


def test_an_old_key_cannot_add_an_event(house: House) -> None:
    write(house.first, 2)
    old = open_keys(house.path)
    house.rotate()
    forge(house.first, old, after=3)
    report = house.verify()
    assert [(one.sequence, one.reason.split(", ")[-1]) for one in report.broken] == [
        (sequence, "which was replaced before") for sequence in (4, 5, 6)
    ]


def test_an_old_key_cannot_write_the_end_anew_from_before_the_rotation_on(house: House) -> None:
    write(house.first, 2)
    old = open_keys(house.path)
    house.rotate()
    forge(house.first, old, after=2)
    (told,) = house.verify().broken
    assert (told.sequence, "although it was replaced by" in told.reason) == (5, True)


def test_an_old_key_cannot_change_what_it_has_sealed(house: House) -> None:
    write(house.first, 4)
    old = open_keys(house.path)
    with house.first.read() as session:
        end = session.connection().execute(text("SELECT * FROM audit_event WHERE id = 4")).one()
    house.rotate()
    kept = _rows_after(house.first, 4)
    forge(house.first, old, after=1)
    with house.first.engine.begin() as connection:
        for row in kept:
            names = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO audit_event VALUES ({names})"), row)
    assert end.hash
    assert {one.sequence for one in house.verify().broken} == {5}, "the seal of the new key is over what stood there"


def _rows_after(database: Database, number: int) -> list[dict[str, object]]:
    with database.read() as session:
        found = session.connection().execute(
            text("SELECT * FROM audit_event WHERE id > :id ORDER BY id"), {"id": number}
        )
        return [dict(row) for row in found.mappings()]


def test_a_segment_in_which_a_replaced_key_seals_again_is_none(house: House, tmp_path: Path) -> None:
    write(house.first, 2)
    house.rotate()
    write(house.first, 2)
    keys = open_keys(house.path)
    assert archive_events(house.first, keys, (), 1e12, tmp_path / "one", actor="root")
    assert verify_segment(tmp_path / "one", keys).whole
    assert house.verify().whole
    turned = Keyring.of(*reversed(keys.keys.values()))
    assert not verify_segment(tmp_path / "one", turned).whole


@both
def test_a_host_that_has_the_new_key_not_yet_says_so_and_does_nothing_unseen(house: House, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = Path(shutil.copy2(house.path, tmp_path / "elsewhere"))
    elsewhere = house.process(path)
    write(elsewhere)
    house.rotate()
    with pytest.raises(UnavailableError, match=r"lacks the key .* bring the file here"):
        write(elsewhere)
    with pytest.raises(UnavailableError, match="bring the file here"):
        house.rotate(elsewhere, path)
    assert path.read_text() != house.path.read_text()
    path.unlink()
    with pytest.raises(UnavailableError, match="cannot be read"):
        write(elsewhere)
    assert not path.exists(), "no key is made up while a process runs"
    shutil.copy2(house.path, path)
    write(elsewhere)
    assert house.verify().whole
    elsewhere.dispose()


def test_when_all_keys_were_lost_a_new_one_goes_on_and_the_trail_shows_it(house: House) -> None:
    write(house.first, 3)
    house.path.unlink()
    later = house.process()
    write(later, 2)
    report = house.verify()
    assert [one.sequence for one in report.broken] == [1, 2, 3]
    assert list(report.keys.values()) == [(4, 5)]
    later.dispose()


@both
def test_a_rotation_that_ended_half_way_is_ended_by_the_next_role(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(house.first)

    def power_cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(audit, "record", power_cut)
        house.rotate()
    assert len(open_keys(house.path).keys) == 2
    later = house.process()
    write(later)
    write(house.first)
    assert house.verify().whole
    assert list(house.verify().keys.values()) == [(1, 1), (2, 3)]
    later.dispose()
