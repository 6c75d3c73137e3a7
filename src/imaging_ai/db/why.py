"""Why a database does not answer, in words that name the remedy.

What SQLite and libpq say themselves may name hosts, users and files, and is for nobody who asks over the network; so
the kinds that an operator meets are told apart here, and of the others only the kind is told.
"""

from __future__ import annotations

__all__ = ["is_damage", "why"]

#: By the beginning of SQLite's name of the error (sqlite.org/rescode.html).
_SQLITE = (
    ("SQLITE_FULL", "its disk is full; make room"),
    ("SQLITE_READONLY", "its file may not be written; see who owns data_dir, and whether its disk is read-only"),
    ("SQLITE_CANTOPEN", "its file cannot be opened; see who owns data_dir, and whether it may be written"),
    ("SQLITE_BUSY", "another process has held it for too long"),
    ("SQLITE_IOERR", "its disk does not answer, or is full"),
    ("SQLITE_CORRUPT", "its file is damaged; restore a backup"),
    ("SQLITE_ERROR", "its tables are not those of this program; run `imaging-ai db upgrade`"),
    ("SQLITE_NOTADB", "its file is no database, or damaged; restore a backup"),
)
#: By words of a server that was not come into: libpq gives no code for these.
_POSTGRESQL = (
    ("password", "it refuses the user or the password; see database.url and database.password_file"),
    ("does not exist", "it has no such database, or no such user; see database.url"),
    ("pg_hba.conf", "it lets nobody in from this machine as this user; see its pg_hba.conf"),
    ("refused", "nobody listens there; see whether it runs, and database.url"),
    ("resolve", "its host is not known; see database.url"),
    ("host name", "its host is not known; see database.url"),
    ("timeout", "there was no answer in time; see whether it runs, and database.url"),
    ("connection slots", "it has no connection left; raise its max_connections"),
    ("too many clients", "it has no connection left; raise its max_connections"),
    ("starting up", "it is starting"),
    ("shutting down", "it is being shut down"),
    ("certificate", "its certificate, or ours, is not believed; see sslmode and sslrootcert of database.url"),
)
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def why(error: BaseException | None) -> str:
    """Say why, as the end of a sentence; of what is not known the kind of the error."""
    if name := _sqlite(error):
        return next((reason for beginning, reason in _SQLITE if name.startswith(beginning)), type(error).__name__)
    text = "" if getattr(error, "sqlstate", None) else str(error)
    return next((reason for words, reason in _POSTGRESQL if words in text), type(error).__name__)


def is_damage(error: BaseException | None) -> bool:
    """Say whether the file of a database is not what was written."""
    return _sqlite(error).startswith(_DAMAGE)


def _sqlite(error: BaseException | None) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
