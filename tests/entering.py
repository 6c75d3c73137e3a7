"""The entrance over a database of a test, with passwords that cost nothing to compare."""

from __future__ import annotations

from typing import Any

from argon2 import PasswordHasher

from imaging_ai.db.engine import Database
from imaging_ai.people.entrance import Entrance
from imaging_ai.people.key import ServerKey
from imaging_ai.people.passwords import Passwords

__all__ = ["KEY", "PASSWORD", "bearer", "cheap_passwords", "open_entrance"]

KEY = ServerKey(b"the key of a server that is a test")
PASSWORD = "four words of good length"


def cheap_passwords() -> Passwords:
    return Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


def open_entrance(database: Database, **options: Any) -> Entrance:
    return Entrance.open(database, KEY, passwords=cheap_passwords(), **options)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}
