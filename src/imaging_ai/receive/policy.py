"""Who may associate, with what, and how much (PS3.8 9.3, PS3.15 annex on secure use is left to the network)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum

from imaging_ai.receive.pdu import AssociateRequest

__all__ = ["AssociationPolicy", "Refusal"]

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Refusal(Enum):
    """Why an association is refused: result, source and reason of the A-ASSOCIATE-RJ (PS3.8 9.3.4), and a code."""

    NOT_ALLOWED = (1, 1, 1, "address-not-allowed")
    CALLING_AE_TITLE = (1, 1, 3, "calling-ae-title-not-recognized")
    CALLED_AE_TITLE = (1, 1, 7, "called-ae-title-not-recognized")
    PROTOCOL_VERSION = (1, 2, 2, "protocol-version-not-supported")
    APPLICATION_CONTEXT = (1, 1, 2, "application-context-name-not-supported")
    TOO_MANY = (2, 3, 2, "local-limit-exceeded")

    @property
    def code(self) -> str:
        """A short word for logs and the audit."""
        return self.value[3]


@dataclass(frozen=True, slots=True)
class AssociationPolicy:
    """The rules of one Storage SCP.

    `calling_ae_titles` and `networks` allow everybody when empty. `sop_classes` are accepted besides the storage
    classes of the standard; `unknown_sop_classes` accepts every other abstract syntax as storage too, in any transfer
    syntax. `data_path` is "fast" (our own reader of the P-DATA stream) or "plain" (pynetdicom's documented handler).
    """

    ae_title: str = "IMAGINGAI"
    check_called_ae_title: bool = True
    calling_ae_titles: frozenset[str] = frozenset()
    networks: tuple[IPNetwork, ...] = ()
    sop_classes: frozenset[str] = frozenset()
    unknown_sop_classes: bool = False
    max_associations: int = 100
    max_pdu_bytes: int = 131_072
    max_object_bytes: int = 4 << 30
    artim_seconds: float = 30.0
    idle_seconds: float = 60.0
    data_path: str = "fast"

    def refusal(self, request: AssociateRequest, address: str, open_associations: int) -> Refusal | None:
        """Say why an association is refused, None when it is welcome."""
        if self.networks and not any(_peer(address) in network for network in self.networks):
            return Refusal.NOT_ALLOWED
        if not request.protocol_version & 1:
            return Refusal.PROTOCOL_VERSION
        if not request.is_dicom:
            return Refusal.APPLICATION_CONTEXT
        if self.check_called_ae_title and request.called_ae_title != self.ae_title:
            return Refusal.CALLED_AE_TITLE
        if self.calling_ae_titles and request.calling_ae_title not in self.calling_ae_titles:
            return Refusal.CALLING_AE_TITLE
        if open_associations > self.max_associations:
            return Refusal.TOO_MANY
        return None


def _peer(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    peer = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(peer, "ipv4_mapped", None)
    return mapped if mapped is not None else peer
