"""Who the peers are: by AE title, by address, by certificate, and what each may do (PS3.8 9.3, PS3.15 B.1).

An AE title is a word that anybody can say. An address, and better a certificate, make it a name.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imaging_ai.core.addresses import IPNetwork, is_within
from imaging_ai.errors import ConfigError

__all__ = ["ANYONE", "Certificate", "Peer", "certificate_of", "parse_certificate"]

_FINGERPRINT = re.compile(r"(sha256:)?([0-9a-f]{2}(:?[0-9a-f]{2}){31})", re.IGNORECASE)
#: RFC 4514 section 3, in the names that Python gives them.
_ATTRIBUTES: Mapping[str, str] = {
    "CN": "commonName",
    "O": "organizationName",
    "OU": "organizationalUnitName",
    "L": "localityName",
    "ST": "stateOrProvinceName",
    "C": "countryName",
    "DC": "domainComponent",
    "SERIALNUMBER": "serialNumber",
}


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a peer showed, or what one must show: its SHA-256 fingerprint, attributes of its subject, or both."""

    fingerprint: str = ""
    subject: frozenset[tuple[str, str]] = frozenset()

    def is_shown_by(self, shown: Certificate | None) -> bool:
        """Say whether a certificate that was shown, and verified, is the one that is meant."""
        if shown is None or (self.fingerprint and self.fingerprint != shown.fingerprint):
            return False
        return self.subject <= shown.subject


@dataclass(frozen=True, slots=True)
class Peer:
    """One `[[peers]]` table. `ae_title` "*" is everybody whom no other names; limits of 0 are none.

    `networks` and `certificates` allow any when empty.
    """

    ae_title: str
    networks: tuple[IPNetwork, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    may: frozenset[str] = frozenset({"echo", "store"})
    max_associations: int = 0
    instances_per_second: float = 0.0
    bytes_per_second: float = 0.0
    bytes_per_day: int = 0

    def is_at(self, address: str) -> bool:
        """Say whether it may come from there."""
        return not self.networks or is_within(address, self.networks)

    def shows(self, shown: Certificate | None) -> bool:
        """Say whether it is the one that showed a certificate, or need show none."""
        return not self.certificates or any(one.is_shown_by(shown) for one in self.certificates)

    @property
    def is_limited(self) -> bool:
        """Whether there is anything to watch over its associations."""
        rates = self.instances_per_second or self.bytes_per_second or self.bytes_per_day
        return bool(rates) or not self.may >= {"echo", "store"}


#: The only peer where none is configured.
ANYONE = Peer("*")


def parse_certificate(text: str) -> Certificate:
    """Read a SHA-256 fingerprint in hexadecimal (with colons or without), or a subject such as ``CN=ct1,O=Clinic``.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    if found := _FINGERPRINT.fullmatch(text.strip()):
        return Certificate(found[2].replace(":", "").lower())
    subject = set()
    for part in re.split(r"(?<!\\),", text):
        name, _, value = part.partition("=")
        attribute = _ATTRIBUTES.get(name.strip().upper())
        if attribute is None or not value.strip():
            raise ConfigError(
                f"{text!r} is neither a SHA-256 fingerprint nor a subject; give sha256:… "
                f"(openssl x509 -noout -fingerprint -sha256) or CN=…, of {', '.join(_ATTRIBUTES)}"
            )
        subject.add((attribute, value.strip().replace("\\,", ",")))
    return Certificate(subject=frozenset(subject))


def certificate_of(connection: object) -> Certificate | None:
    """Return the verified certificate of a connection's other end; None without TLS, or when it showed none."""
    if not isinstance(connection, ssl.SSLSocket) or not (der := connection.getpeercert(binary_form=True)):
        return None
    subject: Any = (connection.getpeercert() or {}).get("subject", ())
    return Certificate(hashlib.sha256(der).hexdigest(), frozenset(pair for group in subject for pair in group))
