"""The archive: keeps instances, finds them again, and registers results.

`keep` returns only when bytes and index row are durable, so its caller may answer success (PS3.4 B.2.3).
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from enum import StrEnum
from typing import Literal, cast

from pydicom import dcmread
from sqlmodel import Session

from imaging_ai.archive import find, gate, results
from imaging_ai.archive.batch import Arrival, Held, Visit
from imaging_ai.archive.blobs import BlobStore, BlobWriter, JournaledStore, StagedWriter
from imaging_ai.archive.commit import GroupCommit
from imaging_ai.archive.conflict import replace, same_content
from imaging_ai.archive.conversion import Conversion
from imaging_ai.archive.deletion import remove_deleted
from imaging_ai.archive.index import Index
from imaging_ai.audit import record
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import InstanceHeader, SeriesSummary, StoredInstance
from imaging_ai.db.engine import Database
from imaging_ai.errors import ImagingAiError, InputError, InstanceConflict, UnavailableError

__all__ = ["Archive", "ConflictPolicy", "Kept", "Visit"]

_log = logging.getLogger(__name__)
_SETTLE_BYTES = 256 << 20
#: Of instances that come together, so many are one transaction at most.
_TOGETHER = 128

ConflictPolicy = Literal["keep-first", "replace"]


class Kept(StrEnum):
    """What became of an instance that came in."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REPLACED = "replaced"


