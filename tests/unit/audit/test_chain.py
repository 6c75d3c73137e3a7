"""The chain: written in its order by many at once, and whatever is done to it afterwards is found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from imaging_ai import audit
from imaging_ai.audit import trail
from imaging_ai.audit.anchor import Anchor, anchor, anchors_in
from imaging_ai.audit.event import COLUMNS
from imaging_ai.audit.keys import Keyring
from imaging_ai.audit.trail import attach, head
from imaging_ai.audit.verify import Report, verify
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.errors import ConfigError, DatabaseUnavailable

KEYS = Keyring.of(b"k" * 32)
WRITERS, EACH = 8, 1_250


def open_database(url: str) -> Database:
    database = Database(url)
    attach(database, KEYS)
    migrate.upgrade(database)
    return database


def write(database: Database, count: int = 1, *, detail: str = "") -> None:
    with database.write() as session:
        for number in range(count):
            audit.record(session, "send", object_type="instance", object_uid=f"1.2.{number}", detail=detail, actor="A")


def write_at_once(database: Database, writers: int, each: int) -> None:
    """Events of many threads, some alone in a transaction, some with others, some rolled back."""

    def run(writer: int) -> None:
        for number in range(0, each, 5):
            with database.write() as session:
                for part in range(5):
                    audit.record(session, "send", object_type="instance", object_uid=f"1.{writer}.{number + part}")
            if number % 50 == 0:
                with pytest.raises(ZeroDivisionError), database.write() as session:
                    audit.record(session, "send", object_type="instance", object_uid="never")
                    raise ZeroDivisionError

    threads = [threading.Thread(target=run, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def tamper(database: Database, *statements: str) -> None:
    """Do as somebody does who has the database, and takes the triggers away first."""
    with database.engine.begin() as connection:
        for table in ("audit_event", "audit_checkpoint"):
            if database.is_sqlite:
                names = (
                    connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all()
                )
                for name in names:
                    connection.execute(text(f"DROP TRIGGER {name}"))
            else:
                connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))
        for statement in statements:
            connection.execute(text(statement))


def rows(database: Database) -> list[tuple[Any, ...]]:
    with database.read() as session:
        return [tuple(row) for row in session.connection().execute(text("SELECT * FROM audit_event ORDER BY id"))]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], str]:
    def url(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path_factory.mktemp('trail')}/x.db"
        return str(request.getfixturevalue("postgres_server").new_database())

    return url


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def full(request: pytest.FixtureRequest, urls: Callable[[str], str]) -> Iterator[Database]:
    """10,000 events by eight writers at once; tests put back what they change."""
    database = open_database(urls(request.param))
    write_at_once(database, WRITERS, EACH)
    yield database
    database.dispose()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/x.db")
    yield database
    database.dispose()


def checked(database: Database, *anchors: Anchor | None) -> Report:
    return verify(database, KEYS, anchors)


def first_break(database: Database, *anchors: Anchor | None) -> int:
    report = checked(database, *anchors)
    assert not report.whole, "nothing was found"
    return min(one.sequence for one in report.broken)


# -- written


def test_ten_thousand_events_of_writers_at_once_are_one_chain_without_gaps(full: Database) -> None:
    report = checked(full)
    assert (report.whole, report.events, report.last) == (True, WRITERS * EACH, WRITERS * EACH)
    per_writer: dict[str, list[int]] = {}
    for row in rows(full):
        _, writer, number = row[7].split(".")
        per_writer.setdefault(writer, []).append(int(number))
    assert all(numbers == sorted(numbers) for numbers in per_writer.values()), "a writer's own order"


def test_what_is_rolled_back_leaves_no_event_and_no_gap(database: Database) -> None:
    write(database)
    with pytest.raises(RuntimeError), database.write() as session:
        audit.record(session, "send", object_type="instance", object_uid="1")
        session.flush()
        raise RuntimeError
    write(database)
    assert checked(database).last == 2


def test_odd_characters_are_kept_as_every_database_can() -> None:
    assert (
        audit.event("send", object_type="x", object_uid="1", actor="nul \0, half \ud800, ö").actor == "nul �, half ?, ö"
    )


@pytest.mark.service
def test_who_stops_in_mid_commit_stops_others_for_a_while_and_not_for_good(
    urls: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(urls("postgresql"))
    monkeypatch.setattr(trail, "_HOLD", trail._HOLD.replace("10s", "50ms"))
    with database.write() as session:
        audit.record(session, "send", object_type="instance", object_uid="1")
        session.connection().execute(text(trail._HOLD))
        with pytest.raises(DatabaseUnavailable):
            write(database)
    write(database)
    assert checked(database).last == 2
    database.dispose()


# -- changed


VALUES = {
    "id": "id + 100000",
    "at": "at + 0.000001",
    **{name: f"{name} || 'x'" for name in COLUMNS[2:-1]},
    "key_id": "'0123456789abcdef'",
}


@pytest.mark.parametrize("column", [*VALUES, "hash"])
def test_a_change_of_any_column_of_the_first_the_last_or_any_other_event_is_found(full: Database, column: str) -> None:
    changed = 1, 5_000, WRITERS * EACH
    before = [row for row in rows(full) if row[0] in changed]
    for row in before:
        value = VALUES.get(column, f"'{'f' if row[-1][0] != 'f' else '0'}{row[-1][1:]}'")
        tamper(full, f"UPDATE audit_event SET {column} = {value} WHERE id = {row[0]}")
    found = {one.sequence for one in checked(full).broken}
    for row in before:
        where = f"{row[0]} + 100000" if column == "id" else row[0]
        kept = row[[*COLUMNS, "hash"].index(column)]
        tamper(full, f"UPDATE audit_event SET {column} = {kept!r} WHERE id = {where}")
    assert found >= set(changed)


@pytest.mark.parametrize("byte", [0, 1])
@pytest.mark.parametrize("column", range(2, 10))
def test_one_byte_of_an_event_flipped_is_found(database: Database, column: int, byte: int) -> None:
    write(database, 3, detail="detail")
    value = (rows(database)[1][column] or "") + "??"
    flipped = value[:byte] + chr(ord(value[byte]) ^ 1) + value[byte + 1 :]
    tamper(database, f"UPDATE audit_event SET {COLUMNS[column]} = '{flipped}' WHERE id = 2")
    assert first_break(database) == 2


def test_a_value_of_another_type_is_found_although_it_is_written_alike(database: Database) -> None:
    write(database, detail="AAAA")
    tamper(database, "UPDATE audit_event SET detail = x'000000'")  # base64 of which is AAAA
    assert first_break(database) == 1


@pytest.mark.parametrize(("sequence", "named"), [(1, 1), (5_000, 5_000)])
def test_a_removed_event_is_found(full: Database, sequence: int, named: int) -> None:
    tamper(full, f"UPDATE audit_event SET id = -1 WHERE id = {sequence}")  # out of the sight of verify
    report = checked(full)
    tamper(full, f"UPDATE audit_event SET id = {sequence} WHERE id = -1")
    assert report.broken[0].sequence == named
    assert "missing" in report.broken[0].reason


def test_two_events_that_change_places_are_found(full: Database) -> None:
    swap = [f"UPDATE audit_event SET id = {new} WHERE id = {old}" for old, new in ((41, -1), (40, 41), (-1, 40))]
    tamper(full, *swap)
    assert first_break(full) == 40
    tamper(full, *swap)


def test_events_that_are_removed_and_the_rest_renumbered_are_found(database: Database) -> None:
    write(database, 5)
    tamper(
        database,
        "DELETE FROM audit_event WHERE id = 2",
        *(f"UPDATE audit_event SET id = {n} WHERE id = {n + 1}" for n in (2, 3, 4)),
    )
    assert first_break(database) == 2


def test_an_event_that_is_added_with_another_key_is_found(database: Database) -> None:
    write(database, 2)
    attach(database, Keyring.of(b"x" * 32))
    write(database)
    assert "which is not in the key file" in checked(database).broken[0].reason


def test_a_database_without_keys_seals_with_one_that_nobody_has(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    migrate.upgrade(database)
    write(database)
    assert first_break(database) == 1
    database.dispose()


# -- cut off


def test_an_end_that_is_cut_off_is_found_by_an_anchor_and_only_by_one(full: Database) -> None:
    last, sealed = head(full) or (0, "")
    here = Anchor(last, sealed, 0.0)
    assert checked(full, here).whole
    tamper(full, f"UPDATE audit_event SET id = -1 WHERE id = {last}")
    cut = checked(full, here)
    unnoticed = checked(full).whole
    tamper(full, f"UPDATE audit_event SET id = {last} WHERE id = -1")
    assert unnoticed
    assert [(one.sequence, one.reason.split(";")[-1].strip()) for one in cut.broken] == [(last, "the end was cut off")]


def test_an_end_that_is_cut_off_and_written_anew_is_found_by_an_anchor(database: Database, tmp_path: Path) -> None:
    write(database, 5)
    anchor(database, tmp_path / "anchors")
    tamper(database, "DELETE FROM audit_event WHERE id > 3")
    write(database, 4)
    assert checked(database).whole
    report = verify(database, KEYS, anchors_in(tmp_path / "anchors"))
    assert [(one.sequence, one.reason) for one in report.broken] == [
        (5, "another event was anchored under this number")
    ]


def test_anchors_are_added_only_when_the_trail_has_grown_and_never_changed(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "far" / "anchors"
    assert anchor(database, path) is None, "nothing to anchor"
    write(database)
    anchor(database, path)
    first = path.read_bytes()
    anchor(database, path)
    assert path.read_bytes() == first
    write(database)
    anchor(database, path)
    assert path.read_bytes().startswith(first)
    assert [one and one.sequence for one in anchors_in(path)] == [1, 2]
    assert verify(database, KEYS, anchors_in(path)).anchors == 2


@pytest.mark.parametrize("line", [b"{}\n", b"nonsense\n", b'{"sequence":1,"hash":"0","at":1}\n'])
def test_a_line_that_is_no_anchor_or_goes_back_is_found(database: Database, tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "anchors"
    write(database, 2)
    anchor(database, path)
    with path.open("ab") as file:
        file.write(line)
    (told,) = verify(database, KEYS, anchors_in(path)).broken
    assert told.reason == "line 2 of the anchors is not what was written"


def test_without_its_anchors_a_trail_is_not_called_whole(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cut off"):
        list(anchors_in(tmp_path / "none"))


# -- the triggers


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_event SET detail = 'x' WHERE id = 2",
        "DELETE FROM audit_event WHERE id = 2",
        "DELETE FROM audit_event",
    ],
)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def test_the_database_itself_refuses_to_change_or_remove(urls: Callable[[str], str], kind: str, statement: str) -> None:
    database = open_database(urls(kind))
    write(database, 3)
    with pytest.raises(DBAPIError, match="append-only"), database.engine.begin() as connection:
        connection.execute(text(statement))
    if kind == "postgresql":
        with pytest.raises(DBAPIError, match="append-only"), database.engine.begin() as connection:
            connection.execute(text("TRUNCATE audit_event"))
    assert checked(database).events == 3
    database.dispose()
