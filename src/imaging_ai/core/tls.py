"""TLS as DICOM wants it (PS3.15 B.12 and B.13: BCP 195, which is RFC 8996 and RFC 9325).

TLS 1.2 and 1.3, nothing older, so that peers of the retired profiles B.9 to B.11 are answered with their best. Of TLS
1.2 only suites with ephemeral elliptic-curve keys and authenticated encryption, keys of at least 112 bits of strength,
no compression, no renegotiation. TLS 1.3 has no others.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imaging_ai.errors import ConfigError

__all__ = ["Identity", "ServerTls", "client_context", "server_context"]

_log = logging.getLogger(__name__)

_SUITES = ":".join(
    f"ECDHE-{signature}-{cipher}"
    for cipher in ("AES256-GCM-SHA384", "AES128-GCM-SHA256", "CHACHA20-POLY1305")
    for signature in ("ECDSA", "RSA")
)
_STRENGTH = "@SECLEVEL=2"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are: a certificate, with the chain after it, and its private key (PEM files)."""

    certificate: Path
    key: Path

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let a context show the certificate; `ConfigError` names what is wrong with the files."""
        for file in (self.certificate, self.key):
            _require(file)
        try:
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")  # else it asks on the terminal
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not PEM"
            raise ConfigError(
                f"{self.certificate} and {self.key} are no certificate with its key ({reason}); "
                "give PEM files, the key without a passphrase"
            ) from None


def server_context(
    identity: Identity, ca_file: Path | None = None, *, require_certificate: bool = True
) -> ssl.SSLContext:
    """Make the context of an acceptor.

    Whoever shows a certificate must have it from an authority in `ca_file`; without that file none is asked for.

    Raises
    ------
    ConfigError
        If a file is missing or not what it should be.
    """
    context = _modern(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_TICKET
    context.num_tickets = 0  # associations are long: none is resumed, and none ends with a ticket unread
    identity.load_into(context)
    if ca_file is not None:
        _trust(context, ca_file)
        context.verify_mode = ssl.CERT_REQUIRED if require_certificate else ssl.CERT_OPTIONAL
    return context


def client_context(
    ca_file: Path | None = None, identity: Identity | None = None, *, check_host_name: bool = True
) -> ssl.SSLContext:
    """Make the context of a requestor.

    Trusted are the certificates in `ca_file`, of authorities or of the peer itself; without it the authorities that
    this machine trusts.

    Raises
    ------
    ConfigError
        If a file is missing or not what it should be.
    """
    context = _modern(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.check_hostname = check_host_name
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, ca_file)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it may be the peer's own certificate
    if identity is not None:
        identity.load_into(context)
    return context


class ServerTls:
    """The context of an acceptor, made anew when its files have changed: a renewed certificate needs no restart.

    Files that cannot be used are told once and leave the context that there was. Threads may share it.
    """

    def __init__(self, identity: Identity, ca_file: Path | None = None, *, require_certificate: bool = True) -> None:
        self._identity, self._ca_file, self._required = identity, ca_file, require_certificate
        self._lock = threading.Lock()
        self._marks = self._read_marks()
        self._context = self._make()

    @property
    def asks_for_certificates(self) -> bool:
        """Whether peers can show who they are."""
        return self._ca_file is not None

    def context(self) -> ssl.SSLContext:
        """Return the context of now."""
        marks = self._read_marks()
        with self._lock:
            if marks != self._marks:
                self._marks = marks
                try:
                    self._context = self._make()
                    _log.info("the certificate %s was read again", self._identity.certificate)
                except ConfigError as error:
                    _log.warning("the certificate stays as it was: %s", error.message)
            return self._context

    def _make(self) -> ssl.SSLContext:
        return server_context(self._identity, self._ca_file, require_certificate=self._required)

    def _read_marks(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_mark(file) for file in self._files())

    def _files(self) -> Iterator[Path]:
        yield self._identity.certificate
        yield self._identity.key
        if self._ca_file is not None:
            yield self._ca_file


def _modern(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{_SUITES}:{_STRENGTH}")
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _trust(context: ssl.SSLContext, ca_file: Path) -> None:
    _require(ca_file)
    try:
        context.load_verify_locations(ca_file)
    except OSError:  # what ssl raises is one
        raise ConfigError(f"{ca_file} holds no certificates; give a file of PEM certificates") from None


def _require(file: Path) -> None:
    if not file.is_file():
        raise ConfigError(f"{file} is not there; give a PEM file that this program may read")


def _mark(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
