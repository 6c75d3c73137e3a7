"""Carrying instances over an open connection: in order, not twice, and looking afterwards what arrived."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from imaging_ai.core.instance import StoredInstance
from imaging_ai.errors import DeliveryUnavailable, ImagingAiError
from imaging_ai.send.answers import Answer, Verdict
from imaging_ai.send.peer import Peer

__all__ = ["transfer"]


def transfer(
    peer: Peer,
    groups: Sequence[Sequence[StoredInstance]],
    read: Callable[[StoredInstance], bytes],
    *,
    maybe_there: Collection[str] = (),
    after_each: Callable[[], None] = lambda: None,
) -> dict[str, Answer]:
    """Send the instances of `groups` and return what became of each, by SOP Instance UID.

    A later group refers to the earlier ones, so it waits (answered as passing) while one of theirs may still arrive.
    What of `maybe_there` the destination shows already is not sent again. `after_each` may raise to stop.
    """
    instances = [instance for group in groups for instance in group]
    suspects = [instance for instance in instances if instance.sop_instance_uid in maybe_there]
    answers: dict[str, Answer] = {}
    try:
        there = peer.holds(suspects) or frozenset()
        for group in groups:
            if any(answer.verdict in (Verdict.PASSING, Verdict.DOUBTFUL) for answer in answers.values()):
                break
            for instance in group:
                uid = instance.sop_instance_uid
                answers[uid] = Answer(Verdict.STORED, seen=True) if uid in there else _store(peer, instance, read)
                after_each()
        _look(peer, instances, answers)
    except DeliveryUnavailable as error:
        for uid, answer in answers.items():
            if answer.verdict is Verdict.STORED and answer.seen is None:
                answers[uid] = replace(answer, reason=f"success, but then {error.message}", seen=False)
        for instance in instances:
            answers.setdefault(instance.sop_instance_uid, Answer(Verdict.PASSING, error.message))
    for instance in instances:
        answers.setdefault(instance.sop_instance_uid, Answer(Verdict.PASSING, "waits for an object that it refers to"))
    return answers


def _store(peer: Peer, instance: StoredInstance, read: Callable[[StoredInstance], bytes]) -> Answer:
    try:
        data = read(instance)
    except ImagingAiError as error:
        return Answer(Verdict.PASSING if error.retry else Verdict.PERMANENT, f"not readable here: {error.message}")
    return peer.store(instance, data)


def _look(peer: Peer, instances: Sequence[StoredInstance], answers: dict[str, Answer]) -> None:
    stored = [
        instance
        for instance in instances
        if (answer := answers.get(instance.sop_instance_uid)) is not None
        and answer.verdict is Verdict.STORED
        and answer.seen is None
    ]
    shown = peer.holds(stored)
    if shown is None:
        return
    for instance in stored:
        uid = instance.sop_instance_uid
        answers[uid] = replace(answers[uid], seen=uid in shown)
