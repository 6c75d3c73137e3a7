"""Holds, retention and backups, from the settings."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from imaging_ai.archive.archive import Archive
from imaging_ai.config import Settings
from imaging_ai.keeping import backup
from imaging_ai.keeping.holds import Holds
from imaging_ai.keeping.removal import Removal
from imaging_ai.keeping.retention import Retention, parse_retention
from imaging_ai.queue.ledger import Ledger
from imaging_ai.wiring.parts import (
    make_archive,
    make_current_database,
    make_database,
    make_ledger,
    make_store,
)

__all__ = ["back_up", "make_holds", "make_retention", "restore"]


def make_holds(settings: Settings) -> Holds:
    """Open the register of legal holds."""
    return Holds(make_current_database(settings))


def make_retention(settings: Settings, archive: Archive | None = None, ledger: Ledger | None = None) -> Retention:
    """Read `[[retention]]`, and put together what removes."""
    rules = parse_retention(settings.retention, settings.source or "settings")
    archive = archive or make_archive(settings)
    return Retention(rules, archive, Removal(archive, ledger or make_ledger(settings, archive.database)))


def back_up(settings: Settings, target: Path) -> int:
    """Write a backup into a new folder."""
    return backup.back_up(make_current_database(settings), _folders(settings), target)


def restore(settings: Settings, source: Path) -> backup.Restored:
    """Bring a backup back, and look for the bytes of every instance."""
    database = make_database(settings)
    backup.restore(source, database, _folders(settings))
    archive = make_archive(settings, database)
    archive.recover()
    found = backup.check(database, make_store(settings))
    archive.close()
    return found


def _folders(settings: Settings) -> dict[str, Path]:
    """What is backed up beside the database: models, and objects unless a storage of its own looks after them."""
    folders = {"models": settings.data_path / "models"}
    storage = urlsplit(settings.storage_url)
    if storage.scheme == "file":
        folders["objects"] = Path(storage.path)
    return folders
