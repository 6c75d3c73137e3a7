"""Taking in one instance: the same checks and the same bytes stored, whichever way the data set came.

The file that is stored is preamble, File Meta Information and the data set exactly as received (PS3.10 section 7).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from imaging_ai.archive import gate
from imaging_ai.archive.archive import Archive, Kept, Visit
from imaging_ai.archive.blobs import BlobWriter
from imaging_ai.archive.file_meta import file_meta
from imaging_ai.core.identity import is_uid
from imaging_ai.errors import (
    DatasetMismatch,
    ImagingAiError,
    NotAllowed,
    NotDicom,
    OverLimit,
    TooLarge,
    UnsupportedSopClass,
)
from imaging_ai.metrics import INSTANCES_RECEIVED, RECEIVED_BYTES
from imaging_ai.receive.allowance import Allowance
from imaging_ai.receive.command import Command
from imaging_ai.receive.negotiation import AcceptedContext

__all__ = ["SUCCESS", "Incoming", "Outcome"]

_log = logging.getLogger(__name__)
_DOOR = "dimse"
_RECEIVED = {kept: INSTANCES_RECEIVED.labels(_DOOR, kept.value) for kept in Kept}
_BYTES = RECEIVED_BYTES.labels(_DOOR)
SUCCESS = 0x0000


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a C-STORE: a status (PS3.4 B.2.3) and, for a failure, why in words."""

    status: int
    comment: str = ""


class Incoming:
    """One instance on its way in. What fails is remembered, and the rest of the data set is let pass."""

    def __init__(
        self,
        archive: Archive,
        context: AcceptedContext,
        command: Command,
        visit: Visit,
        max_bytes: int,
        allowance: Allowance | None = None,
    ) -> None:
        self._archive = archive
        self._context = context
        self._command = command
        self._visit = visit
        self._max_bytes = max_bytes
        self._allowance = allowance
        self._writer: BlobWriter | None = None
        self._failure: ImagingAiError | None = None
        self.received = 0
        try:
            self._check_command()
            if allowance is not None:
                allowance.begin(visit.source, visit.origin_address)
            self._writer = archive.begin()
            self._writer.write(
                file_meta(command.sop_class_uid, command.sop_instance_uid, context.transfer_syntax_uid, visit.source)
            )
        except ImagingAiError as error:
            self._fail(error)

    def write(self, fragment: memoryview) -> None:
        """Take a fragment of the data set."""
        self.received += len(fragment)
        if self._allowance is not None:
            self._allowance.came(len(fragment))
        if self._writer is None:
            return
        try:
            if self.received > self._max_bytes:
                raise TooLarge(f"the instance is larger than the {self._max_bytes} bytes that are allowed")
            self._writer.write(fragment)
        except ImagingAiError as error:
            self._fail(error)

    def finish(self) -> Outcome:
        """Keep the instance and say how to answer; success only once the archive has it for good."""
        if self._writer is not None:
            try:
                return self._keep(self._writer)
            except ImagingAiError as error:
                self._fail(error)
            except Exception as error:  # noqa: BLE001 - the edge of a request: the peer gets an answer
                self._fail(ImagingAiError("an internal error"))
                _log.exception("C-STORE of %s failed: %s", self._command.sop_instance_uid, type(error).__name__)
        failure = self._failure
        assert failure is not None
        _log.log(
            logging.DEBUG if isinstance(failure, OverLimit | NotAllowed) else logging.WARNING,  # those are counted
            "C-STORE from %s refused with %#06x: %s",
            self._visit.source,
            failure.dimse_status,
            failure.message,
        )
        INSTANCES_RECEIVED.labels(_DOOR, failure.code).inc()
        return Outcome(failure.dimse_status, failure.message)

    def discard(self) -> None:
        """Forget the instance; nothing of it remains."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.discard()

    def _keep(self, writer: BlobWriter) -> Outcome:
        header = gate.scan(writer.head, size=writer.size)
        command = self._command
        if header.sop_instance_uid != command.sop_instance_uid or header.sop_class_uid != command.sop_class_uid:
            raise DatasetMismatch("SOP Class or Instance UID of data set and command differ")
        size = writer.size
        kept = self._archive.keep(
            header,
            writer,
            source=self._visit.source,
            origin_address=self._visit.origin_address,
            door=_DOOR,
            visit=self._visit,
        )
        self.discard()
        if self._allowance is not None and kept is not Kept.DUPLICATE:
            self._allowance.kept(self._visit.source, size)
        _RECEIVED[kept].inc()
        _BYTES.inc(size)
        return Outcome(SUCCESS)

    def _check_command(self) -> None:
        command = self._command
        if not command.has_data_set:
            raise NotDicom("the C-STORE request has no data set")
        if not is_uid(command.sop_instance_uid):
            raise NotDicom("the Affected SOP Instance UID is not a UID")
        if command.sop_class_uid != self._context.abstract_syntax:
            raise UnsupportedSopClass("the Affected SOP Class UID is not the one of the presentation context")

    def _fail(self, error: ImagingAiError) -> None:
        self._failure = error
        self.discard()
