"""Messages to a syslog server: RFC 5424, over TLS (RFC 5425) or UDP (RFC 5426), as PS3.15 A.6 and A.7 want it.

Syslog knows no acknowledgement. Over TLS each batch has a connection of its own, which the server closes in its turn
when it has read everything: a batch counts as delivered then, and not before. Over UDP nobody knows.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from imaging_ai.audit.context import Source
from imaging_ai.core.tls import Identity, client_context
from imaging_ai.errors import ConfigError, DeliveryUnavailable

__all__ = ["Receiver", "packet"]

#: Facility 10 (security/authorization), severity 5 (notice): PS3.15 A.6.
_PRIORITY = 10 * 8 + 5
_MESSAGE_ID = "DICOM+RFC3881"
_PORTS = {"tls": 6514, "udp": 514}
_SECONDS = 10.0


def packet(message: bytes, at: float, source: Source) -> bytes:
    """Wrap a message in the header of RFC 5424; `at` is when its event happened."""
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    host = "".join(character for character in source.host if "!" <= character <= "~")[:255] or "-"
    header = f"<{_PRIORITY}>1 {when} {host} imaging-ai {os.getpid()} {_MESSAGE_ID} - "
    return header.encode("ascii") + b"\xef\xbb\xbf" + message


@dataclass(frozen=True, slots=True)
class Receiver:
    """A syslog server. Over TLS its certificate is checked, and ours shown where there is one."""

    scheme: str
    host: str
    port: int
    context: ssl.SSLContext | None = None

    @classmethod
    def parse(cls, url: str, ca_file: str = "", certificate: str = "") -> Receiver:
        """Read `tls://host:port` or `udp://host:port`. Raises `ConfigError`."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in _PORTS or not parts.hostname or port == -1 or parts.path.strip("/") or parts.query:
            raise ConfigError(f"audit.syslog: {url!r} is not tls://HOST:PORT or udp://HOST:PORT")
        context = None
        if parts.scheme == "tls":
            identity = Identity(Path(certificate), Path(certificate)) if certificate else None
            context = client_context(Path(ca_file) if ca_file else None, identity)
        return cls(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], context)

    def deliver(self, packets: Sequence[bytes]) -> None:
        """Send packets in their order; on return the server has read them, as far as that can be known.

        Raises
        ------
        DeliveryUnavailable
            If the server cannot be reached, is not who it should be, or does not take them.
        """
        try:
            if self.context is None:
                self._datagrams(packets)
            else:
                self._stream(packets, self.context)
        except OSError as error:
            why = getattr(error, "verify_message", "") or getattr(error, "reason", "") or type(error).__name__
            raise DeliveryUnavailable(f"the syslog server {self.host}:{self.port} does not answer: {why}") from error

    def _datagrams(self, packets: Sequence[bytes]) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as datagrams:
            for one in packets:
                datagrams.sendto(one, address)

    def _stream(self, packets: Sequence[bytes], context: ssl.SSLContext) -> None:
        with socket.create_connection((self.host, self.port), _SECONDS) as plain:
            stream = context.wrap_socket(plain, server_hostname=self.host)
            try:
                for one in packets:
                    stream.sendall(b"%d %b" % (len(one), one))
                try:
                    stream.unwrap()  # says that we are done, and waits for the server to say so too
                except ssl.SSLEOFError:
                    return  # it had read everything, else the end would have been a reset
            finally:
                stream.close()
