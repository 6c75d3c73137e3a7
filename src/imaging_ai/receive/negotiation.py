"""Which of the proposed presentation contexts are accepted, and in which transfer syntax (PS3.8 7.1.1.14)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from imaging_ai.core.contexts import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES, VERIFICATION
from imaging_ai.core.identity import is_uid
from imaging_ai.receive.pdu import ProposedContext
from imaging_ai.receive.peers import ANYONE, Peer
from imaging_ai.receive.policy import AssociationPolicy

__all__ = ["AcceptedContext", "negotiate", "takes"]

_ACCEPTED, _USER_REJECTION, _NO_ABSTRACT_SYNTAX, _NO_TRANSFER_SYNTAX = 0, 1, 3, 4
_IMPLICIT = "1.2.840.10008.1.2"


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A presentation context in use."""

    context_id: int
    abstract_syntax: str
    transfer_syntax_uid: str


def takes(policy: AssociationPolicy, abstract_syntax: str) -> bool:
    """Say whether instances of this SOP class are taken."""
    return (
        abstract_syntax in STORAGE_SOP_CLASSES
        or abstract_syntax in policy.sop_classes
        or (policy.unknown_sop_classes and is_uid(abstract_syntax) and abstract_syntax != VERIFICATION)
    )


def negotiate(
    policy: AssociationPolicy, proposed: Iterable[ProposedContext], peer: Peer = ANYONE
) -> tuple[dict[int, AcceptedContext], dict[int, tuple[int, str]]]:
    """Return the accepted contexts, and the answer (result, transfer syntax) to every proposed one, by id.

    What `peer` may not do is rejected. Of several transfer syntaxes the first that is known is taken: the order is the
    requestor's preference.
    """
    accepted: dict[int, AcceptedContext] = {}
    answers: dict[int, tuple[int, str]] = {}
    for context in proposed:
        storage = takes(policy, context.abstract_syntax)
        if not storage and context.abstract_syntax != VERIFICATION:
            answers[context.context_id] = _NO_ABSTRACT_SYNTAX, _IMPLICIT
            continue
        if ("store" if storage else "echo") not in peer.may:
            answers[context.context_id] = _USER_REJECTION, _IMPLICIT
            continue
        any_syntax = storage and context.abstract_syntax not in STORAGE_SOP_CLASSES
        known = (uid for uid in context.transfer_syntaxes if uid in TRANSFER_SYNTAXES or (any_syntax and is_uid(uid)))
        transfer_syntax_uid = next(known, None)
        if transfer_syntax_uid is None:
            answers[context.context_id] = _NO_TRANSFER_SYNTAX, _IMPLICIT
            continue
        answers[context.context_id] = _ACCEPTED, transfer_syntax_uid
        accepted[context.context_id] = AcceptedContext(context.context_id, context.abstract_syntax, transfer_syntax_uid)
    return accepted, answers
