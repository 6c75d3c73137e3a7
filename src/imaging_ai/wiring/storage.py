"""Looking after encrypted storage, from the settings: what is encrypted with which key, and changing it meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imaging_ai.archive.blobs import BlobStore, SealedStore
from imaging_ai.archive.conversion import Held, held
from imaging_ai.audit import record
from imaging_ai.config import Settings
from imaging_ai.db.engine import Database
from imaging_ai.errors import ConfigError, KeyUnavailable, StorageUnavailable
from imaging_ai.keys.ring import KeyRing
from imaging_ai.wiring.parts import make_archive, make_current_database, make_keys, make_store

__all__ = ["Converted", "StorageStatus", "convert_storage", "new_key", "rotate_storage", "storage_status"]

_ACTOR = "command line"

#: Told how much is done, and of how much.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class StorageStatus:
    """What is held; how many data keys each key wraps; and which key wraps now ("": none)."""

    encrypted: Held
    plain: Held
    data_keys: Mapping[str, int]
    current: str


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion did; `unreadable` objects were left as they are."""

    objects: int
    bytes: int
    unreadable: int


def storage_status(settings: Settings) -> StorageStatus:
    """Count what is held."""
    database, store = make_current_database(settings), make_store(settings)
    counted: Mapping[str, int] = store.ring.census() if isinstance(store, SealedStore) else {}
    try:
        current = store.ring.current_key_id() if isinstance(store, SealedStore) else ""
    except KeyUnavailable:
        current = ""
    return StorageStatus(held(database, sealed=True), held(database, sealed=False), counted, current)


def rotate_storage(settings: Settings, progress: Progress) -> int:
    """Wrap every data key with the current key; return how many were not so yet."""
    ring, changed = _ring(settings, make_store(settings)), 0
    total = ring.census().total()
    for done, was_old in enumerate(ring.rewrap(), 1):
        changed += was_old
        progress(done, total)
    _note(make_current_database(settings), "rewrap-keys", f"{changed} data keys with {ring.current_key_id()}")
    return changed


def convert_storage(settings: Settings, progress: Progress, *, seals: bool, keep_seconds: float) -> Converted:
    """Bring every object under encryption, or back; `progress` counts bytes."""
    if settings.storage.encrypt_new != seals:
        wanted = "true" if seals else "false"
        raise ConfigError(f"storage.encrypt_new: set it to {wanted} and restart every role first, or more keeps coming")
    archive = make_archive(settings)
    _ring(settings, archive.store)
    conversion = archive.conversion(seals=seals, keep_seconds=keep_seconds)
    objects = done = 0
    try:
        while (left := held(archive.database, sealed=not seals)).objects:
            before = objects
            for batch in conversion.run():
                objects, done = objects + batch.objects, done + batch.bytes
                progress(done, max(left.bytes, done))
                archive.remove_deleted()  # what is due: there need not be room for all of it twice
            if objects == before:
                break
        if objects:
            action = "encrypt-objects" if seals else "decrypt-objects"
            _note(archive.database, action, f"{objects} objects, {conversion.unreadable} cannot be read")
            time.sleep(keep_seconds)
            archive.remove_deleted()
    finally:
        archive.close()
    return Converted(objects, done, conversion.unreadable)


def new_key(settings: Settings, name: str, path: Path | None = None) -> Path:
    """Make a key and put it first in the file of keys."""
    from imaging_ai.keys.file import add_key

    if path is None and not settings.storage.encryption_key_file:
        raise ConfigError("storage.encryption_key_file: not set; set it, or name a file with --file")
    path = path or Path(settings.storage.encryption_key_file).expanduser().absolute()
    add_key(path, name)
    return path


def _ring(settings: Settings, store: BlobStore) -> KeyRing:
    if make_keys(settings) is None:
        raise ConfigError("storage.encryption_key_file: no key is set, nor a key service (docs/encryption.md)")
    if not isinstance(store, SealedStore):
        raise StorageUnavailable("this storage does not encrypt")
    return store.ring


def _note(database: Database, action: str, detail: str) -> None:
    with database.write() as session:
        record(session, action, object_type="storage", object_uid="", actor=_ACTOR, detail=detail)
