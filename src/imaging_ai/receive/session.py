"""One storage association on our own reader: C-ECHO and C-STORE between its acceptance and its end (PS3.8 section 9).

The state machine is the part of PS3.8 9.2 that an acceptor without outstanding requests needs: everything arrives in
Sta6, an answer is written at once, and whatever does not belong there aborts.
"""

from __future__ import annotations

import logging
import socket
from contextlib import suppress

from imaging_ai.archive.archive import Archive, Visit
from imaging_ai.receive.allowance import Allowance
from imaging_ai.receive.command import C_CANCEL, C_ECHO, C_STORE, Command, parse_command, response, response_pdus
from imaging_ai.receive.intake import SUCCESS, Incoming, Outcome
from imaging_ai.receive.negotiation import AcceptedContext
from imaging_ai.receive.pdu import RELEASE_RESPONSE, AbortReason, MalformedPdu, PduType, abort
from imaging_ai.receive.policy import AssociationPolicy
from imaging_ai.receive.reader import PeerGone, reader_of

__all__ = ["StorageSession"]

_log = logging.getLogger(__name__)
_UNRECOGNIZED_OPERATION = Outcome(0x0211)
_NOT_AUTHORIZED = Outcome(0x0124, "this peer may not echo here")
_MAX_COMMAND_BYTES = 16 << 10
_MAX_PDU_BYTES = 1 << 20
#: An object over the limit is read to its end to answer properly, but not for ever.
_PATIENCE = 4


class StorageSession:
    """Serves an accepted association until it ends. `run` says whether the peer released it."""

    def __init__(
        self,
        sock: socket.socket,
        archive: Archive,
        policy: AssociationPolicy,
        contexts: dict[int, AcceptedContext],
        visit: Visit,
        peer_max_pdu_bytes: int,
        allowance: Allowance | None = None,
    ) -> None:
        self._sock = sock
        self._archive = archive
        self._policy = policy
        self._contexts = contexts
        self._visit = visit
        self._peer_max_pdu_bytes = peer_max_pdu_bytes
        self._allowance = allowance
        self._reader = reader_of(sock, policy.idle_seconds)
        self._max_pdu_bytes = max(policy.max_pdu_bytes, _MAX_PDU_BYTES)
        self._command_bytes = bytearray()
        self._context_id = 0
        self._command: Command | None = None
        self._incoming: Incoming | None = None
        self._stopping = False

    @property
    def is_idle(self) -> bool:
        """Whether no message is under way."""
        return self._command is None and not self._command_bytes

    def stop(self, *, at_once: bool) -> None:
        """End the association: between two messages, or `at_once` in the middle of one."""
        self._stopping = True
        if at_once or self.is_idle:
            self._reader.interrupt()

    def run(self) -> bool:
        """Serve until the end; True when the peer released the association."""
        try:
            return self._serve()
        except MalformedPdu as error:
            _log.warning("association with %s aborted: %s", self._visit.source, error)
            self._abort(error.reason)
        except PeerGone as error:
            if self._stopping:
                self._abort(AbortReason.NOT_SPECIFIED)
            else:
                _log.warning("association with %s ended without release: %s", self._visit.source, error)
        finally:
            if self._incoming is not None:
                self._incoming.discard()
        return False

    def _serve(self) -> bool:
        while not (self._stopping and self.is_idle):
            kind, length = self._reader.header()
            if kind == PduType.P_DATA:
                self._p_data(length)
            elif kind == PduType.RELEASE_RQ:
                self._send(RELEASE_RESPONSE)
                return True
            elif kind == PduType.ABORT:
                _log.warning("association aborted by %s", self._visit.source)
                return False
            elif kind in (PduType.ASSOCIATE_RQ, PduType.ASSOCIATE_AC, PduType.ASSOCIATE_RJ, PduType.RELEASE_RP):
                raise MalformedPdu(AbortReason.UNEXPECTED_PDU, f"unexpected PDU of type {kind}")
            else:
                raise MalformedPdu(AbortReason.UNRECOGNIZED_PDU, f"unrecognized PDU of type {kind}")
        self._abort(AbortReason.NOT_SPECIFIED)
        return False

    def _p_data(self, room: int) -> None:
        if room > self._max_pdu_bytes:
            raise MalformedPdu(AbortReason.INVALID_PARAMETER, f"a PDU of {room} bytes is over the limit")
        reader = self._reader
        reader.begun()
        while room:
            length, context_id, control = reader.value_header(room)
            room -= length + 6
            if control & 1:
                self._command_fragment(length, context_id)
            else:
                self._data_fragment(length, context_id)
            if control & 2:
                self._last_fragment(is_command=bool(control & 1))

    def _command_fragment(self, length: int, context_id: int) -> None:
        if self._command is not None:
            raise MalformedPdu(AbortReason.UNEXPECTED_PARAMETER, "a command came where a data set was expected")
        if self._command_bytes and context_id != self._context_id:
            raise MalformedPdu(AbortReason.UNEXPECTED_PARAMETER, "a command changed its presentation context")
        if context_id not in self._contexts:
            raise MalformedPdu(AbortReason.INVALID_PARAMETER, "a command came on a context that was not accepted")
        if len(self._command_bytes) + length > _MAX_COMMAND_BYTES:
            raise MalformedPdu(AbortReason.INVALID_PARAMETER, "a command set is too large")
        self._context_id = context_id
        while length:
            fragment = self._reader.take(length)
            self._command_bytes += fragment
            length -= len(fragment)

    def _data_fragment(self, length: int, context_id: int) -> None:
        if self._command is None or context_id != self._context_id:
            raise MalformedPdu(AbortReason.UNEXPECTED_PARAMETER, "a data set came without its command")
        incoming, take = self._incoming, self._reader.take
        while length:
            fragment = take(length)
            length -= len(fragment)
            if incoming is not None:
                incoming.write(fragment)
        if incoming is not None and incoming.received > _PATIENCE * self._policy.max_object_bytes:
            raise MalformedPdu(AbortReason.NOT_SPECIFIED, "an instance is far over the limit")

    def _last_fragment(self, *, is_command: bool) -> None:
        if is_command:
            command = parse_command(bytes(self._command_bytes))
            self._command_bytes.clear()
            if command.field == C_STORE:
                context = self._contexts[self._context_id]
                self._incoming = Incoming(
                    self._archive, context, command, self._visit, self._policy.max_object_bytes, self._allowance
                )
            self._command = command
            if command.has_data_set:
                return
        self._answer()

    def _answer(self) -> None:
        command, incoming = self._command, self._incoming
        assert command is not None
        if incoming is not None:
            outcome = incoming.finish()
        elif command.field == C_ECHO:
            allowed = self._allowance is None or "echo" in self._allowance.peer.may
            outcome = Outcome(SUCCESS) if allowed else _NOT_AUTHORIZED
        else:
            outcome = _UNRECOGNIZED_OPERATION
        self._command = self._incoming = None
        if command.field != C_CANCEL:
            answer = response(command, outcome.status, outcome.comment)
            self._send(response_pdus(self._context_id, answer, self._peer_max_pdu_bytes))

    def _abort(self, reason: int) -> None:
        with suppress(PeerGone):  # then there is nobody to tell
            self._send(abort(reason))

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise PeerGone(f"the connection broke ({type(error).__name__})") from None
