"""Guessing is slow: after a few failed logins the next is waited for, twice as long each time (NIST SP 800-63B 5.2.2).

Failures are counted for each name and for each address, in the database, so that every web process knows of them. Both
are hashed with a secret key into a fixed number of buckets: the table cannot grow, names that nobody has are counted
as any other, and nobody can choose whose bucket to fill. An attempt counts as failed until it has succeeded, so that
many at once are no way round. From where a person has come in before, the name is counted apart: whoever guesses
elsewhere, day and night, does not lock its owner out.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Row, Update, case, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from imaging_ai.core.addresses import neighbourhood
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AttemptRow, PersonRow, SessionRow

__all__ = ["Attempt", "Attempts"]

_ATTEMPT = AttemptRow.metadata.tables["login_attempt"]
_PERSON, _SESSION = PersonRow.metadata.tables["person"], SessionRow.metadata.tables["login_session"]
_BUCKETS = 1 << 16
_KINDS = ("name", "address", "name at home")
_FREE_OF_NAME, _FREE_OF_ADDRESS = 5, 25
_LONGEST_WAIT, _FORGOTTEN = 900.0, 3600.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login that was begun. `wait`: refused, for so many seconds; `locks`: so many if this one fails; 0: none."""

    buckets: tuple[int, int]
    wait: float = 0.0
    locks: float = 0.0


class _Locked(Exception):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Attempts:
    """The logins that were tried lately."""

    def __init__(self, database: Database, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._database, self._key, self._clock = database, key, clock

    def begin(self, name: str, address: str) -> Attempt:
        """Count an attempt as failed, unless it comes too early: then it is not even tried, and not counted."""
        network = neighbourhood(address)
        at_home = network in self._homes(name)
        of_name = self._bucket("name at home", f"{name} {network}") if at_home else self._bucket("name", name)
        buckets = of_name, self._bucket("address", network)
        now = self._clock()
        if (wait := self._locked(buckets, now)) > 0:
            return Attempt(buckets, wait=wait)  # a flood of them writes nothing
        try:
            with self._database.write() as session:
                connection = session.connection()
                locks = [
                    _count(connection, bucket, free, now)
                    for bucket, free in zip(buckets, (_FREE_OF_NAME, _FREE_OF_ADDRESS), strict=True)
                ]
        except _Locked as locked:
            return Attempt(buckets, wait=locked.seconds)
        return Attempt(buckets, locks=max(locks))

    def succeeded(self, attempt: Attempt) -> None:
        """Forget the failures of the name. Those of the address stay, or a known password would hide guesses."""
        name, address = attempt.buckets
        with self._database.write() as session:
            session.connection().execute(_set(name, failures=0, locked_until=0.0))
            session.connection().execute(_set(address, failures=_ATTEMPT.c.failures - 1, locked_until=0.0))

    def forgive(self, name: str) -> None:
        """Forget the failures of a name."""
        at_home = [self._bucket("name at home", f"{name} {network}") for network in self._homes(name)]
        with self._database.write() as session:
            for bucket in (self._bucket("name", name), *at_home):
                session.connection().execute(_set(bucket, failures=0, locked_until=0.0))

    def _homes(self, name: str) -> frozenset[str]:
        """Return the networks that a person has come in from, as far as their sessions are known."""
        query = select(_SESSION.c.origin).join(_PERSON, _PERSON.c.id == _SESSION.c.person_id)
        with self._database.read() as session:
            return frozenset(map(neighbourhood, session.connection().scalars(query.where(_PERSON.c.name == name))))

    def _locked(self, buckets: tuple[int, int], now: float) -> float:
        latest = select(func.max(_ATTEMPT.c.locked_until)).where(_ATTEMPT.c.bucket.in_(buckets))
        with self._database.read() as session:
            return float(session.connection().scalar(latest) or 0.0) - now

    def _bucket(self, kind: str, value: str) -> int:
        digest = hmac.digest(self._key, f"{kind} {value}".encode(), "sha256")
        return int.from_bytes(digest[:4], "big") % _BUCKETS + _BUCKETS * _KINDS.index(kind)


def _count(connection: Connection, bucket: int, free: int, now: float) -> float:
    """Count a failure, and return for how many seconds it locks."""
    row = _counted(connection, bucket, now)
    if row.locked_until > now:
        raise _Locked(row.locked_until - now)
    if row.failures <= free:
        return 0.0
    seconds: float = min(_LONGEST_WAIT, 2.0 ** min(row.failures - free, 30))
    connection.execute(_set(bucket, locked_until=now + seconds))
    return seconds


def _counted(connection: Connection, bucket: int, now: float) -> Row[tuple[int, float]]:
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    forgotten = _ATTEMPT.c.last_at < now - _FORGOTTEN
    added = insert(_ATTEMPT).values(bucket=bucket, failures=1, last_at=now, locked_until=0.0)
    counted = added.on_conflict_do_update(
        index_elements=["bucket"],
        set_={"failures": case((forgotten, 1), else_=_ATTEMPT.c.failures + 1), "last_at": now},
    )
    return connection.execute(counted.returning(_ATTEMPT.c.failures, _ATTEMPT.c.locked_until)).one()


def _set(bucket: int, **values: object) -> Update:
    return update(_ATTEMPT).where(_ATTEMPT.c.bucket == bucket).values(**values)
