"""A backup that is taken while the server writes comes back whole, on both databases."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import phantoms
import storing
from imaging_ai.archive.folder import FolderStore
from imaging_ai.archive.shelf import shelved
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.errors import InputError
from imaging_ai.keeping.backup import back_up, check, restore
from imaging_ai.serve.dicomweb.parts import Parts
from services import require_program


class Place:
    """Where a server keeps its things."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url or f"sqlite:///{folder}/imaging-ai.db"
        folder.mkdir()

    @property
    def folders(self) -> dict[str, Path]:
        return {"objects": self.folder / "store", "models": self.folder / "models"}

    @contextmanager
    def opened(self) -> Iterator[Parts]:
        database = Database(self.url)
        parts = storing.make_parts(database, self.folder)
        parts.archive.recover()
        yield parts
        parts.archive.close()
        database.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Place, Place]:
    """A server that is used, and an empty place."""
    urls = ["", ""]
    if request.param == "postgresql":
        require_program("pg_dump")
        server = request.getfixturevalue("postgres_server")
        urls = [server.new_database() for _ in range(2)]
    used, empty = (Place(tmp_path / name, url) for name, url in zip(("used", "empty"), urls, strict=True))
    database = Database(used.url)
    migrate.upgrade(database)
    database.dispose()
    return used, empty


def test_what_was_acknowledged_before_a_backup_comes_back(places: tuple[Place, Place], tmp_path: Path) -> None:
    used, empty = places
    (used.folder / "models" / "m").mkdir(parents=True)
    (used.folder / "models" / "m" / "model.pt").write_bytes(b"weights")
    kept: list[str] = []
    busy = threading.Event()
    with used.opened() as parts, storing.web(parts) as client:

        def go_on(first: int, last: int) -> None:
            for number in range(first, last):
                (ds,) = storing.ct(1, f"s{number}")
                if number % 5 == 0:
                    ds.add_new(0x7FE11010, "OB", bytes(2 << 20))  # too large for the log
                assert storing.post(client, [storing.instance(phantoms.to_bytes(ds))]).status_code == 200
                kept.append(str(ds.StudyInstanceUID))
                if number > first + 2:
                    busy.set()

        go_on(0, 10)
        before = list(kept)
        writer = threading.Thread(target=go_on, args=(10, 40))
        writer.start()
        busy.wait(30)
        back_up(parts.database, used.folders, tmp_path / "copy")
        writer.join()
    database = Database(empty.url)
    restore(tmp_path / "copy", database, empty.folders)
    database.dispose()
    with empty.opened() as parts:
        found = check(parts.database, parts.archive.store)
        assert found.instances >= len(before)
        assert found.missing == ()
        for study in before:
            (instance,) = shelved(parts.database, study)
            assert parts.archive.read(instance)[128:132] == b"DICM"
        with storing.web(parts) as client:
            assert (
                storing.post(client, [storing.instance(phantoms.to_bytes(storing.ct(1, "new")[0]))]).status_code == 200
            )
    assert (empty.folder / "models" / "m" / "model.pt").read_bytes() == b"weights"


def test_a_backup_goes_only_into_an_empty_place(places: tuple[Place, Place], tmp_path: Path) -> None:
    used, empty = places
    with used.opened() as parts:
        back_up(parts.database, used.folders, tmp_path / "copy")
        with pytest.raises(InputError, match="not empty"):
            back_up(parts.database, used.folders, tmp_path / "copy")
        with pytest.raises(InputError, match="database is not empty"):
            restore(tmp_path / "copy", parts.database, empty.folders)
    (empty.folder / "store").mkdir()
    (empty.folder / "store" / "x").write_bytes(b"")
    database = Database(empty.url)
    with pytest.raises(InputError, match="not empty"):
        restore(tmp_path / "copy", database, empty.folders)
    database.dispose()


@pytest.mark.parametrize("made_before", [False, True])
def test_nobody_else_may_look_into_a_backup(places: tuple[Place, Place], tmp_path: Path, made_before: bool) -> None:
    used, _ = places
    target = tmp_path / "backup"
    if made_before:
        target.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        with used.opened() as parts:
            back_up(parts.database, used.folders, target)
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o077 == 0
    if (database := target / "imaging-ai.db").exists():
        assert database.stat().st_mode & 0o077 == 0


def test_a_backup_that_was_broken_off_is_none(places: tuple[Place, Place], tmp_path: Path) -> None:
    used, empty = places
    with used.opened() as parts:
        back_up(parts.database, used.folders, tmp_path / "copy")
    (tmp_path / "copy" / "backup.json").unlink()
    database = Database(empty.url)
    with pytest.raises(InputError, match="no whole backup"):
        restore(tmp_path / "copy", database, empty.folders)
    (tmp_path / "copy" / "backup.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        restore(tmp_path / "copy", database, empty.folders)
    database.dispose()


def test_bytes_that_are_missing_are_named(places: tuple[Place, Place]) -> None:
    used, _ = places
    with used.opened() as parts, storing.web(parts) as client:
        (ds,) = storing.ct(1)
        ds.add_new(0x7FE11010, "OB", bytes(2 << 20))
        storing.post(client, [storing.instance(phantoms.to_bytes(ds))])
        store = parts.archive.store
        assert isinstance(store, FolderStore)
        (stored,) = shelved(parts.database, str(ds.StudyInstanceUID))
        (store.root / stored.blob.key).unlink()
        found = check(parts.database, store)
    assert (found.instances, found.missing) == (1, (str(ds.SOPInstanceUID),))
