"""The same SOP Instance UID twice: is it the same instance, and if not, which one stays."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy import delete, insert, update

from imaging_ai.archive import gate
from imaging_ai.archive.batch import Arrival, Held
from imaging_ai.archive.blobs import BlobStore
from imaging_ai.archive.find import INSTANCE, REPLACED, SERIES
from imaging_ai.audit import record
from imaging_ai.core import contexts
from imaging_ai.core.blob import BlobRef
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import InstanceDocumentRow

__all__ = ["replace", "same_content"]

_META_BYTES = 4096
_CHUNK_BYTES = 1 << 20
#: Above this an instance is not decoded to be compared with itself in another transfer syntax.
_DECODED_BYTES = 64 << 20
_DOCUMENT = InstanceDocumentRow.metadata.tables["instance_document"]


def same_content(store: BlobStore, first: BlobRef, second: BlobRef) -> bool:
    """Say whether two DICOM files hold the same data set; File Meta Information may differ."""
    heads = [store.read(blob, 0, _META_BYTES) for blob in (first, second)]
    offsets = [gate.dataset_offset(head) for head in heads]
    syntaxes = [gate.transfer_syntax(head) for head in heads]
    if syntaxes[0] == syntaxes[1]:
        if first.length - offsets[0] != second.length - offsets[1]:
            return False
        chunks = (_chunks(store, blob, offset) for blob, offset in zip((first, second), offsets, strict=True))
        return all(one == other for one, other in zip(*chunks, strict=True))
    if not contexts.UNCOMPRESSED.issuperset(syntaxes) or max(first.length, second.length) > _DECODED_BYTES:
        return False
    try:
        datasets = [dcmread(io.BytesIO(store.read(blob))) for blob in (first, second)]
        return bool(datasets[0] == datasets[1])
    except (InvalidDicomError, ValueError, NotImplementedError):
        return False


def _chunks(store: BlobStore, blob: BlobRef, offset: int) -> Iterator[bytes]:
    for start in range(offset, blob.length, _CHUNK_BYTES):
        yield store.read(blob, start, _CHUNK_BYTES)


def replace(database: Database, held: Held, arrival: Arrival) -> bool:
    """Put an arrival in the place of what is held, which is kept aside; False when another was faster."""
    header, blob, now = arrival.header, arrival.blob, time.time()
    same_row = (
        INSTANCE.c.sop_instance_uid == header.sop_instance_uid,
        INSTANCE.c.blob_key == held.blob.key,
        INSTANCE.c.blob_offset == held.blob.offset,
    )
    with database.write() as session:
        connection = session.connection()
        instance_id = connection.scalar(
            update(INSTANCE)
            .where(*same_row)
            .values(
                sop_class_uid=header.sop_class_uid,
                transfer_syntax_uid=header.transfer_syntax_uid,
                instance_number=header.instance_number,
                rows=header.rows,
                columns=header.columns,
                number_of_frames=header.number_of_frames,
                bits_allocated=header.bits_allocated,
                image_type=header.image_type,
                blob_key=blob.key,
                blob_offset=blob.offset,
                blob_length=blob.length,
                received_at=now,
            )
            .returning(INSTANCE.c.id)
        )
        if instance_id is None:
            return False
        old = {"blob_key": held.blob.key, "blob_offset": held.blob.offset, "blob_length": held.blob.length}
        connection.execute(insert(REPLACED).values(sop_instance_uid=header.sop_instance_uid, replaced_at=now, **old))
        connection.execute(delete(_DOCUMENT).where(_DOCUMENT.c.instance_id == instance_id))
        connection.execute(
            update(SERIES)
            .where(SERIES.c.id == held.series_id)
            .values(state="RECEIVING", settle_at=now, last_received_at=now, source=arrival.visit.source)
        )
        record(
            session,
            "replace-instance",
            object_type="instance",
            object_uid=header.sop_instance_uid,
            actor=arrival.visit.source,
            origin=arrival.visit.origin_address,
            detail="instance-conflict: the earlier content is kept aside",
        )
    arrival.series_id = held.series_id
    return True
