"""Order, holding back, looking afterwards: with a destination written by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import StoredInstance
from imaging_ai.errors import DeliveryUnavailable, NotFound, StorageUnavailable
from imaging_ai.send.answers import Answer, Verdict
from imaging_ai.send.transfer import transfer

OK = Answer(Verdict.STORED)


def instance(uid: str) -> StoredInstance:
    return StoredInstance(uid, "1.2", "1.2.840.10008.1.2.1", "1.3", "1.4", None, BlobRef(uid, 0, 1))


class Pacs:
    """A destination that answers as told, shows what it `holds`, and breaks at `breaks_at`."""

    def __init__(
        self, answers: dict[str, Answer] | None = None, there: Sequence[str] = (), breaks_at: str = ""
    ) -> None:
        self.answers = answers or {}
        self.there: set[str] | None = set(there)
        self.breaks_at = breaks_at
        self.stored: list[str] = []
        self.forgets = False

    def store(self, instance: StoredInstance, data: bytes) -> Answer:
        assert data == b"data"
        if instance.sop_instance_uid == self.breaks_at:
            raise DeliveryUnavailable("it is gone")
        self.stored.append(instance.sop_instance_uid)
        answer = self.answers.get(instance.sop_instance_uid, OK)
        if answer.verdict is Verdict.STORED and self.there is not None and not self.forgets:
            self.there.add(instance.sop_instance_uid)
        return answer

    def holds(self, instances: Sequence[StoredInstance]) -> frozenset[str] | None:
        return None if self.there is None else frozenset(self.there & {one.sop_instance_uid for one in instances})


def read(_instance: StoredInstance) -> bytes:
    return b"data"


SEG, SR = instance("seg"), instance("sr")


def test_all_is_stored_in_order_and_seen() -> None:
    pacs = Pacs()

    answers = transfer(pacs, [[SEG], [SR]], read)

    assert pacs.stored == ["seg", "sr"]
    assert answers == {"seg": Answer(Verdict.STORED, seen=True), "sr": Answer(Verdict.STORED, seen=True)}


def test_a_success_that_a_query_does_not_show_is_not_seen() -> None:
    pacs = Pacs()
    pacs.forgets = True

    assert transfer(pacs, [[SEG]], read)["seg"] == Answer(Verdict.STORED, seen=False)


def test_what_cannot_be_asked_stays_unknown() -> None:
    pacs = Pacs()
    pacs.there = None

    assert transfer(pacs, [[SEG]], read, maybe_there=["seg"])["seg"].seen is None
    assert pacs.stored == ["seg"]


def test_what_is_there_already_is_not_sent_again() -> None:
    pacs = Pacs(there=["seg"])

    answers = transfer(pacs, [[SEG], [SR]], read, maybe_there=["seg", "sr"])

    assert pacs.stored == ["sr"]
    assert all(answer.seen for answer in answers.values())


def test_a_first_attempt_is_sent_whatever_is_there() -> None:
    pacs = Pacs(there=["seg"])

    transfer(pacs, [[SEG]], read)

    assert pacs.stored == ["seg"]


@pytest.mark.parametrize("verdict", [Verdict.PASSING, Verdict.DOUBTFUL])
def test_a_report_waits_for_a_segmentation_that_may_still_arrive(verdict: Verdict) -> None:
    pacs = Pacs({"seg": Answer(verdict, "busy")})

    answers = transfer(pacs, [[SEG], [SR]], read)

    assert pacs.stored == ["seg"]
    assert answers["sr"] == Answer(Verdict.PASSING, "waits for an object that it refers to")


def test_a_report_goes_without_a_segmentation_that_will_never_arrive() -> None:
    pacs = Pacs({"seg": Answer(Verdict.PERMANENT, "not supported")})

    answers = transfer(pacs, [[SEG], [SR]], read)

    assert answers["seg"].verdict is Verdict.PERMANENT
    assert answers["sr"].verdict is Verdict.STORED


def test_within_a_group_one_failure_does_not_stop_the_others() -> None:
    pacs = Pacs({"seg": Answer(Verdict.PASSING, "busy")})

    assert transfer(pacs, [[SEG, SR]], read)["sr"].verdict is Verdict.STORED


def test_what_was_answered_before_the_connection_broke_is_kept() -> None:
    pacs = Pacs(breaks_at="sr")

    answers = transfer(pacs, [[SEG], [SR]], read)

    assert answers["seg"] == Answer(Verdict.STORED, "success, but then it is gone", seen=False)
    assert answers["sr"] == Answer(Verdict.PASSING, "it is gone")


def test_an_object_that_cannot_be_read_now_is_passing_and_one_that_is_gone_is_not() -> None:
    def unreadable(one: StoredInstance) -> bytes:
        raise StorageUnavailable("away") if one is SEG else NotFound("gone")

    answers = transfer(Pacs(), [[SEG, SR]], unreadable)

    assert answers["seg"] == Answer(Verdict.PASSING, "not readable here: away")
    assert answers["sr"] == Answer(Verdict.PERMANENT, "not readable here: gone")


def test_whoever_watches_can_stop_it_between_instances() -> None:
    def stop() -> None:
        raise DeliveryUnavailable("the lease was lost")

    pacs = Pacs()
    answers = transfer(pacs, [[SEG], [SR]], read, after_each=stop)

    assert pacs.stored == ["seg"]
    assert answers["sr"] == Answer(Verdict.PASSING, "the lease was lost")
