"""TLS to destinations: whom we trust, who we are, and a connection that pynetdicom and we can use at once."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import Any

from imaging_ai.core.tls import Identity, client_context
from imaging_ai.errors import ConfigError
from imaging_ai.send.destinations import Destination, DicomDestination

__all__ = ["DicomTls", "trust"]


def trust(destination: Destination) -> ssl.SSLContext:
    """Make the context of connections to a destination, of its files as they are now.

    Raises
    ------
    ConfigError
        If a file is missing or not what it should be; it names destination, file and remedy.
    """
    identity = Identity(Path(destination.certificate), Path(destination.key)) if destination.certificate else None
    ca_file = Path(destination.ca_file) if destination.ca_file else None
    try:
        return client_context(ca_file, identity, check_host_name=destination.check_host_name)
    except ConfigError as error:
        raise ConfigError(f"destination {destination.name}: {error.message}") from None


class DicomTls:
    """TLS of one association; `failure` says why there was no handshake, which pynetdicom does not tell."""

    def __init__(self, destination: DicomDestination) -> None:
        self.failure = ""
        self._context = trust(destination)
        self._host = destination.host

        def note(reason: str) -> None:
            self.failure = reason

        class Connection(_Connection):  # one association has one
            lock = threading.RLock()
            fail = staticmethod(note)

        self._context.sslsocket_class = Connection

    @property
    def arguments(self) -> tuple[ssl.SSLContext, str]:
        """What pynetdicom wants."""
        return self._context, self._host


class _Connection(ssl.SSLSocket):
    """A connection that one thread reads while another writes, which OpenSSL allows only one after the other."""

    lock = threading.RLock()

    @staticmethod
    def fail(reason: str) -> None:
        """Take down why a handshake failed."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLCertVerificationError as error:
            self.fail(f"its certificate is not trusted ({error.verify_message})")
            raise
        except ssl.SSLError as error:
            self.fail(str(error.reason or "no TLS there").lower().replace("_", " "))
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        with self.lock:
            return super().recv(buflen, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        with self.lock:
            return super().send(data, flags)

    def pending(self) -> int:
        with self.lock:
            return super().pending()
