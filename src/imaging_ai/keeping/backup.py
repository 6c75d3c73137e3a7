"""Backup and restore: the database as of one moment, then the objects that it names.

The database comes first: whatever it names is in the storage by then (an index row is committed after its bytes), and
objects are never changed in place, so copying them while the server runs takes nothing half. What was deleted in
between is missing in the copy, and `restore` says so. Keys are never in a backup: who has both has everything.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import inspect, select
from sqlalchemy.engine import URL, make_url

from imaging_ai import __version__
from imaging_ai.archive.blobs import BlobStore
from imaging_ai.archive.find import INSTANCE
from imaging_ai.core.blob import BlobRef
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.errors import InputError, NotFound, UnavailableError

__all__ = ["Restored", "back_up", "check", "restore"]

_MANIFEST, _OBJECTS, _MODELS = "backup.json", "objects", "models"
_SQLITE, _POSTGRESQL = "imaging-ai.db", "database.dump"
_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restored archive holds: instances, and the SOP Instance UIDs of those whose bytes are missing."""

    instances: int
    missing: tuple[str, ...]


def back_up(database: Database, folders: Mapping[str, Path], target: Path) -> int:
    """Write a backup into a new folder, while the server runs; return how many files of objects and models it has.

    Only its owner may look into the folder: there is everything in it, and the programs of databases write for all.
    `folders` are what lies beside the database in local folders ("objects", "models"); what is on S3 is not among them.

    Raises
    ------
    InputError
        If `target` is there already, or a program that is needed is not.
    """
    if target.exists() and any(target.iterdir()):
        raise InputError(f"{target} is not empty; name a new folder")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.chmod(0o700)
    started = time.time()
    if database.is_sqlite:
        _copy_sqlite(Path(make_url(database.url).database or ""), target / _SQLITE)
    else:
        url = make_url(database.url)
        _run(["pg_dump", "--format=custom", f"--file={target / _POSTGRESQL}", _libpq(url)], url)
    copied = sum(_copy_tree(folder, target / name) for name, folder in folders.items() if folder.is_dir())
    about = {
        "program": __version__,
        "revision": migrate.HEAD,
        "database": "sqlite" if database.is_sqlite else "postgresql",
        "started_at": started,
        "folders": sorted(folders),
        "files": copied,
    }
    (target / _MANIFEST).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return copied


def restore(source: Path, database: Database, folders: Mapping[str, Path]) -> None:
    """Bring a backup back into an empty database and empty folders; the schema is brought up to date then.

    Raises
    ------
    InputError
        If `source` holds no whole backup, or there is something already where it would go.
    """
    about = _manifest(source)
    kind = "sqlite" if database.is_sqlite else "postgresql"
    if about.get("database") != kind:
        raise InputError(f"{source} is a backup of {about.get('database')}, and the settings name a {kind} database")
    for name, folder in folders.items():
        if (source / name).is_dir() and folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty; a backup is restored into an empty place")
    if _has_tables(database):
        raise InputError("the database is not empty; a backup is restored into an empty one")
    if database.is_sqlite:
        _copy_sqlite(source / _SQLITE, Path(make_url(database.url).database or ""))
    else:
        url, options = make_url(database.url), ["--no-owner", "--exit-on-error", "--single-transaction"]
        _run(["pg_restore", *options, f"--dbname={_libpq(url)}", str(source / _POSTGRESQL)], url)
    for name, folder in folders.items():
        if (source / name).is_dir():
            _copy_tree(source / name, folder)
    migrate.upgrade(database)


def check(database: Database, store: BlobStore) -> Restored:
    """Try to read every instance of the index at its end; return how many there are, and which are missing."""
    count, missing, after = 0, list[str](), 0
    while rows := _page(database, after):
        after = rows[-1][0]
        for _, uid, blob in rows:
            count += 1
            try:
                whole = len(store.read(blob, blob.length - 1, 1)) == 1
            except (NotFound, UnavailableError):
                whole = False
            if not whole:
                missing.append(uid)
    return Restored(count, tuple(missing))


def _page(database: Database, after: int) -> Sequence[tuple[int, str, BlobRef]]:
    query = select(INSTANCE).where(INSTANCE.c.id > after).order_by(INSTANCE.c.id).limit(_AT_ONCE)
    with database.read() as session:
        rows = session.connection().execute(query).all()
    return [(row.id, row.sop_instance_uid, BlobRef(row.blob_key, row.blob_offset, row.blob_length)) for row in rows]


def _manifest(source: Path) -> dict[str, object]:
    try:
        about = json.loads((source / _MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{source} holds no whole backup: {_MANIFEST}, which is written last, is not there") from None
    except ValueError:
        raise InputError(f"{source / _MANIFEST} is damaged") from None
    if not isinstance(about, dict):
        raise InputError(f"{source / _MANIFEST} is damaged")
    return about


def _has_tables(database: Database) -> bool:
    with database.engine.connect() as connection:
        return inspect(connection).has_table("alembic_version")


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database as of one moment, while others write to it (SQLite's online backup)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600))
    with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as reading, sqlite3.connect(target) as writing:
        reading.backup(writing)
    reading.close()
    writing.close()


def _copy_tree(source: Path, target: Path) -> int:
    """Copy the files below a folder, but for those that vanish meanwhile; return how many."""
    copied = 0
    for folder, _, names in os.walk(source):
        into = target / Path(folder).relative_to(source)
        into.mkdir(parents=True, exist_ok=True)
        for name in names:
            try:
                shutil.copy2(Path(folder) / name, into / name)
                copied += 1
            except FileNotFoundError:
                continue
    return copied


def _libpq(url: URL) -> str:
    """Return the address of a PostgreSQL database as its own programs take it, without the password."""
    return url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)


def _run(command: list[str], url: URL) -> None:
    """Run a program of PostgreSQL on a database; the password goes by the environment, where nobody else sees it."""
    environment = {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        raise InputError(f"{command[0]} is not installed; it comes with PostgreSQL's client programs") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise InputError(f"{command[0]} failed and said: {said}")
