"""The Storage SCP: listens, decides who may associate, and serves each association in a thread (PS3.4 annexes A and B).

pynetdicom owns the port. An association whose contexts are all storage or verification is accepted and served by our
own reader, at the speed of the disk; any other goes on to pynetdicom with the request put back.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pynetdicom import evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from imaging_ai.archive.archive import Archive, Visit
from imaging_ai.audit import record
from imaging_ai.errors import ImagingAiError
from imaging_ai.metrics import ASSOCIATIONS
from imaging_ai.receive.negotiation import negotiate
from imaging_ai.receive.pdu import AssociateRequest, MalformedPdu, PduType, abort, accept, parse_request, reject
from imaging_ai.receive.plain import Handlers, PlainStorage, application_entity
from imaging_ai.receive.policy import AssociationPolicy, Refusal
from imaging_ai.receive.session import StorageSession

__all__ = ["StorageScp"]

_log = logging.getLogger(__name__)
_MAX_REQUEST_BYTES = 1 << 20
_LINGER_SECONDS = 1.0
#: So many connections more than associations are heard, to be refused properly; further ones are closed at once.
_WAITING_ROOM = 64

#: Called when an association has ended: the ids of the series it brought, and whether it was released.
OnReleased = Callable[[frozenset[int], bool], None]


class StorageScp:
    """A Storage and Verification SCP.

    Several processes may listen on one port with `share_port`. `services` are presentation contexts and handlers that
    pynetdicom serves on the same port.
    """

    def __init__(
        self,
        archive: Archive,
        policy: AssociationPolicy,
        on_released: OnReleased | None = None,
        *,
        host: str = "",
        port: int = 0,
        share_port: bool = False,
        services: tuple[list[PresentationContext], Handlers] | None = None,
    ) -> None:
        self.archive = archive
        self._policy = policy
        self._on_released = on_released
        self._address = (host, port)
        self._share_port = share_port
        self._contexts, self._handlers = services or ([], [])
        self._served_by_pynetdicom = {str(context.abstract_syntax) for context in self._contexts}
        self._server: ThreadedAssociationServer | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._open = 0
        self._sessions: set[StorageSession] = set()

    @property
    def port(self) -> int:
        """The port that is listened on; chosen by the system when 0 was asked for."""
        return int(self._server.server_address[1]) if self._server else self._address[1]

    def start(self) -> None:
        """Listen, and return; associations are served by threads."""
        entity = application_entity(self._policy)
        plain = PlainStorage(self.archive, self._policy, self._ended)
        server = entity.make_server(
            self._address,
            contexts=[*entity.supported_contexts, *self._contexts],
            evt_handlers=[*plain.handlers(), *self._handlers],
            server_class=_Server,
            request_handler=lambda request, address, server: self._handle(request, address, server),
            share_port=self._share_port,
        )
        entity._servers.append(server)
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, name="storage-scp", daemon=True)
        self._thread.start()

    def stop(self, grace_seconds: float = 5.0) -> None:
        """Stop listening, let messages under way finish within `grace_seconds`, and end all associations."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        self._stop_sessions(at_once=False)
        deadline = time.monotonic() + grace_seconds
        while self._open and time.monotonic() < deadline:
            time.sleep(0.01)
        self._stop_sessions(at_once=True)
        for assoc in server.active_associations:
            assoc.abort()
        deadline = time.monotonic() + _LINGER_SECONDS
        while self._open and time.monotonic() < deadline:
            time.sleep(0.01)

    def _stop_sessions(self, *, at_once: bool) -> None:
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.stop(at_once=at_once)

    # -- one association, in its own thread

    def _handle(self, sock: socket.socket, address: tuple[Any, ...], server: _Server) -> None:
        """Serve a connection; closes it, or hands it to pynetdicom, which does."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        given_away = False
        try:
            with self._counted() as now_open:
                if now_open > self._policy.max_associations + _WAITING_ROOM:
                    _log.warning("a connection from %s was closed: too many are open", address[0])
                    return
                try:
                    pdu = _read_request(sock, self._policy.artim_seconds)
                    request = parse_request(pdu[6:])
                except MalformedPdu as error:
                    _log.warning("a connection from %s was aborted: %s", address[0], error)
                    sock.sendall(abort(error.reason))
                    return
                if self._policy.data_path != "fast" or self._contexts:
                    now_open += len(server.active_associations)
                refusal = self._policy.refusal(request, str(address[0]), now_open)
                if refusal is not None:
                    self._refuse(sock, request, str(address[0]), refusal)
                    return
                if self._is_ours(request):
                    sock.recv(1)
                    self._serve(sock, request, str(address[0]))
                    return
            given_away = True
            RequestHandler(_Rewound(sock, pdu[:-1]), address, server)
        except OSError as error:
            _log.info("a connection from %s broke (%s)", address[0], type(error).__name__)
        except Exception:  # noqa: BLE001 - the edge of a connection's thread: the server lives on
            _log.exception("a connection from %s failed", address[0])
        finally:
            if not given_away:
                _close(sock)

    @contextmanager
    def _counted(self) -> Iterator[int]:
        with self._lock:
            self._open += 1
            now_open = self._open
        ASSOCIATIONS.inc()
        try:
            yield now_open
        finally:
            ASSOCIATIONS.dec()
            with self._lock:
                self._open -= 1

    def _is_ours(self, request: AssociateRequest) -> bool:
        if self._policy.data_path != "fast":
            return False
        proposed = {context.abstract_syntax for context in request.contexts}
        return proposed.isdisjoint(self._served_by_pynetdicom)

    def _serve(self, sock: socket.socket, request: AssociateRequest, address: str) -> None:
        contexts, answers = negotiate(self._policy, request.contexts)
        visit = Visit(request.calling_ae_title, address, "dimse")
        session = StorageSession(sock, self.archive, self._policy, contexts, visit, request.max_pdu_bytes)
        with self._lock:
            self._sessions.add(session)
        graceful = False
        try:
            sock.sendall(accept(request, answers, self._policy.max_pdu_bytes))
            graceful = session.run()
        finally:
            with self._lock:
                self._sessions.discard(session)
            self._ended(visit, graceful)

    def _ended(self, visit: Visit, graceful: bool) -> None:
        """Tell the rest of the house that an association is over."""
        if not visit.series:
            return
        stored = sum(visit.series.values())
        _log.info(
            "association with %s ended %s: %d instances of %d series stored",
            visit.source,
            "by release" if graceful else "without release",
            stored,
            len(visit.series),
        )
        try:
            self.archive.leave(visit)
            if self._on_released is not None:
                self._on_released(frozenset(visit.series), graceful)
        except ImagingAiError as error:
            _log.warning("the end of an association was not recorded: %s", error)

    def _refuse(self, sock: socket.socket, request: AssociateRequest, address: str, refusal: Refusal) -> None:
        result, source, reason, code = refusal.value
        sock.recv(1)
        sock.sendall(reject(result, source, reason))
        _log.warning("association from %s refused: %s", address, code)
        try:
            with self.archive.database.write() as session:
                record(
                    session,
                    "open-association",
                    object_type="association",
                    object_uid="",
                    actor=request.calling_ae_title,
                    origin=address,
                    outcome="refused",
                    detail=code,
                )
        except ImagingAiError as error:
            _log.warning("a refused association was not recorded: %s", error)


class _Server(ThreadedAssociationServer):
    """pynetdicom's server with a queue for many senders at once, and without its collection of garbage."""

    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any, share_port: bool = False, **options: Any) -> None:
        self._share_port = share_port
        super().__init__(*arguments, **options)

    def server_bind(self) -> None:
        if self._share_port and self.socket is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def _bind_defaults(self) -> None:
        """Bind what answers, not the handlers that write what peers send into the log."""
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    def service_actions(self) -> None:
        """Leave garbage to Python: the base class collects on every sixtieth connection."""


