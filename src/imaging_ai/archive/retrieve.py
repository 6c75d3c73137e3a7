"""Instances as readers get them: looked up by place, with the layout of their bytes, without parsing any DICOM.

What is remembered in a process is only what a blob of immutable bytes determines; which blob an instance has now is
asked of the index every time, so that a deletion or a replacement is seen by the next reader.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import text

from imaging_ai.archive.blobs import BlobStore, NearStore
from imaging_ai.archive.describer import LOST, Describer
from imaging_ai.archive.document import Document, pack_json, unpack_together
from imaging_ai.archive.layout import Layout, layout_of
from imaging_ai.archive.query_reader import Reader
from imaging_ai.archive.shelf import shelved
from imaging_ai.archive.transcode import Source
from imaging_ai.archive.unchanged import Unchanged
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import StoredInstance
from imaging_ai.db.engine import Database
from imaging_ai.errors import Gone, NotFound, StorageUnavailable, UnavailableError

__all__ = ["Fill", "Listed", "Retriever"]

_log = logging.getLogger(__name__)

#: Reads a range of an instance if nothing waits for it, and says whether it did.
Fill = Callable[[int, memoryview], bool]

_REMEMBERED_BYTES = 32 << 20
_PIECE = 3 << 17  # some ten of them are on their way to each reader

_COLUMNS = """
SELECT i.id, i.sop_instance_uid, i.sop_class_uid, i.transfer_syntax_uid, study.study_instance_uid,
       series.series_instance_uid, i.instance_number, i.blob_key, i.blob_offset, i.blob_length
