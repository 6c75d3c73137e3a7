"""C-STORE SCU: one association for a batch, with C-FIND to see what arrived, and C-ECHO (PS3.4 B, C, A; PS3.8).

pynetdicom negotiates and reads; the P-DATA of a C-STORE is written straight to the socket, so that the data set goes
out as it is stored, without a copy of it in a queue, and a peer that stops reading is noticed by its silence.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association as Negotiated
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext, build_context

from imaging_ai.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from imaging_ai.core.instance import StoredInstance
from imaging_ai.errors import DeliveryRefused, DeliveryUnavailable
from imaging_ai.send.answers import Answer, Verdict, rejection, status_answer
from imaging_ai.send.destinations import DicomDestination
from imaging_ai.send.encoding import alternatives, choose, dataset_of, rewritten
from imaging_ai.send.tls import DicomTls

__all__ = ["MOST_PAIRS", "StoreAssociation", "associate", "echo", "probe"]

#: So many pairs of SOP class and transfer syntax fit the 128 presentation contexts of an association, at worst three
#: contexts each and one for C-FIND.
MOST_PAIRS = 42

_VERIFICATION = "1.2.840.10008.1.1"
_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # Study Root Query/Retrieve Information Model - FIND
_LARGEST_PDV = 1 << 20  # for a peer that sets no maximum
_RELEASE_SECONDS = 5.0  # to wait for the answer to a goodbye: all that matters is done


@contextmanager
def associate(destination: DicomDestination, instances: Sequence[StoredInstance]) -> Iterator[StoreAssociation]:
    """Open an association for `instances`; released at the end, aborted when the block raises.

    Raises
    ------
    DeliveryUnavailable, DeliveryRefused
        As `send.peer.connect`.
    """
    contexts = contexts_for(instances)
    if destination.check_back:
        contexts.append(build_context(_FIND, ImplicitVRLittleEndian))
    negotiated = _negotiate(destination, contexts)
    try:
        yield StoreAssociation(negotiated, destination)
    except BaseException:
        negotiated.abort(block=False)
        raise
    _release(negotiated)


def echo(destination: DicomDestination) -> None:
    """C-ECHO; raises as `associate` does."""
    negotiated = _negotiate(destination, [build_context(_VERIFICATION, ImplicitVRLittleEndian)])
    status = negotiated.send_c_echo()
    _release(negotiated)
    if "Status" not in status:
        raise DeliveryUnavailable(f"{destination.ae_title} accepted the association but did not answer the C-ECHO")
    if status.Status != 0x0000:
        raise DeliveryRefused(f"{destination.ae_title} answered the C-ECHO with 0x{status.Status:04X}")


def probe(destination: DicomDestination, sop_class_uids: Collection[str]) -> tuple[frozenset[str], bool]:
    """Return which SOP classes it accepts (uncompressed), and whether it can be queried; raises as `associate` does."""
    contexts = [build_context(uid) for uid in (_VERIFICATION, _FIND, *sop_class_uids)]
    negotiated = _negotiate(destination, contexts)
    accepted = {str(context.abstract_syntax) for context in negotiated.accepted_contexts}
    _release(negotiated)
    return frozenset(accepted.intersection(sop_class_uids)), _FIND in accepted


def contexts_for(instances: Sequence[StoredInstance]) -> list[PresentationContext]:
    """Propose each SOP class in the transfer syntaxes that its instances are stored in, and what they can be sent in.

    A context of its own for each transfer syntax: the acceptor picks one of each context, and ours is the choice.
    """
    wanted = dict.fromkeys(
        (instance.sop_class_uid, transfer_syntax_uid)
        for instance in instances
        for transfer_syntax_uid in (instance.transfer_syntax_uid, *alternatives(instance.transfer_syntax_uid))
    )
    return [build_context(sop_class_uid, transfer_syntax_uid) for sop_class_uid, transfer_syntax_uid in wanted]


class StoreAssociation:
    """An established association to a Storage SCP."""

    def __init__(self, negotiated: Negotiated, destination: DicomDestination) -> None:
        self._negotiated = negotiated
        self._destination = destination
        self._message_id = 0
        self._accepted: dict[str, dict[str, int]] = {}
        for context in negotiated.accepted_contexts:
            of_class = self._accepted.setdefault(str(context.abstract_syntax), {})
            of_class[str(context.transfer_syntax[0])] = int(context.context_id or 0)

    def store(self, instance: StoredInstance, data: bytes) -> Answer:
        """Send one instance; see `send.peer.Peer.store`."""
        accepted = self._accepted.get(instance.sop_class_uid, {})
        chosen = choose(instance.transfer_syntax_uid, accepted)
        if chosen is None:
            return self._context_refused(instance, accepted)
        payload = dataset_of(data) if chosen == instance.transfer_syntax_uid else memoryview(rewritten(data, chosen))
        request = C_STORE()
        request.MessageID = self._next_message_id()
        request.Priority = 0
        request.AffectedSOPClassUID = instance.sop_class_uid
        request.AffectedSOPInstanceUID = instance.sop_instance_uid
        request.DataSet = BytesIO(b"\0")  # only says that a data set follows
        response = self._exchange(request, accepted[chosen], payload)
        return status_answer(int(response.Status or 0), str(getattr(response, "ErrorComment", "") or ""))

    def holds(self, instances: Sequence[StoredInstance]) -> frozenset[str] | None:
        """C-FIND on IMAGE level, one query for each series; see `send.peer.Peer.holds`."""
        if not instances:
            return frozenset()
        if _FIND not in self._accepted:
            return None
        if not self._negotiated.is_established:
            raise self._lost("it aborted or closed the connection")
        wanted: dict[tuple[str, str], list[str]] = {}
        for instance in instances:
            key = (instance.study_instance_uid, instance.series_instance_uid)
            wanted.setdefault(key, []).append(instance.sop_instance_uid)
        seen: set[str] = set()
        for (study, series), uids in wanted.items():
            found = self._find(study, series, uids[0] if len(uids) == 1 else "")
            if found is None:
                return None
            seen |= found.intersection(uids)
        return frozenset(seen)

    def _find(self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> set[str] | None:
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "IMAGE"
        identifier.StudyInstanceUID = study_instance_uid
        identifier.SeriesInstanceUID = series_instance_uid
        identifier.SOPInstanceUID = sop_instance_uid
        found: set[str] = set()
        for status, match in self._negotiated.send_c_find(identifier, _FIND, msg_id=self._next_message_id()):
            if status.get("Status") in (0xFF00, 0xFF01):
                found.add(str(match.get("SOPInstanceUID", "")) if match is not None else "")
            elif "Status" not in status:
                raise self._lost("it aborted, closed the connection or did not answer a query in time")
            elif status.Status != 0x0000:
                return None
        return found

    def _context_refused(self, instance: StoredInstance, accepted: dict[str, int]) -> Answer:
        title = self._destination.ae_title
        if accepted:
            return Answer(
                Verdict.PERMANENT,
                f"{title} accepts SOP class {instance.sop_class_uid}, but not in transfer syntax "
                f"{instance.transfer_syntax_uid}; enable that there",
            )
        return Answer(
            Verdict.PERMANENT,
            f"{title} does not accept SOP class {instance.sop_class_uid}; enable it there, "
            "or send to its DICOMweb service (url)",
        )

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _exchange(self, request: C_STORE, context_id: int, payload: memoryview) -> C_STORE:
        negotiated = self._negotiated
        try:
            _send(negotiated, request, context_id, payload)
        except OSError as error:
            raise self._lost(f"the connection broke ({type(error).__name__})") from error
        _, response = negotiated.dimse.get_msg(block=True)
        if response is None:
            raise self._lost("it aborted, closed the connection or did not answer in time")
        if not isinstance(response, C_STORE) or not response.is_valid_response:
            raise self._lost("it answered something else than a C-STORE response")
        if response.MessageIDBeingRespondedTo != request.MessageID:
            raise self._lost("it answered another message than the one sent")
        return response

    def _lost(self, what: str) -> DeliveryUnavailable:
        self._negotiated.abort(block=False)
        return DeliveryUnavailable(f"the association with {self._destination.ae_title} was lost: {what}")


class _Checkpoint(threading.Event):
    """Holds pynetdicom's reactor for as long as the association lives.

    The reactor looks for messages too, and pausing it anew for each exchange leaves it a moment in which it takes a
    response that comes at once, as ours do. Only release and abort may start it, so that its thread ends.
    """

    def __init__(self, negotiated: Negotiated) -> None:
        super().__init__()
        self._negotiated = negotiated

    def set(self) -> None:
        if self._negotiated._sent_abort or not self._negotiated.is_established:
            super().set()


def _negotiate(destination: DicomDestination, contexts: list[PresentationContext]) -> Negotiated:
    ae = AE(ae_title=destination.calling_ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = destination.connect_timeout
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = destination.timeout
    connected: list[bool] = []
    tls = DicomTls(destination) if destination.tls else None

    def on_open(event: evt.Event) -> None:
        connected.append(True)
        event.assoc._reactor_checkpoint = _Checkpoint(event.assoc)
        raw = _raw_socket(event.assoc)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.settimeout(destination.timeout)  # a peer that stops reading would hold us for ever

    negotiated = ae.associate(
        destination.host,
        destination.port,
        contexts=contexts,
        ae_title=destination.ae_title,
        evt_handlers=[(evt.EVT_CONN_OPEN, on_open)],
        tls_args=tls.arguments if tls else None,
    )
    if negotiated.is_established:
        while not negotiated._is_paused and negotiated.is_alive():
            time.sleep(0.0001)
        return negotiated
    raise _not_established(negotiated, destination, is_connected=bool(connected), failure=tls.failure if tls else "")


def _not_established(
    negotiated: Negotiated, destination: DicomDestination, *, is_connected: bool, failure: str
) -> DeliveryUnavailable | DeliveryRefused:
    where = f"{destination.ae_title} at {destination.host}:{destination.port}"
    if failure:
        return DeliveryUnavailable(f"{where}: no TLS: {failure}; see ca_file, host and port, and what it speaks")
    if not is_connected:
        return DeliveryUnavailable(f"{where}: no connection; is it running, is the port right, is a firewall between?")
    said = negotiated.acceptor.primitive
    if negotiated.is_rejected and said is not None:
        answer = rejection(
            int(said.result or 0),
            int(said.result_source or 0),
            int(said.diagnostic or 0),
            called=destination.ae_title,
            calling=destination.calling_ae_title,
        )
        kind = DeliveryRefused if answer.verdict is Verdict.PERMANENT else DeliveryUnavailable
        return kind(answer.reason)
    if said is not None and negotiated.rejected_contexts:
        refused = sorted({str(context.abstract_syntax) for context in negotiated.rejected_contexts} - {_FIND})
        return DeliveryRefused(
            f"{where} accepts none of the proposed SOP classes in their transfer syntaxes ({', '.join(refused)}); "
            "enable them there, or send to its DICOMweb service (url)"
        )
    hint = "does it want another certificate of ours?" if destination.tls else "is it DICOM, and not over TLS?"
    return DeliveryUnavailable(f"{where} closed the connection or did not answer the association request; {hint}")


def _release(negotiated: Negotiated) -> None:
    if negotiated.is_established:
        negotiated.acse_timeout = min(_RELEASE_SECONDS, negotiated.acse_timeout or _RELEASE_SECONDS)
        negotiated.release()
    else:
        negotiated.abort(block=False)


def _send(negotiated: Negotiated, request: C_STORE, context_id: int, payload: memoryview) -> None:
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    command = encode(message.command_set, True, True)
    assert command is not None, "a command set always encodes"
    raw = _raw_socket(negotiated)
    limit = min(negotiated.dimse.maximum_pdu_size or _LARGEST_PDV, _LARGEST_PDV) - 6
    for header, fragment in pdus(context_id, command, payload, limit):
        if len(fragment) < 16384:
            raw.sendall(header + bytes(fragment))
        else:
            raw.sendall(header)
            raw.sendall(fragment)


def _raw_socket(negotiated: Negotiated) -> socket.socket:
    transport = negotiated.dul.socket
    if transport is None or transport.socket is None:
        raise ConnectionError("the connection is closed")
    return transport.socket


def pdus(
    context_id: int, command: bytes, payload: memoryview, limit: int
) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """Cut a command and its data set into P-DATA-TF PDUs (PS3.8 9.3.5, E.2): header and fragment of each."""
    for body, flag in ((memoryview(command), 0x01), (payload, 0x00)):
        for start in range(0, max(len(body), 1), limit):
            fragment = body[start : start + limit]
            control = flag | (0x02 if start + limit >= len(body) else 0x00)
            yield (
                struct.pack(">BBLLBB", 0x04, 0, len(fragment) + 6, len(fragment) + 2, context_id, control),
                fragment,
            )
