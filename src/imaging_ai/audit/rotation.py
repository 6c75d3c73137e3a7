"""Another key for the trail: it seals from its own event on, and the ones before it nothing any more.

Who got hold of an old key can change nothing with it: what it sealed is held in place by the seals that follow, and
events after the rotation are not believed of it (`audit.verify`). The roles that run notice at their next event.
"""

from __future__ import annotations

from pathlib import Path

from imaging_ai import audit
from imaging_ai.audit.keys import Keyring, add_key
from imaging_ai.audit.trail import Execute, attach, executor, hold_end, newest_keys
from imaging_ai.audit.verify import feed_seal
from imaging_ai.db.engine import Database

__all__ = ["rotate_key"]

_SENT = "SELECT name, sent, seal FROM audit_feed"
_SEAL = "UPDATE audit_feed SET seal = :seal WHERE name = :name"


def rotate_key(database: Database, path: Path, *, actor: str) -> Keyring:
    """Add a key to the file, and an event that it seals to the trail.

    Should this end between the two, the next role that starts seals with the new key.

    Raises
    ------
    UnavailableError
        If the key was rotated elsewhere, and this file has the new one not yet.
    """
    with database.write() as session:
        execute = executor(session.connection())
        hold_end(execute, shared=not database.is_sqlite)
        old = newest_keys(execute, database.info)
        new = add_key(path)
        attach(database, new)
        _seal_again(execute, old, new, shared=not database.is_sqlite)
        told = f"{old.current} is replaced by {new.current}"
        audit.record(session, "audit.rotate-key", object_type="audit", object_uid="", actor=actor, detail=told)
    return new


def _seal_again(execute: Execute, old: Keyring, new: Keyring, *, shared: bool) -> None:
    """Seal what is noted as sent with the new key, as far as it was sealed with the old one."""
    for name, sent, sealed in execute(_SENT + " FOR UPDATE" * shared, {}).fetchall():
        if feed_seal(old.key, name, sent) == sealed:
            execute(_SEAL, {"name": name, "seal": feed_seal(new.key, name, sent)})
