"""The documented pynetdicom way: its negotiation, its data path, `evt.EVT_C_STORE`.

It serves everything that is not storage, and all storage when `data_path` is "plain": the reference that the fast
data path is compared with.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class
from pynetdicom.transport import RequestHandler

from imaging_ai.archive.archive import Archive, Visit
from imaging_ai.core.contexts import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES, VERIFICATION
from imaging_ai.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from imaging_ai.receive.allowance import Allowance
from imaging_ai.receive.command import C_STORE, Command
from imaging_ai.receive.intake import Incoming
from imaging_ai.receive.negotiation import AcceptedContext
from imaging_ai.receive.policy import AssociationPolicy

__all__ = ["Handover", "PlainStorage", "application_entity"]

_SUCCESS, _NOT_AUTHORIZED = 0x0000, 0x0124

#: (event, handler) pairs and presentation contexts of further services on the same port (C-FIND, C-MOVE, …).
Handlers = list[tuple[Any, Callable[[Any], Any]]]


def application_entity(policy: AssociationPolicy) -> AE:
    """Build pynetdicom's side of the SCP. Titles and limits are checked before an association reaches it."""
    entity = AE(policy.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.maximum_pdu_size = policy.max_pdu_bytes
    entity.maximum_associations = policy.max_associations + 1
    entity.network_timeout = policy.idle_seconds
    entity.dimse_timeout = policy.idle_seconds
    entity.acse_timeout = policy.artim_seconds
    entity.supported_contexts = storage_contexts(policy)
    return entity


def storage_contexts(policy: AssociationPolicy) -> list[PresentationContext]:
    """Return every storage SOP class, and Verification, in every transfer syntax."""
    classes = sorted({*STORAGE_SOP_CLASSES, *policy.sop_classes, VERIFICATION})
    for uid in classes:
        if uid_to_service_class(uid) is ServiceClass:  # retired, private: unknown to pynetdicom
            register_uid(uid, STORAGE_SOP_CLASSES.get(uid, f"Storage_{uid.replace('.', '_')}"), StorageServiceClass)
    return [build_context(uid, list(TRANSFER_SYNTAXES)) for uid in classes]


class Handover(RequestHandler):
    """Gives a connection to pynetdicom, and its association what the peer may still do (`assoc.allowance`)."""

    def __init__(self, sock: socket.socket, address: Any, server: Any, allowance: Allowance) -> None:
        self._allowance = allowance
        super().__init__(sock, address, server)

    def _create_association(self) -> Any:
        assoc: Any = super()._create_association()
        assoc.allowance = self._allowance
        return assoc


class PlainStorage:
    """The handlers of storage associations on pynetdicom's data path."""

    def __init__(self, archive: Archive, policy: AssociationPolicy, ended: Callable[[Visit, bool], None]) -> None:
        self._archive = archive
        self._policy = policy
        self._ended = ended
        self._visits: dict[Any, Visit] = {}

    def handlers(self) -> Handlers:
        """Return what to bind to a pynetdicom server."""
        return [
            (evt.EVT_C_ECHO, lambda event: _SUCCESS if "echo" in event.assoc.allowance.peer.may else _NOT_AUTHORIZED),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_RELEASED, lambda event: self._end(event, graceful=True)),
            (evt.EVT_ABORTED, lambda event: self._end(event, graceful=False)),
            (evt.EVT_CONN_CLOSE, lambda event: self._end(event, graceful=False)),
        ]

    def _store(self, event: Any) -> Dataset | int:
        request, assoc = event.request, event.assoc
        visit = self._visits.get(assoc)
        if visit is None:
            visit = Visit(assoc.requestor.ae_title.strip(), str(assoc.requestor.address), "dimse")
            self._visits[assoc] = visit
        context = AcceptedContext(
            event.context.context_id, str(event.context.abstract_syntax), str(event.context.transfer_syntax)
        )
        command = Command(
            C_STORE,
            request.MessageID,
            True,
            str(request.AffectedSOPClassUID).strip(),
            str(request.AffectedSOPInstanceUID).strip(),
        )
        incoming = Incoming(self._archive, context, command, visit, self._policy.max_object_bytes, assoc.allowance)
        incoming.write(request.DataSet.getbuffer())
        outcome = incoming.finish()
        if not outcome.comment:
            return outcome.status
        status = Dataset()
        status.Status = outcome.status
        status.ErrorComment = outcome.comment[:64]
        return status

    def _end(self, event: Any, *, graceful: bool) -> None:
        visit = self._visits.pop(event.assoc, None)
        if visit is not None:
            self._ended(visit, graceful)
