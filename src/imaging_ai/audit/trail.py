"""The trail in the database: events are appended at its end, and read in their order.

The end is one row, and whoever appends holds it until the commit: SQLite's writer has the file to itself anyway; on
PostgreSQL an advisory lock is taken last of all, when the transaction has only its commit before it, so nobody
waits for it while holding it. Should two ever write the same number, the primary key refuses the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import text

from imaging_ai.audit.event import COLUMNS, GENESIS, Event, seal
from imaging_ai.audit.keys import Keyring
from imaging_ai.db.engine import Database

__all__ = ["Execute", "append", "attach", "head", "keys_of", "pages"]

#: Runs a statement with named parameters, or, given a list of them, once for each.
Execute = Callable[[str, Any], Any]

_KEYS = "imaging_ai_audit_keys"
_LOCK = 7_210_312  # any number that nobody else locks
#: As long as SQLite waits for its writer (`db.engine`): who stops in mid commit must not stop everybody for good.
_HOLD = f"SELECT set_config('lock_timeout', '10s', true), pg_advisory_xact_lock({_LOCK})"
_NAMES = (*COLUMNS, "hash")
_HEAD = "SELECT id, hash FROM audit_event ORDER BY id DESC LIMIT 1"
_PUT = f"INSERT INTO audit_event ({', '.join(_NAMES)}) VALUES ({', '.join(f':{name}' for name in _NAMES)})"  # noqa: S608
_PAGE = f"SELECT {', '.join(_NAMES)} FROM audit_event WHERE id > :after ORDER BY id LIMIT :count"  # noqa: S608


def attach(database: Database, keys: Keyring) -> None:
    """Have the events of a database sealed with the newest of `keys`."""
    database.info[_KEYS] = keys


def keys_of(info: Mapping[Any, Any]) -> Keyring:
    """Return the keys that were attached to the database of a session.

    Without any, events are sealed with a key that nobody keeps: `verify` refuses them.
    """
    found = info.get(_KEYS)
    return found if isinstance(found, Keyring) else Keyring.passing()


def append(execute: Execute, events: Sequence[Event], keys: Keyring, *, shared: bool) -> None:
    """Number, seal and insert events as the last act of a transaction.

    `shared` is whether others may write to the database at the same time (PostgreSQL, READ COMMITTED).
    """
    if shared:
        execute(_HOLD, {})
    last = execute(_HEAD, {}).fetchone()
    number, previous = last or (0, GENESIS)
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