class Archive:
    """All instances, over one database and one blob store; any number of processes share them.

    `silence` is how many seconds without a further instance make a series complete when nobody says goodbye.
    """

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        *,
        conflict: ConflictPolicy = "keep-first",
        silence: float = 10.0,
        retry_seconds: float = 5.0,
    ) -> None:
        self.database = database
        self.store = store
        self._conflict = conflict
        self._journal = store if isinstance(store, JournaledStore) else None
        self._index = Index(database, silence=silence, synced=self._journal is None, retry_seconds=retry_seconds)
        self._group = GroupCommit(self._commit)
        self._settling = threading.Lock()

    # -- keeping

    def begin(self, size_hint: int | None = None) -> BlobWriter:
        """Open a new object for the bytes of an instance."""
        return self.store.begin(size_hint)

    def keep(
        self,
        header: InstanceHeader,
        writer: BlobWriter,
        *,
        source: str,
        origin_address: str,
        door: str,
        visit: Visit | None = None,
    ) -> Kept:
        """Keep the instance that `writer` holds; durable and indexed on return.

        `source` is who brought it (calling AE title or principal), `door` how ("dimse", "stow"). Instances that come
        together share a `visit`, and one audit event for each series.

        Raises
        ------
        InstanceConflict
            If the SOP Instance UID is held with other content and the policy keeps the first.
        UnavailableError
            If storage or database cannot take it. Then nothing of it is kept.
        """
        arrival = Arrival(header, self.stage(writer), visit or Visit(source, origin_address, door))
        try:
            self._group.run(arrival)
        except BaseException as error:  # noqa: BLE001 - raised again below
            arrival.error = error
        kept = self._kept(arrival)
        self._settle()
        return kept

    def stage(self, writer: BlobWriter) -> BlobRef:
        """Put the bytes of an instance in place, for `keep_all` to index or `drop` to remove."""
        # A journaled store's writers can be staged; asking the type each time would cost as much as the header scan.
        return writer.commit() if self._journal is None else cast(StagedWriter, writer).stage()

    def keep_all(
        self, staged: Sequence[tuple[InstanceHeader, BlobRef]], visit: Visit
    ) -> Iterator[Kept | ImagingAiError]:
        """Keep staged instances that came together, and say in their order what became of each.

        Many share one sync and one transaction. Of what is not kept nothing remains.
        """
        for start in range(0, len(staged), _TOGETHER):
            arrivals = [Arrival(header, blob, visit) for header, blob in staged[start : start + _TOGETHER]]
            try:
                self._group.run(*arrivals)
            except Exception as error:  # noqa: BLE001 - told for each of them below
                for arrival in arrivals:
                    arrival.error = error
            for arrival in arrivals:
                yield self._outcome(arrival)
            self._settle()

    def _outcome(self, arrival: Arrival) -> Kept | ImagingAiError:
        try:
            return self._kept(arrival)
        except ImagingAiError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the edge of one of many: the others are kept all the same
            _log.exception("%s was not kept: %s", arrival.header.sop_instance_uid, type(error).__name__)
            return ImagingAiError("an internal error")

    def _kept(self, arrival: Arrival) -> Kept:
        """Say what became of an arrival whose batch has ended; raise why it was not kept."""
        if arrival.error is not None:
            if not arrival.in_doubt:  # else a row may name these bytes, and recovery decides
                self.drop(arrival.blob)
            raise arrival.error
        kept = Kept.STORED if arrival.held is None else self._meet(arrival)
        series = arrival.visit.series
        series[arrival.series_id] = series.get(arrival.series_id, 0) + (kept is not Kept.DUPLICATE)
        return kept

    def leave(self, visit: Visit) -> None:
        """Note in the audit what a visit has brought, at its end, and how much of that was refused."""
        with self.database.write() as session:
            for series_instance_uid, count in visit.refused.items():
                if count > 1:  # the first is there already
                    _note_conflict(session, visit, "series", series_instance_uid, f"{count} instances ")
            for series_id, series_instance_uid in visit.series_uids.items():
                record(
                    session,
                    "instances-transferred",
                    object_type="series",
                    object_uid=series_instance_uid,
                    actor=visit.source,
                    origin=visit.origin_address,
                    detail=f"{visit.door}: {visit.series.get(series_id, 0)} instances",
                )

    def _commit(self, arrivals: list[Arrival]) -> None:
        """Make a batch durable: one sync for the bytes, one transaction for the rows, in this order."""
        if self._journal is not None:
            self._journal.sync([arrival.blob for arrival in arrivals])
        try:
            self._index.insert(arrivals)
        except UnavailableError:
            raise
        except Exception:  # the edge of a batch: one instance that cannot be indexed must not fail the others
            if len(arrivals) == 1:
                raise
            for arrival in arrivals:
                self._commit_alone(arrival)

    def _commit_alone(self, arrival: Arrival) -> None:
        try:
            self._index.insert([arrival])
        except Exception as error:  # noqa: BLE001 - raised again by the caller that it belongs to
            arrival.error = error

    def _meet(self, arrival: Arrival) -> Kept:
        """Decide about an instance whose SOP Instance UID is held already."""
        while (held := arrival.held) is not None:
            ours = held.origin == "result"  # what we made is never changed from outside, nor routed again
            if ours or self._is_same(arrival, held):
                self.drop(arrival.blob)
                return Kept.DUPLICATE
            if arrival.held is not held:
                continue
            if self._conflict == "keep-first":
                self.drop(arrival.blob)
                self._refuse(arrival)
            if replace(self.database, held, arrival):
                if self._journal is None:
                    self._index.flush()
                return Kept.REPLACED
            self._look_again(arrival)
        return Kept.STORED

    def _is_same(self, arrival: Arrival, held: Held) -> bool:
        """Compare with what is held. What was deleted while it was read is none: then `arrival.held` is what is now."""
        try:
            return same_content(self.store, held.blob, arrival.blob)
        except InputError:
            self._look_again(arrival)
            if arrival.held == held:
                raise
            return False

    def _look_again(self, arrival: Arrival) -> None:
        """Another process was faster to replace or delete what was held: where it is gone, the arrival is stored."""
        arrival.held = find.held(self.database, arrival.header.sop_instance_uid)
        if arrival.held is None:
            self._group.run(arrival)

    def _refuse(self, arrival: Arrival) -> None:
        """Refuse an instance; the first of a series and visit is in the audit at once, the others when it ends."""
        uid, series, visit = arrival.header.sop_instance_uid, arrival.header.series_instance_uid, arrival.visit
        visit.refused[series] = visit.refused.get(series, 0) + 1
        if visit.refused[series] == 1:
            with self.database.write() as session:
                _note_conflict(session, visit, "instance", uid)
        raise InstanceConflict(f"SOP instance {uid} is held with other content; the first is kept")

    def drop(self, blob: BlobRef) -> None:
        """Remove bytes that will not be indexed. Failing to is no harm: recovery finds and compares them again."""
        try:
            self.store.delete(blob)
        except ImagingAiError as error:
            _log.warning("an object that is not indexed was not removed: %s", error)

    # -- finding

    def instances(self, series_instance_uid: str, study_instance_uid: str | None = None) -> tuple[StoredInstance, ...]:
        """Return the instances of a series by instance number; some series are in two studies. Raises `NotFound`."""
        return find.instances(self.database, series_instance_uid, study_instance_uid)

    def read(self, instance: StoredInstance) -> bytes:
        """Return the DICOM file of an instance."""
        return self.store.read(instance.blob)

    def summary(self, series_instance_uid: str, study_instance_uid: str | None = None) -> SeriesSummary:
        """Return a series as the rules see it; some series are in two studies. Raises `NotFound`."""
        return find.summary(self.database, series_instance_uid, study_instance_uid)

    # -- results

    def register_results(
        self, session: Session, job_id: int, objects: Sequence[tuple[str, BlobRef, InstanceHeader]]
    ) -> None:
        """Register what a job produced, in the caller's transaction."""
        results.register(session, job_id, objects)

    def results(self, job_id: int) -> tuple[StoredInstance, ...]:
        """Return the objects that a job produced."""
        return results.registered(self.database, job_id)

    # -- after a crash

    def recover(self) -> int:
        """Index what dead processes stored and could not index durably, remove what is not whole; return how many.

        Safe while other processes receive: their areas are locked.
        """
        if self._journal is None:
            return 0
        recovered = 0
        with closing(self._journal.recover(self._known_at_last, self._index.flush)) as left:
            for blob in left:
                recovered += self._adopt(blob)
        if recovered:
            _log.info("recovered %d instances that the index lacked", recovered)
        return recovered

    def _adopt(self, blob: BlobRef) -> bool:
        try:
            head = self.store.read(blob, 0, gate.HEAD_BYTES)
            header = gate.scan(head, size=blob.length)
            arrival = Arrival(header, blob, Visit(_source(head), "", "recovery"))
            self._group.run(arrival)
            return arrival.held is None or self._meet(arrival) is Kept.REPLACED
        except InputError as error:
            _log.warning("an object left by a crash was removed: %s", error)
            self.drop(blob)
            return False

    def _known(self, blobs: Sequence[BlobRef]) -> set[BlobRef]:
        """Return those that the index has, durably: what was only just committed is flushed after it was seen."""
        found = find.known(self.database, blobs)
        if found:
            self._index.flush()
        return found

    def _known_at_last(self, blobs: Sequence[BlobRef]) -> set[BlobRef]:
        """Say the same of a dead process, of which a last commit may still be under way."""
        find.await_results(self.database)
        return self._known(blobs)

    def remove_deleted(self) -> int:
        """Remove the bytes of what was deleted from the index, here or by a process that did not get so far."""
        return remove_deleted(self.database, self.store, self._index.flush)

    def conversion(self, *, seals: bool, keep_seconds: float) -> Conversion:
        """Return what makes every object one of the kind that the store makes new ones, encrypted or plain."""
        return Conversion(self.database, self.store, self._index, seals=seals, keep_seconds=keep_seconds)

    def _settle(self) -> None:
        """From time to time make the index durable, so that recovery has little to look at."""
        journal = self._journal
        if journal is None or journal.unsettled_bytes() < _SETTLE_BYTES or not self._settling.acquire(blocking=False):
            return
        try:
            journal.settle(self._known)
        except ImagingAiError as error:
            _log.warning("what is stored could not be settled, which costs time at the next start: %s", error)
        finally:
            self._settling.release()

    def close(self) -> None:
        """End this process's use of store and database; a clean end leaves recovery nothing to do."""
        if self._journal is not None:
            try:
                self._journal.close(self._known)
            except ImagingAiError as error:
                _log.warning("what is stored could not be settled, which costs time at the next start: %s", error)
        self._index.close()


def _note_conflict(session: Session, visit: Visit, object_type: str, object_uid: str, what: str = "") -> None:
    record(
        session,
        "store-instance",
        object_type=object_type,
        object_uid=object_uid,
        actor=visit.source,
        origin=visit.origin_address,
        outcome="refused",
        detail=f"instance-conflict: {what}held with other content",
    )


def _source(head: bytes) -> str:
    """Return the Source Application Entity Title (0002,0016): who brought an instance, as it was noted in its file."""
    meta = dcmread(io.BytesIO(head[: gate.dataset_offset(head)])).file_meta
    return str(meta.get("SourceApplicationEntityTitle", ""))
