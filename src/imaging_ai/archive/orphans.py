"""Removing objects that no row names, from stores that keep no journal of their own (S3).

An upload and its index row cannot be one step: a process that dies in between leaves an object that nobody knows. A
sweep looks at one page of the listing at a time. What is old and nameless becomes a suspect; what still is when it is
looked at again, after longer than any commit takes, is removed. An object gets its row at once or never.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from imaging_ai.archive import find
from imaging_ai.core.blob import BlobRef
from imaging_ai.db.engine import Database

__all__ = ["Listed", "ListedStore", "OrphanSweep"]

_log = logging.getLogger(__name__)

_PAGE = 1000
#: Of a page, so many nameless objects (or a tenth) can be crashes; more means that it belongs to another database.
_PLAUSIBLE = 10


class Listed(NamedTuple):
    """An object of a listing: when it was last modified is in seconds since the epoch."""

    blob: BlobRef
    modified_at: float


@runtime_checkable
class ListedStore(Protocol):
    """A store that can list its objects in the order of their keys."""

    def page(self, after: str, most: int) -> tuple[Sequence[Listed], str]:
        """Return up to `most` objects whose keys come after one, and after which key to go on ("": at the end)."""

    def delete(self, ref: BlobRef) -> None:
        """Remove the object; harmless when it is gone."""


class OrphanSweep:
    """Removes objects older than `age` seconds that no row names; `patience` is how long a suspect is left alone."""

    def __init__(
        self,
        database: Database,
        store: ListedStore,
        *,
        age: float,
        patience: float = 600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._store = database, store
        self._age, self._patience, self._clock = age, patience, clock
        self._after = ""
        self._suspects: dict[BlobRef, float] = {}

    def run(self) -> int:
        """Look at the next page, and again at old suspects; return how many objects were removed.

        Raises
        ------
        UnavailableError
            If storage or database do not answer.
        """
        now = self._clock()
        removed = self._judge([blob for blob, since in self._suspects.items() if since <= now - self._patience])
        if len(self._suspects) < _PAGE:
            page, self._after = self._store.page(self._after, _PAGE)
            self._suspect(page, now)
        return removed

    def _suspect(self, page: Sequence[Listed], now: float) -> None:
        nameless = self._nameless([one.blob for one in page if one.modified_at < now - self._age])
        if len(nameless) > max(_PLAUSIBLE, len(page) // 10):
            _log.error(
                "%d of %d stored objects are in no row: does this storage belong to this database? nothing is removed",
                len(nameless),
                len(page),
            )
            return
        for blob in nameless:
            self._suspects.setdefault(blob, now)

    def _judge(self, suspects: Sequence[BlobRef]) -> int:
        nameless = self._nameless(suspects)
        for blob in suspects:
            if blob in nameless:
                self._store.delete(blob)
            del self._suspects[blob]
        if nameless:
            _log.info("%d stored objects that no row names were removed", len(nameless))
        return len(nameless)

    def _nameless(self, blobs: Sequence[BlobRef]) -> list[BlobRef]:
        named = find.named(self._database, [blob.key for blob in blobs])
        return [blob for blob in blobs if blob.key not in named]