FROM {first}
WHERE {where}
"""
_ONE = _COLUMNS.format(
    first="instance i JOIN series ON series.id = i.series_id JOIN study ON study.id = series.study_id",
    where="i.sop_instance_uid = {mark}",
)


def _listing(where: str) -> str:
    first = "study JOIN series ON series.study_id = study.id JOIN instance i ON i.series_id = series.id"
    order = "ORDER BY series.series_number, series.id, i.instance_number, i.sop_instance_uid"
    return _COLUMNS.format(first=first, where=f"study.study_instance_uid = {{mark}} {where}") + order


_STUDY = _listing("")
_SERIES = _listing("AND series.series_instance_uid = {mark}")
_ONE_AT_ONCE = _ONE.format(mark="?")
_DOCUMENTS = "SELECT instance_id, metadata_json FROM instance_document WHERE instance_id IN ({})"
_STILL = text("SELECT 1 FROM instance WHERE sop_instance_uid = :instance AND blob_key = :key AND blob_offset = :offset")


class Listed:
    """An instance of the index: a row, of which most readers want little, so that `instance` is made when asked for."""

    __slots__ = ("_instance", "_row")

    def __init__(self, row: tuple[Any, ...]) -> None:
        self._row = row
        self._instance: StoredInstance | None = None

    @property
    def id(self) -> int:
        """The number of its row."""
        return int(self._row[0])

    @property
    def series(self) -> tuple[str, str]:
        """Its Study and Series Instance UID."""
        return self._row[4], self._row[5]

    @property
    def content(self) -> str:
        """What says which bytes of storage it has."""
        return f"{self._row[7]} {self._row[8]}"

    @property
    def instance(self) -> StoredInstance:
        """What the index knows of it."""
        if self._instance is None:
            instance, sop_class, syntax, study, series, number, *blob = self._row[1:]
            self._instance = StoredInstance(instance, sop_class, syntax, study, series, number, BlobRef(*blob))
        return self._instance


class Retriever:
    """Looks instances up, and remembers their layouts up to `_REMEMBERED_BYTES`."""

    def __init__(self, database: Database, store: BlobStore, describer: Describer) -> None:
        self._database, self.store, self._describer = database, store, describer
        self._reader = Reader.of(database)
        # asked once: the type of a store takes longer to tell than a frame to read
        self._near = store if isinstance(store, NearStore) else None
        self._unchanged = Unchanged(database, _ONE_AT_ONCE, Listed) if self._near and database.is_sqlite else None
        self._lock = threading.Lock()
        self._layouts: OrderedDict[tuple[int, str, int, int], Layout] = OrderedDict()
        self._weight = 0

    def listed(self, study: str, series: str | None = None, instance: str | None = None) -> tuple[Listed, ...]:
        """Return the instances at a place, by series number, then instance number.

        Raises
        ------
        NotFound
            If there are none; `Gone` if they were deleted.
        """
        if instance is not None:
            rows = [row for row in self._rows(_ONE, instance) if row[4:6] == (study, series)]
        else:
            rows = self._rows(_STUDY, study) if series is None else self._rows(_SERIES, study, series)
        if not rows:
            shelved(self._database, study, series, instance)  # says whether it was ever here
            raise NotFound("no such instances are held here")
        return tuple(map(Listed, rows))

    def _rows(self, statement: str, *parameters: str) -> list[tuple[Any, ...]]:
        with self._reader.open() as reading:
            return reading.rows(statement.format(mark=reading.dialect.mark), parameters)

    def one(self, study: str, series: str, instance: str) -> Listed:
        """Return one instance. Raises `NotFound` or `Gone`."""
        return self.listed(study, series, instance)[0]

    def one_at_once(self, study: str, series: str, instance: str) -> Listed | None:
        """Return an instance if nothing waits for it, the index being a local file.

        None does not say that it is not here.
        """
        listed = None if self._unchanged is None else self._unchanged.get(instance)
        if listed is None:
            return None
        return listed if listed.series == (study, series) else None

    def at_once(self, study: str, series: str, instance: str) -> tuple[Layout, Fill] | None:
        """Return the layout of an instance, if it is remembered, and what reads it; None as `one_at_once`."""
        listed = self.one_at_once(study, series, instance)
        if listed is None or self._near is None:
            return None
        one = listed.instance
        key = _key(listed)
        with self._lock:
            if (layout := self._layouts.get(key)) is None:
                return None
            self._layouts.move_to_end(key)
        return layout, partial(self._near.fill_at_once, one.blob)

    def layout(self, listed: Listed) -> Layout:
        """Return the layout of an instance.

        Raises
        ------
        NotFound
            If it has left the index meanwhile; `StorageUnavailable` if it has not, and its bytes are lost.
        """
        key = _key(listed)
        with self._lock:
            if (known := self._layouts.get(key)) is not None:
                self._layouts.move_to_end(key)
                return known
        layout = layout_of(self.document(listed.instance))
        with self._lock:
            if key not in self._layouts:
                self._weight += layout.weight
            self._layouts[key] = layout
            while self._weight > _REMEMBERED_BYTES:
                _, forgotten = self._layouts.popitem(last=False)
                self._weight -= forgotten.weight
        return layout

    def source(self, listed: Listed) -> Source:
        """Return an instance as a transcoder takes it."""
        one = listed.instance
        read = partial(self.bytes_of, one)
        return Source(one.sop_class_uid, one.sop_instance_uid, read, one.blob.length, self.layout(listed))

    # -- bytes, which deletions and failing disks may have taken away

    def bytes_of(self, one: StoredInstance, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of an instance. Raises as `layout`."""
        try:
            return self.store.read(one.blob, start, length)
        except NotFound:
            raise self._missing(one) from None

    def fill_of(self, one: StoredInstance) -> Fill | None:
        """Return what reads an instance if nothing waits for it; None where the store cannot tell."""
        return partial(self._near.fill_at_once, one.blob) if self._near else None

    def pieces_of(self, one: StoredInstance) -> Iterator[bytes]:
        """Give an instance in pieces. Raises as `layout`."""
        try:
            yield from self.store.stream(one.blob, _PIECE)
        except NotFound:
            raise self._missing(one) from None

    def document(self, one: StoredInstance) -> Document:
        """Return the document of an instance. Raises as `layout`."""
        return self.checked(one, self._describer.document_of(one))

    def checked(self, one: StoredInstance, document: Document) -> Document:
        """Return a document of an instance unless it only says that there are no bytes. Raises as `layout`."""
        if document.error == LOST:
            raise self._missing(one)
        return document

    def is_lost(self, one: StoredInstance) -> bool:
        """Say whether the bytes of an instance are known to be lost, where a store can tell without much ado."""
        try:
            fill = self.fill_of(one)
            if fill is not None and not fill(0, memoryview(bytearray(1))):
                self.bytes_of(one, 0, 1)
        except UnavailableError:
            return True
        except NotFound:
            return False
        return False

    def _missing(self, one: StoredInstance) -> Gone | StorageUnavailable:
        """Return why the storage lacks an instance: it was deleted, or the index still has it."""
        key = {"instance": one.sop_instance_uid, "key": one.blob.key, "offset": one.blob.offset}
        with self._database.read() as session:
            if session.connection().execute(_STILL, key).first() is None:
                return Gone("the instance was deleted while it was retrieved")
        _log.error("the storage has lost instance %s, which the index has", one.sop_instance_uid)
        return StorageUnavailable("the storage has lost the bytes of an instance that the index has")

    def documents(self, listed: Sequence[Listed], root: str) -> Iterator[bytes]:
        """Give the DICOM JSON of instances in their order, with commas between those of a series.

        BulkDataURIs are below `root`, the address of DICOMweb. An instance that has left the index is left out.
        """
        with self._reader.open() as reading:
            packed = dict(reading.by_ids(_DOCUMENTS, [one.id for one in listed]))
        for (study, series), of_series in groupby(listed, attrgetter("series")):
            found = [packed.get(one.id) or self._packed(one) for one in of_series]
            if together := unpack_together(filter(None, found), f"{root}/studies/{study}/series/{series}/".encode()):
                yield together

    def _packed(self, listed: Listed) -> bytes:
        """Return the document of an instance that the describer has not come to yet; empty if it has left the index."""
        try:
            return pack_json(self._describer.document_of(listed.instance).json)
        except NotFound:
            return b""


def _key(listed: Listed) -> tuple[int, str, int, int]:
    """Return what determines the layout of an instance, as something that is compared quickly."""
    blob = listed.instance.blob
    return listed.id, blob.key, blob.offset, blob.length
