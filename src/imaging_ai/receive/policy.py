"""Who may associate, with what, and how much (PS3.8 9.3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from imaging_ai.core.addresses import IPNetwork, is_within
from imaging_ai.receive.pdu import AssociateRequest
from imaging_ai.receive.peers import ANYONE, Certificate, Peer

__all__ = ["AssociationPolicy", "Refusal"]


class Refusal(Enum):
    """Why an association is refused: result, source and reason of the A-ASSOCIATE-RJ (PS3.8 9.3.4), and a code."""

    NOT_ALLOWED = (1, 1, 1, "address-not-allowed")
    PEER_ADDRESS = (1, 1, 1, "not-the-address-of-this-peer")
    PEER_CERTIFICATE = (1, 1, 1, "not-the-certificate-of-this-peer")
    CALLING_AE_TITLE = (1, 1, 3, "calling-ae-title-not-recognized")
    CALLED_AE_TITLE = (1, 1, 7, "called-ae-title-not-recognized")
    PROTOCOL_VERSION = (1, 2, 2, "protocol-version-not-supported")
    APPLICATION_CONTEXT = (1, 1, 2, "application-context-name-not-supported")
    TOO_MANY = (2, 3, 2, "local-limit-exceeded")
    TOO_MANY_OF_PEER = (2, 3, 2, "limit-of-this-peer-exceeded")

    @property
    def code(self) -> str:
        """A short word for logs and the audit."""
        return self.value[3]


@dataclass(frozen=True, slots=True)
class AssociationPolicy:
    """The rules of one Storage SCP.

    `calling_ae_titles`, `networks` and `peers` allow everybody when empty; who is to be let in passes all three.
    `sop_classes` are accepted besides the storage classes of the standard; `unknown_sop_classes` accepts every other
    abstract syntax as storage too, in any transfer syntax. `data_path` is "fast" (our own reader of the P-DATA stream)
    or "plain" (pynetdicom's documented handler).
    """

    ae_title: str = "IMAGINGAI"
    check_called_ae_title: bool = True
    calling_ae_titles: frozenset[str] = frozenset()
    networks: tuple[IPNetwork, ...] = ()
    peers: tuple[Peer, ...] = ()
    sop_classes: frozenset[str] = frozenset()
    unknown_sop_classes: bool = False
    max_associations: int = 100
    max_pdu_bytes: int = 131_072
    max_object_bytes: int = 4 << 30
    artim_seconds: float = 30.0
    idle_seconds: float = 60.0
    data_path: str = "fast"

    def refusal(self, request: AssociateRequest, address: str, open_associations: int) -> Refusal | None:
        """Say why an association is refused, None when it is welcome as far as it does not depend on the peer."""
        if self.networks and not is_within(address, self.networks):
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

    def peer(self, calling_ae_title: str, address: str, shown: Certificate | None) -> Peer | Refusal:
        """Return which of the peers calls, or why it is none of them.

        Several peers may have one AE title: the first one counts that may come from there, and shows what it must.
        """
        if not self.peers:
            return ANYONE
        named = [peer for peer in self.peers if peer.ae_title == calling_ae_title]
        named = named or [peer for peer in self.peers if peer.ae_title == ANYONE.ae_title]
        if not named:
            return Refusal.CALLING_AE_TITLE
        there = [peer for peer in named if peer.is_at(address)]
        if not there:
            return Refusal.PEER_ADDRESS
        return next((peer for peer in there if peer.shows(shown)), Refusal.PEER_CERTIFICATE)
