"""The Storage SCP: listens, decides who may associate, and serves each association in a thread (PS3.4 annexes A and B).

pynetdicom owns the port. An association whose contexts are all storage or verification is accepted and served by our
own reader, at the speed of the disk; any other goes on to pynetdicom with the request put back.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pynetdicom import evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import ThreadedAssociationServer

from imaging_ai.archive.archive import Archive, Visit
from imaging_ai.archive.usage import DailyUse
from imaging_ai.audit.refusals import RefusalLog
from imaging_ai.core.tls import ServerTls
from imaging_ai.errors import ImagingAiError
from imaging_ai.metrics import ASSOCIATIONS
from imaging_ai.receive.allowance import Allowance, Allowances
from imaging_ai.receive.negotiation import negotiate
from imaging_ai.receive.opening import close, put_back, read_request, secure, take_in
from imaging_ai.receive.pdu import AssociateRequest, MalformedPdu, abort, accept, parse_request, reject
from imaging_ai.receive.peers import certificate_of
from imaging_ai.receive.plain import Handlers, Handover, PlainStorage, application_entity
from imaging_ai.receive.policy import AssociationPolicy, Refusal
from imaging_ai.receive.session import StorageSession
from imaging_ai.receive.waiting import WaitingRoom

__all__ = ["StorageScp"]

_log = logging.getLogger(__name__)
_LINGER_SECONDS = 1.0
#: So many connections more than associations are heard; for each further one, one that says nothing is closed.
_WAITING_ROOM = 64

#: Called when an association has ended: the ids of the series it brought, and whether it was released.
OnReleased = Callable[[frozenset[int], bool], None]


class StorageScp:
    """A Storage and Verification SCP.

    Several processes may listen on one port with `share_port`. With `tls` there is DICOM over TLS on `tls_port`; where
    that is `port`, nothing else is spoken. `services` are presentation contexts and handlers that
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
        tls: ServerTls | None = None,
        tls_port: int = 0,
        services: tuple[list[PresentationContext], Handlers] | None = None,
    ) -> None:
        self.archive = archive
        self._policy = policy
        self._on_released = on_released
        self._address = (host, port)
        self._share_port = share_port
        self._contexts, self._handlers = services or ([], [])
        self._served_by_pynetdicom = {str(context.abstract_syntax) for context in self._contexts}
        self._tls, self._tls_port = tls, tls_port
        self._servers: list[ThreadedAssociationServer] = []
        self._ports: dict[int, int] = {}  # asked for, and given
        self._refusals = RefusalLog(archive.database)
        self._allowances = Allowances(policy.peers, DailyUse(archive.database), self._refusals)
        self._waiting = WaitingRoom(
            policy.max_associations + _WAITING_ROOM, lambda where: self._refusals.note("too-many-connections", where)
        )
        self._lock = threading.Lock()
        self._associations = 0
        self._sessions: set[StorageSession] = set()

    @property
    def port(self) -> int:
        """The port that is listened on; chosen by the system when 0 was asked for."""
        return self._ports.get(self._address[1], self._address[1])

    @property
    def tls_port(self) -> int:
        """The port of DICOM over TLS; the same as `port` where nothing else is spoken."""
        return self._ports.get(self._tls_port, self._tls_port)

    def start(self) -> None:
        """Listen, and return; associations are served by threads."""
        entity = application_entity(self._policy)
        plain = PlainStorage(self.archive, self._policy, self._ended)
        ports = dict.fromkeys([self._address[1], *([self._tls_port] if self._tls else [])])
        for port in ports:
            server = entity.make_server(
                (self._address[0], port),
                contexts=[*entity.supported_contexts, *self._contexts],
                evt_handlers=[*plain.handlers(), *self._handlers],
                server_class=_Server,
                request_handler=self._handle,
                share_port=self._share_port,
                tls=self._tls if port == self._tls_port else None,
            )
            entity._servers.append(server)
            self._servers.append(server)
            self._ports[port] = int(server.server_address[1])
            threading.Thread(target=server.serve_forever, name="storage-scp", daemon=True).start()

    def stop(self, grace_seconds: float = 5.0) -> None:
        """Stop listening, let messages under way finish within `grace_seconds`, and end all associations."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.shutdown()
        self._stop_sessions(at_once=False)
        deadline = time.monotonic() + grace_seconds
        while self._waiting.open and time.monotonic() < deadline:
            time.sleep(0.01)
        self._stop_sessions(at_once=True)
        for server in servers:
            for assoc in server.active_associations:
                assoc.abort()
        deadline = time.monotonic() + _LINGER_SECONDS
        while self._waiting.open and time.monotonic() < deadline:
            time.sleep(0.01)
        self._refusals.close()

    def _stop_sessions(self, *, at_once: bool) -> None:
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.stop(at_once=at_once)

    # -- one association, in its own thread

    def _handle(self, sock: socket.socket, address: tuple[Any, ...], server: _Server) -> None:
        """Serve a connection; closes it, or hands it to pynetdicom, which does."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection: socket.socket | None = sock
        where = str(address[0])
        try:
            with ASSOCIATIONS.track_inprogress(), self._waiting.enter(sock, where) as heard:
                deadline = time.monotonic() + self._policy.artim_seconds
                if server.tls is not None:
                    connection = None  # until the handshake is done it is closed there
                    connection = secure(sock, server.tls.context(), deadline)
                assert connection is not None
                pdu = read_request(connection, deadline)
                request = parse_request(pdu[6:])
                with self._counted() as now_open:
                    allowance = self._admit(request, connection, where, now_open)
                    if not isinstance(allowance, Refusal):
                        heard()
                        try:
                            if self._is_ours(request):
                                take_in(connection)
                                self._serve(connection, request, where, allowance)
                                return
                        finally:
                            allowance.leave()
                if isinstance(allowance, Refusal):
                    self._refuse(connection, request, where, allowance)
                    return
            given, connection = connection, None
            Handover(put_back(given, pdu, self._policy.idle_seconds), address, server, allowance)
        except MalformedPdu as error:
            self._refusals.note("no-association-request", where)
            _abort(connection, error.reason)
        except ssl.SSLEOFError:
            _log.debug("a connection from %s ended before its handshake did", where)
        except ssl.SSLError as error:
            self._refusals.note(f"tls-{(error.reason or 'failed').lower().replace('_', '-')}", where)
        except OSError as error:
            _log.debug("a connection from %s broke (%s)", where, type(error).__name__)
        except Exception:  # noqa: BLE001 - the edge of a connection's thread: the server lives on
            _log.exception("a connection from %s failed", where)
        finally:
            if connection is not None:
                close(connection)

    def _admit(
        self, request: AssociateRequest, connection: socket.socket, address: str, now_open: int
    ) -> Allowance | Refusal:
        """Return what whoever asks may do, with one association more in it, or why there is none."""
        others: list[Any] = []
        if self._policy.data_path != "fast" or self._contexts:
            others = [assoc for server in self._servers for assoc in server.active_associations]
        refusal = self._policy.refusal(request, address, now_open + len(others))
        if refusal is not None:
            return refusal
        peer = self._policy.peer(request.calling_ae_title, address, certificate_of(connection))
        if isinstance(peer, Refusal):
            return peer
        allowance = self._allowances.of(peer)
        further = sum(assoc.allowance is allowance for assoc in others)
        return allowance if allowance.enter(further) else Refusal.TOO_MANY_OF_PEER

    @contextmanager
    def _counted(self) -> Iterator[int]:
        with self._lock:
            self._associations += 1
            now_open = self._associations
        try:
            yield now_open
        finally:
            with self._lock:
                self._associations -= 1

    def _is_ours(self, request: AssociateRequest) -> bool:
        if self._policy.data_path != "fast":
            return False
        proposed = {context.abstract_syntax for context in request.contexts}
        return proposed.isdisjoint(self._served_by_pynetdicom)

    def _serve(self, sock: socket.socket, request: AssociateRequest, address: str, allowance: Allowance) -> None:
        contexts, answers = negotiate(self._policy, request.contexts, allowance.peer)
        visit = Visit(request.calling_ae_title, address, "dimse")
        session = StorageSession(
            sock,
            self.archive,
            self._policy,
            contexts,
            visit,
            request.max_pdu_bytes,
            allowance if allowance.peer.is_limited else None,
        )
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
        if not visit.series and not visit.refused:
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
            if self._on_released is not None and visit.series:
                self._on_released(frozenset(visit.series), graceful)
        except ImagingAiError as error:
            _log.warning("the end of an association was not recorded: %s", error)

    def _refuse(self, sock: socket.socket, request: AssociateRequest, address: str, refusal: Refusal) -> None:
        result, source, reason, code = refusal.value
        take_in(sock)
        sock.sendall(reject(result, source, reason))
        self._refusals.note(code, address, request.calling_ae_title)


def _abort(sock: socket.socket | None, reason: int) -> None:
    if sock is not None:
        with suppress(OSError):  # it may be gone
            sock.sendall(abort(reason))


class _Server(ThreadedAssociationServer):
    """pynetdicom's server with a queue for many senders at once, and without its collection of garbage."""

    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any, share_port: bool = False, tls: ServerTls | None = None, **options: Any) -> None:
        self._share_port = share_port
        self.tls = tls  # not `ssl_context`: with that the handshake would hold up all who connect after
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
