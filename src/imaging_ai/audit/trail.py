"""The trail in the database: events are appended at its end, and read in their order.

The end is one row, and whoever appends holds it until the commit: SQLite's writer has the file to itself anyway; on
PostgreSQL an advisory lock is taken last of all, when the transaction has only its commit before it, so nobody
waits for it while holding it. Should two ever write the same number, the primary key refuses the second.

Who appends seals with the newest key that there is: an end that was sealed with a key that this process has not heard
of means that the key was rotated meanwhile, and the file is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from imaging_ai.audit.event import COLUMNS, GENESIS, Event, seal
from imaging_ai.audit.keys import Keyring
from imaging_ai.db.engine import Database
from imaging_ai.errors import UnavailableError

__all__ = ["Execute", "append", "attach", "executor", "head", "hold_end", "newest_keys", "pages"]

#: Runs a statement with named parameters, or, given a list of them, once for each.
Execute = Callable[[str, Any], Any]

_KEYS = "imaging_ai_audit_keys"
_LOCK = 7_210_312  # any number that nobody else locks
#: As long as SQLite waits for its writer (`db.engine`): who stops in mid commit must not stop everybody for good.
_HOLD = f"SELECT set_config('lock_timeout', '10s', true), pg_advisory_xact_lock({_LOCK})"
_NAMES = (*COLUMNS, "hash")
_HEAD = "SELECT id, hash, key_id FROM audit_event ORDER BY id DESC LIMIT 1"
_HAS_SEALED = "SELECT id FROM audit_event WHERE key_id = :key_id LIMIT 1"
_PUT = f"INSERT INTO audit_event ({', '.join(_NAMES)}) VALUES ({', '.join(f':{name}' for name in _NAMES)})"  # noqa: S608
_PAGE = f"SELECT {', '.join(_NAMES)} FROM audit_event WHERE id > :after ORDER BY id LIMIT :count"  # noqa: S608


@dataclass(slots=True)
class _Attached:
    """The keys that all sessions of a database share."""

    keys: Keyring


def attach(database: Database, keys: Keyring) -> None:
    """Have the events of a database sealed with the newest of `keys`, in sessions that are open already too."""
    attached = database.info.setdefault(_KEYS, _Attached(keys))
    assert isinstance(attached, _Attached)
    attached.keys = keys


def executor(connection: Connection) -> Execute:
    """Return what runs statements on a connection."""
    return lambda statement, values: connection.execute(text(statement), values)


def hold_end(execute: Execute, *, shared: bool) -> None:
    """Keep others from appending until this transaction ends; `shared` as in `append`."""
    if shared:
        execute(_HOLD, {})


def newest_keys(execute: Execute, info: Mapping[Any, Any]) -> Keyring:
    """Return the keys of the database that `info` is of, with the one that its newest event was sealed with.

    Without any, events are sealed with a key that nobody keeps: `verify` refuses them.

    Raises
    ------
    UnavailableError
        If the key was rotated, and the file of this host has the new one not yet.
    """
    row = execute(_HEAD, {}).fetchone()
    return _keys_after(execute, info, row[2] if row else "")


def _keys_after(execute: Execute, info: Mapping[Any, Any], key_id: str) -> Keyring:
    attached = info.get(_KEYS)
    if not isinstance(attached, _Attached):
        return Keyring.passing()
    keys = attached.keys
    if key_id in keys.keys or not key_id or keys.path is None:
        return keys
    attached.keys = keys = keys.again()
    if key_id in keys.keys or execute(_HAS_SEALED, {"key_id": keys.current}).fetchone() is None:
        return keys  # or all keys were lost, and this is a new one: the trail shows from where on
    raise UnavailableError(
        f"audit.key_file: {keys.path} lacks the key {key_id}, which seals since `imaging-ai audit rotate-key`: "
        "bring the file here from where that was run"
    )


def append(execute: Execute, events: Sequence[Event], info: Mapping[Any, Any], *, shared: bool) -> None:
    """Number, seal and insert events as the last act of a transaction.

    `info` is that of the database or of a session of it, `shared` whether others may write to it at the same time
    (PostgreSQL, READ COMMITTED). Raises as `newest_keys` does.
    """
    hold_end(execute, shared=shared)
    last = execute(_HEAD, {}).fetchone()
    number, previous, key_id = last or (0, GENESIS, "")
    keys = _keys_after(execute, info, key_id)
    rows = []
    for sequence, one in enumerate(events, number + 1):
        values = (
            *(sequence, one.at, one.action, one.outcome, one.actor, one.origin),
            *(one.object_type, one.object_uid, one.detail, keys.current),
        )
        previous = seal(keys.key, previous, values)
        rows.append(dict(zip(_NAMES, (*values, previous), strict=True)))
    execute(_PUT, rows)


def head(database: Database) -> tuple[int, str] | None:
    """Return number and seal of the newest event; None where there is none."""
    with database.read() as session:
        row = session.connection().execute(text(_HEAD)).first()
    return None if row is None else (row[0], row[1])


def pages(database: Database, after: int = 0, *, size: int = 5_000) -> Iterator[Sequence[Sequence[Any]]]:
    """Give the rows after a number in their order: the values of `COLUMNS` and the seal.

    Each page is a transaction of its own, so that reading millions of rows neither fills the memory nor holds up the
    checkpoints of the database.
    """
    while True:
        with database.read() as session:
            rows = session.connection().execute(text(_PAGE), {"after": after, "count": size}).all()
        if not rows:
            return
        yield rows
        after = rows[-1][0]
