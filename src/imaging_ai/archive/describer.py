"""The describer: makes the documents of instances soon after they are stored, away from the ingest path.

An instance without an `InstanceDocumentRow` is pending; that is all the state there is, so any number of describers may
work at once and any of them may die at any moment. Files are read and documents made outside transactions; one short
transaction per batch then stores those whose instance still exists with the same bytes and which no other describer
stored first. A reader that comes before the describer makes the document itself (`document_of`).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Event
from typing import Any

import msgspec
from sqlalchemy import text

from imaging_ai.archive.blobs import BlobStore
from imaging_ai.archive.document import Document, make_document, pack_bulk, pack_json, unpack_bulk, unpack_json
from imaging_ai.archive.frames import FrameTable
from imaging_ai.archive.query_reader import Reader
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import StoredInstance
from imaging_ai.db.engine import Database
from imaging_ai.errors import InputError, NotFound, StorageCorrupted, UnavailableError

__all__ = ["LOST", "Describer"]

_log = logging.getLogger(__name__)

#: An instance and its document, by the names of their columns.
Row = Mapping[str, Any]

_COLUMNS = """
i.id, i.sop_instance_uid, i.sop_class_uid, i.transfer_syntax_uid, i.instance_number,
i.blob_key, i.blob_offset, i.blob_length,
series.series_instance_uid, study.study_instance_uid, d.metadata_json, d.frames, d.bulk, d.error
"""
_NAMES = [column.strip().rpartition(".")[2] for column in _COLUMNS.split(",")]
_SELECT = f"""
SELECT {_COLUMNS}
FROM instance i JOIN series ON series.id = i.series_id JOIN study ON study.id = series.study_id
LEFT JOIN instance_document d ON d.instance_id = i.id
"""  # noqa: S608 - nothing of anybody's
_PENDING = text(_SELECT + "WHERE i.id > :floor AND d.instance_id IS NULL ORDER BY i.id LIMIT :most")
_ONE = _SELECT + "WHERE i.sop_instance_uid = {mark}"

# The instance may have been deleted or replaced meanwhile: then there is nothing to insert for.
_INSERT = """
INSERT INTO instance_document (instance_id, series_id, metadata_json, frames, bulk, error)
SELECT i.id, i.series_id, :metadata_json, :frames, :bulk, :error FROM instance i
WHERE i.id = :id AND i.blob_key = :blob_key AND i.blob_offset = :blob_offset
{lock} ON CONFLICT (instance_id) DO NOTHING
"""

#: Transactions of PostgreSQL may commit in another order than they took their ids: look back this far.
_LOOK_BACK = 2_000
_RESCAN_SECONDS = 600.0
#: The error of a document whose instance had no bytes when they were looked for; a reader looks again.
LOST = "the bytes of the instance are lost"
_PAGES = 4


class Describer:
    """Makes documents and frame tables of the instances of one archive."""

    def __init__(self, database: Database, store: BlobStore) -> None:
        self._database, self._store = database, store
        self._reader = Reader.of(database)
        self._insert = text(_INSERT.format(lock="" if database.is_sqlite else "FOR KEY SHARE"))
        self._floor, self._rescan_at = 0, 0.0

    def describe_pending(self, limit: int = 100) -> int:
        """Describe up to `limit` instances that have no document; return how many were described.

        Raises
        ------
        UnavailableError
            If database or storage do not answer; what was not described stays pending.
        """
        rows = self._pending(limit)
        documents = [(row, self._describe(row)) for row in rows]
        self._keep(documents)
        return len(documents)

    def document_of(self, instance: StoredInstance) -> Document:
        """Return the document of an instance; it is made and kept now if no describer has been here yet.

        Raises
        ------
        NotFound
            If the instance is no longer in the index.
        """
        row = self._row(instance.sop_instance_uid)
        if row is None:
            raise NotFound("no such instance is stored here")
        return self._document(row)

    def find(self, sop_instance_uid: str) -> tuple[StoredInstance, Callable[[], Document]] | None:
        """Look an instance up together with its document, which is read only when it is asked for."""
        row = self._row(sop_instance_uid)
        if row is None:
            return None
        blob = BlobRef(row["blob_key"], row["blob_offset"], row["blob_length"])
        instance = StoredInstance(
            sop_instance_uid=row["sop_instance_uid"],
            sop_class_uid=row["sop_class_uid"],
            transfer_syntax_uid=row["transfer_syntax_uid"],
            study_instance_uid=row["study_instance_uid"],
            series_instance_uid=row["series_instance_uid"],
            instance_number=row["instance_number"],
            blob=blob,
        )
        return instance, lambda: self._document(row)

    def _row(self, sop_instance_uid: str) -> Row | None:
        with self._reader.open() as reading:
            rows = reading.rows(_ONE.format(mark=reading.dialect.mark), (sop_instance_uid,))
        return dict(zip(_NAMES, rows[0], strict=True)) if rows else None

    def _document(self, row: Row) -> Document:
        if row["metadata_json"] is None or row["error"] == LOST:
            document = self._describe(row)
            if document.error != LOST:
                self._keep([(row, document)])
            return document
        return Document(
            json=unpack_json(row["metadata_json"]),
            frames=FrameTable.unpack(row["frames"]),
            bulk=unpack_bulk(row["bulk"]),
            transfer_syntax_uid=row["transfer_syntax_uid"],
            error=row["error"],
        )

    def run(self, stop: Event, wake: Event, *, limit: int = 100, poll_seconds: float = 1.0) -> None:
        """Describe whatever comes until `stop` is set; `wake` ends a pause early."""
        while not stop.is_set():
            try:
                described = self.describe_pending(limit)
            except UnavailableError as error:
                _log.warning("documents wait: %s", error.message)
                described = 0
                stop.wait(poll_seconds)
            if not described:
                wake.wait(poll_seconds)
                wake.clear()

    def _pending(self, limit: int) -> Sequence[Row]:
        if (now := time.monotonic()) >= self._rescan_at:
            self._floor, self._rescan_at = 0, now + _RESCAN_SECONDS
        with self._database.read() as session:
            found = session.connection().execute(_PENDING, {"floor": self._floor, "most": limit * _PAGES})
            rows = [one._asdict() for one in found]
        if not rows:
            return rows
        self._floor = max(self._floor, rows[0]["id"] - _LOOK_BACK)
        # describers that work at once take different pages, mostly
        start = random.randrange(0, len(rows), limit)  # noqa: S311
        return rows[start : start + limit]

    def _describe(self, row: Row) -> Document:
        blob = BlobRef(row["blob_key"], row["blob_offset"], row["blob_length"])
        try:
            return make_document(
                lambda start, length: self._store.read(blob, start, length), blob.length, row["sop_instance_uid"]
            )
        except (NotFound, StorageCorrupted):
            _log.error("no document of instance %s: its bytes are lost", row["sop_instance_uid"])
            return _from_index(row, LOST)
        except UnavailableError:
            raise
        except InputError as error:
            return _from_index(row, error.message)
        except Exception as error:  # noqa: BLE001 - the edge to bytes that strangers wrote: one instance must not stop the others
            _log.error("no document of instance %s: %s", row["sop_instance_uid"], type(error).__name__)
            return _from_index(row, f"the instance cannot be described: {type(error).__name__}")

    def _keep(self, documents: Iterable[tuple[Row, Document]]) -> None:
        values = [
            {
                "id": row["id"],
                "blob_key": row["blob_key"],
                "blob_offset": row["blob_offset"],
                "metadata_json": pack_json(document.json),
                "frames": document.frames.pack(),
                "bulk": pack_bulk(document.bulk),
                "error": document.error,
            }
            for row, document in documents
        ]
        if values:
            with self._database.write() as session:
                session.connection().execute(self._insert, values)


def _from_index(row: Row, error: str) -> Document:
    """Return what the index knows of an instance that cannot be read."""
    uids = {"00080016": "sop_class_uid", "00080018": "sop_instance_uid"}
    uids |= {"0020000D": "study_instance_uid", "0020000E": "series_instance_uid"}
    json = msgspec.json.encode({tag: {"vr": "UI", "Value": [row[column]]} for tag, column in uids.items()})
    return Document(json, FrameTable(), (), row["transfer_syntax_uid"], error)
