"""What a Store request brings, part by part (PS3.18 10.5.1.4), and how it is stored at the end, all together.

Instances go to the storage as their bytes come, each through the gate; metadata is collected, and bulk data spooled,
until the body has ended and instances can be made of both. Only then is anything indexed: of a request that breaks off
or turns out malformed, nothing is stored. Instances that are whole share their sync and their transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from imaging_ai.archive import gate
from imaging_ai.archive.archive import Kept, Visit
from imaging_ai.archive.blobs import BlobWriter
from imaging_ai.archive.spool import Spool
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.contexts import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES, VERIFICATION
from imaging_ai.core.instance import InstanceHeader
from imaging_ai.errors import (
    DatasetMismatch,
    ImagingAiError,
    InputError,
    NotDicom,
    TooLarge,
    UnavailableError,
    UnsupportedSopClass,
    UnsupportedTransferSyntax,
)
from imaging_ai.metrics import INSTANCES_RECEIVED, RECEIVED_BYTES
from imaging_ai.queue.broker import ROUTE
from imaging_ai.route.completeness import released
from imaging_ai.serve.dicomweb.assemble import Assembler
from imaging_ai.serve.dicomweb.media import DICOM, DICOM_JSON, DICOM_XML, JSON, OCTET_STREAM, MediaType
from imaging_ai.serve.dicomweb.native import from_xml
from imaging_ai.serve.dicomweb.parts import Parts

__all__ = ["Intake", "Outcome"]

_log = logging.getLogger(__name__)
_DOOR = "stow"
_PREFIX_BYTES = 132
_METADATA = {DICOM_JSON: "json", JSON: "json", DICOM_XML: "xml", "application/xml": "xml", "text/xml": "xml"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one instance, or of a part that cannot be identified (then both UIDs are "")."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    error: ImagingAiError | None = None


@dataclass(slots=True)
class _Arrived:
    """A part on its way: an instance in the storage, or why there is none."""

    header: InstanceHeader | None
    blob: BlobRef | None = None
    error: ImagingAiError | None = None

    def outcome(self) -> Outcome:
        header = self.header
        if header is None:
            return Outcome(error=self.error)
        uids = header.sop_class_uid, header.sop_instance_uid, header.study_instance_uid, header.series_instance_uid
        return Outcome(*uids, self.error)


class Intake:
    """One request. `begin`, `write` and `end` take a part; then `finish` stores, or `discard` forgets everything.

    All of them block. `default_type` is the media type of parts that name none.
    """

    def __init__(self, parts: Parts, visit: Visit, default_type: str, *, study: str | None, base_url: str) -> None:
        self._parts, self._limits, self._archive = parts, parts.limits, parts.archive
        self._visit, self._default_type, self._study = visit, default_type, study
        self._arrived: list[_Arrived] = []
        self._begun = 0
        self._write = self._ignore
        self._end = self._refuse
        self._writer: BlobWriter | None = None
        self._document = bytearray()
        self._documents: list[tuple[str, bytes]] = []
        self._metadata_bytes = 0
        self._spool = Spool(parts.spool_folder)
        self._assembler = Assembler(self._spool, base_url)

    # -- a part

    def begin(self, headers: Mapping[str, str]) -> None:
        """A part begins."""
        self._begun += 1
        if self._begun > self._limits.request_parts:
            raise TooLarge(f"the body has more than the {self._limits.request_parts} parts that are allowed")
        media_type = MediaType.parse(headers.get("content-type") or self._default_type)
        location = headers.get("content-location", "")
        essence = media_type.essence
        if essence == OCTET_STREAM and not location and self._default_type == DICOM:
            essence = DICOM  # as some clients call instances
        if essence == DICOM:
            self._writer = self._archive.begin()
            self._write, self._end = self._write_instance, self._end_instance
        elif essence in _METADATA:
            self._document = bytearray()
            self._write, self._end = self._write_metadata, lambda: self._end_metadata(_METADATA[essence])
        elif location:
            self._assembler.begin(location, media_type)
            self._write, self._end = self._write_bulk, self._assembler.end
        else:
            self._write, self._end = self._ignore, self._refuse

    def write(self, data: memoryview) -> None:
        """Take bytes of the part."""
        self._write(data)

    def end(self) -> None:
        """The part is whole."""
        self._end()

    def _ignore(self, data: memoryview) -> None:
        return

    def _refuse(self) -> None:
        why = "a part has a media type that is not taken here, and no Content-Location"
        self._arrived.append(_Arrived(None, error=NotDicom(why)))

    def _write_instance(self, data: memoryview) -> None:
        writer = self._writer
        if writer is None:
            return
        if writer.size + len(data) > self._limits.object_bytes:
            raise TooLarge(f"an instance is larger than the {self._limits.object_bytes} bytes that are allowed")
        writer.write(data)
        if writer.size >= _PREFIX_BYTES > writer.size - len(data) and bytes(writer.head[128:132]) != b"DICM":
            self._end_instance()  # not even the beginning of one: the rest need not be stored

    def _end_instance(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            self._arrived.append(self._take(writer))

    def _write_metadata(self, data: memoryview) -> None:
        self._metadata_bytes += len(data)
        if self._metadata_bytes > self._limits.metadata_bytes:
            raise TooLarge(f"the metadata is larger than the {self._limits.metadata_bytes} bytes that are allowed")
        self._document += data

    def _end_metadata(self, kind: str) -> None:
        self._documents.append((kind, bytes(self._document)))
        self._document = bytearray()

    def _write_bulk(self, data: memoryview) -> None:
        if self._assembler.size + len(data) > self._limits.object_bytes:
            raise TooLarge(f"bulk data is larger than the {self._limits.object_bytes} bytes that are allowed")
        self._spool.write(data)

    def _take(self, writer: BlobWriter) -> _Arrived:
        """Let an instance that is whole through the gate, or not."""
        header = None
        try:
            header = gate.scan(writer.head, size=writer.size)
            self._check(header)
            return _Arrived(header, self._archive.stage(writer))
        except InputError as error:
            return _Arrived(header, error=error)
        finally:
            writer.discard()

    def _check(self, header: InstanceHeader) -> None:
        """The same rules as where associations are negotiated, and the study of the address."""
        sop_class_uid, transfer_syntax_uid = header.sop_class_uid, header.transfer_syntax_uid
        if self._study is not None and header.study_instance_uid != self._study:
            raise DatasetMismatch("the instance is of another study than the one it was posted to")
        known = sop_class_uid in STORAGE_SOP_CLASSES
        further = sop_class_uid in self._parts.sop_classes
        if not (known or further or (self._parts.unknown_sop_classes and sop_class_uid != VERIFICATION)):
            raise UnsupportedSopClass("the SOP class is not one that is stored here")
        if known and transfer_syntax_uid not in TRANSFER_SYNTAXES:
            raise UnsupportedTransferSyntax("the transfer syntax is not one that is stored here")

    # -- the end

    def finish(self) -> list[Outcome]:
        """Store what has come, and say of each instance what became of it.

        Raises
        ------
        InputError
            If there was nothing, or nothing but metadata that cannot be read.
        UnavailableError
            If nothing could be stored and trying again may help.
        """
        if not self._begun:
            raise InputError("the body is empty: there is no instance in it")
        unreadable = self._assemble()
        if unreadable is not None and all(one.header is None for one in self._arrived):
            raise unreadable
        self._keep()
        errors = [one.error for one in self._arrived]
        if errors and all(isinstance(error, UnavailableError) for error in errors):
            assert errors[0] is not None
            raise errors[0]
        return [one.outcome() for one in self._arrived]

    def discard(self) -> None:
        """Forget everything that has not been stored."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None
        for one in self._arrived:
            if one.blob is not None:
                self._archive.drop(one.blob)
        self._arrived.clear()
        self._spool.close()

    def _assemble(self) -> InputError | None:
        """Make instances of metadata and bulk data; return why a document could not be read at all."""
        unreadable = None
        for kind, document in self._documents:
            try:
                data_sets = [from_xml(document)] if kind == "xml" else _from_json(document)
            except InputError as error:
                unreadable = error
                self._arrived.append(_Arrived(None, error=error))
                continue
            if len(self._arrived) + len(data_sets) > self._limits.request_parts:
                raise TooLarge(f"the metadata is of more than the {self._limits.request_parts} instances allowed")
            for data_set in data_sets:
                self._arrived.append(self._made(data_set))
        self._documents.clear()
        for _ in self._assembler.unclaimed():
            self._arrived.append(_Arrived(None, error=NotDicom("bulk data that no metadata names")))
        return unreadable

    def _made(self, data_set: object) -> _Arrived:
        writer = self._archive.begin()
        try:
            self._assembler.assemble(data_set, writer, self._limits.object_bytes)
        except InputError as error:
            return _Arrived(self._assembler.header_of(data_set), error=error)
        else:
            return self._take(writer)
        finally:
            writer.discard()

    def _keep(self) -> None:
        staged = [one for one in self._arrived if one.blob is not None]
        pairs = [(one.header, one.blob) for one in staged if one.header is not None and one.blob is not None]
        for one in staged:
            one.blob = None  # from here on they are the archive's
        for one, (_, blob), kept in zip(staged, pairs, self._archive.keep_all(pairs, self._visit), strict=True):
            if isinstance(kept, Kept):
                INSTANCES_RECEIVED.labels(_DOOR, kept.value).inc()
                RECEIVED_BYTES.labels(_DOOR).inc(blob.length)
                if self._parts.use is not None and kept is not Kept.DUPLICATE:
                    self._parts.use.add(self._visit.source, blob.length)
            else:
                one.error = kept
        for failed in (one.error for one in self._arrived if one.error is not None):
            INSTANCES_RECEIVED.labels(_DOOR, failed.code).inc()
            _log.warning("STOW from %s: %#06x: %s", self._visit.origin_address, failed.dimse_status, failed.message)
        self._spool.close()
        self._leave()

    def _leave(self) -> None:
        """Tell the rest of the house that this request is over, as at the end of an association."""
        if not self._visit.series and not self._visit.refused:
            return
        try:
            self._archive.leave(self._visit)
            released(self._parts.database, frozenset(self._visit.series), graceful=True, timing=self._parts.quiet)
        except UnavailableError as error:
            _log.warning("the end of a STOW request was not recorded: %s", error)
        self._parts.doorbell.ring(ROUTE)


def _from_json(document: bytes) -> list[object]:
    try:
        found = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InputError("the metadata is not JSON, or nests too deep") from None
    data_sets = found if isinstance(found, list) else [found]
    if not data_sets:
        raise InputError("the metadata is an empty array: there is no instance in it")
    return data_sets
