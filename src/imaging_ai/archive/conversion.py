"""Bringing stored objects under encryption, or back, while everything goes on.

Each object is copied, the copy is read back, and in one transaction the index names the copy and notes that the old
bytes are to be removed, as those of a deletion are; not at once, since somebody may be reading them. What a crash
leaves is a copy that is nobody's, which recovery removes, or old bytes that whoever looks next removes. So it may end
anywhere and begin again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from sqlalchemy import ColumnElement, Table, func, insert, select, update

from imaging_ai.archive.blobs import BlobStore, JournaledStore
from imaging_ai.archive.find import DELETED, INSTANCE, REPLACED
from imaging_ai.archive.folder_writer import FolderWriter
from imaging_ai.archive.index import Index
from imaging_ai.core.blob import SEALED, BlobRef
from imaging_ai.db.engine import Database
from imaging_ai.errors import KeyUnavailable, NotFound, StorageUnavailable

__all__ = ["Conversion", "Held", "held"]

_log = logging.getLogger(__name__)

_TABLES = (INSTANCE, REPLACED)  # in this order: a row goes from the first to the second
_SEALED_KEYS = f"%{SEALED}%"
_AT_ONCE = 64
_BYTES_AT_ONCE = 64 << 20
_PIECE = 1 << 20


class Held(NamedTuple):
    """How much is held of one kind: contents, those that were replaced too, and their bytes before encryption."""

    objects: int
    bytes: int


class _Copy(NamedTuple):
    table: Table
    row_id: int
    sop_instance_uid: str
    old: BlobRef
    new: BlobRef


class _Unreadable(Exception):
    """The object cannot be copied, because it cannot be read."""


def held(database: Database, *, sealed: bool) -> Held:
    """Count what is held encrypted, or plain."""
    objects = size = 0
    with database.read() as session:
        for table in _TABLES:
            query = select(func.count(), func.coalesce(func.sum(table.c.blob_length), 0)).where(_is(table, sealed))
            number, total = session.connection().execute(query).one()
            objects, size = objects + number, size + int(total)
    return Held(objects, size)


class Conversion:
    """Makes every object one of the kind that `store` makes new ones: encrypted (`seals`) or plain.

    Old bytes stay `keep_seconds` for who is reading them. `unreadable` counts objects that were left as they are.
    """

    def __init__(self, database: Database, store: BlobStore, index: Index, *, seals: bool, keep_seconds: float) -> None:
        self._database, self._store, self._index = database, store, index
        self._seals, self._keep_seconds = seals, keep_seconds
        self.unreadable = 0

    def run(self) -> Iterator[Held]:
        """Convert what there is, and say after each batch how much it was.

        Raises
        ------
        UnavailableError
            If database, storage or key service cannot go on; what was done is done.
        """
        self.unreadable = 0
        for table in _TABLES:
            after = 0
            while rows := self._rows(table, after):
                after = rows[-1][0]
                copies = [copy for row in rows if (copy := self._copied(table, *row)) is not None]
                yield self._put(copies)

    def _rows(self, table: Table, after: int) -> list[tuple[int, str, BlobRef]]:
        columns = table.c.id, table.c.sop_instance_uid, table.c.blob_key, table.c.blob_offset, table.c.blob_length
        query = select(*columns).where(table.c.id > after, _is(table, not self._seals)).order_by(table.c.id)
        with self._database.read() as session:
            found = session.connection().execute(query.limit(_AT_ONCE)).all()
        rows: list[tuple[int, str, BlobRef]] = []
        size = 0
        for row_id, uid, *blob in found:
            rows.append((row_id, uid, BlobRef(*blob)))
            if (size := size + rows[-1][2].length) >= _BYTES_AT_ONCE:
                break
        return rows

    def _copied(self, table: Table, row_id: int, uid: str, old: BlobRef) -> _Copy | None:
        writer, digest = self._store.begin(old.length), sha256()
        try:
            for piece in self._read(old):
                digest.update(piece)
                writer.write(piece)
            new = writer.stage(put=True) if isinstance(writer, FolderWriter) else writer.commit()
        except _Unreadable as error:
            self.unreadable += 1
            _log.error("the object of instance %s stays as it is: %s", uid, error)
            return None
        finally:
            writer.discard()
        again = sha256()
        for piece in self._store.stream(new, _PIECE):
            again.update(piece)
        if again.digest() != digest.digest():
            self._store.delete(new)
            raise StorageUnavailable("the storage gives back other bytes than it was given")
        return _Copy(table, row_id, uid, old, new)

    def _read(self, blob: BlobRef) -> Iterator[bytes]:
        try:
            yield from self._store.stream(blob, _PIECE)
        except KeyUnavailable:
            raise
        except (NotFound, StorageUnavailable) as error:
            raise _Unreadable(error.message) from None

    def _put(self, copies: list[_Copy]) -> Held:
        """Have the index name the copies, durably; remove those of what has been replaced or deleted meanwhile."""
        if isinstance(self._store, JournaledStore):
            self._store.sync([copy.new for copy in copies])
        late: list[_Copy] = []
        with self._database.write() as session:
            connection = session.connection()
            if not self._database.is_sqlite:  # as who registers results: see `find.await_results`
                connection.exec_driver_sql("LOCK TABLE result IN ROW EXCLUSIVE MODE")
            for copy in copies:
                table, old, new = copy.table, copy.old, copy.new
                same = table.c.id == copy.row_id, table.c.blob_key == old.key, table.c.blob_offset == old.offset
                values = {"blob_key": new.key, "blob_offset": new.offset, "blob_length": new.length}
                if not connection.execute(update(table).where(*same).values(values)).rowcount:
                    late.append(copy)
                    continue
                connection.execute(insert(DELETED).values(self._to_remove(copy)))
        self._index.flush()
        for copy in late:
            self._store.delete(copy.new)
        done = [copy.old.length for copy in copies if copy not in late]
        return Held(len(done), sum(done))

    def _to_remove(self, copy: _Copy) -> dict[str, object]:
        """Return the row that has old bytes removed. It names no study: nothing was deleted for those who ask."""
        place = {"study_instance_uid": "", "series_instance_uid": "", "sop_instance_uid": copy.sop_instance_uid}
        blob = {"blob_key": copy.old.key, "blob_offset": copy.old.offset, "blob_length": copy.old.length}
        return {**place, **blob, "deleted_at": time.time() + self._keep_seconds}


def _is(table: Table, sealed: bool) -> ColumnElement[bool]:
    found = table.c.blob_key.like(_SEALED_KEYS)
    return found if sealed else ~found