class _Rewound(socket.socket):
    """A connection whose first bytes were read already, all but one: it is readable, and gives them again."""

    def __init__(self, sock: socket.socket, unread: bytes) -> None:
        super().__init__(fileno=sock.detach())
        self.settimeout(None)
        self._unread = unread

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not self._unread:
            return super().recv(size, flags)
        head, self._unread = self._unread[:size], self._unread[size:]
        return head


def _read_request(sock: socket.socket, artim_seconds: float) -> bytes:
    """Read an A-ASSOCIATE-RQ within the ARTIM time, leaving its last byte in the socket."""
    deadline = time.monotonic() + artim_seconds
    header = _receive(sock, 6, deadline)
    kind, _, length = struct.unpack(">BBI", header)
    if kind != PduType.ASSOCIATE_RQ:
        raise MalformedPdu(2 if PduType.ASSOCIATE_AC <= kind <= PduType.ABORT else 1, "no A-ASSOCIATE-RQ")
    if not 68 <= length <= _MAX_REQUEST_BYTES:
        raise MalformedPdu(6, f"an A-ASSOCIATE-RQ of {length} bytes")
    body = _receive(sock, length - 1, deadline)
    return header + body + _receive(sock, 1, deadline, socket.MSG_PEEK)


def _receive(sock: socket.socket, length: int, deadline: float, flags: int = 0) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        part = sock.recv(length - len(parts), flags)
        if not part:
            raise ConnectionResetError
        parts += part
    sock.settimeout(None)
    return bytes(parts)


def _close(sock: socket.socket) -> None:
    """Wait a moment for the peer to close first, so that what we wrote last reaches it (PS3.8 9.2, Sta13)."""
    try:
        sock.settimeout(_LINGER_SECONDS)
        while sock.recv(4096):
            continue
    except OSError:
        _log.debug("the peer did not close the connection")
    sock.close()
