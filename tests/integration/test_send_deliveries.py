"""Deliveries from the ledger to real associations: confirmed, retried, given up, never twice at the same time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from imaging_ai.core.job import DeliveryState
from imaging_ai.send.deliverer import BackOff, Deliverer
from imaging_ai.send.deliveries import Delivery
from imaging_ai.send.destinations import Destination
from services import free_port, wait_until
from services.orthanc import Orthanc
from services.peers import SEG, SR, RecordingPeer, breaking_peer, storescp
from services.results import Results

AT_ONCE = BackOff(first=0.0, longest=0.0, breaker=0.0)


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Results]:
    made = Results(f"sqlite:///{tmp_path / 'test.db'}", tmp_path)
    yield made
    made.database.dispose()


def dicom(port: int, name: str = "pacs", **settings: object) -> Destination:
    table = {"name": name, "ae_title": "PEER", "host": "127.0.0.1", "port": port, "timeout": 10}
    return Destination.parse({**table, **settings}, "test")


def deliverer(
    results: Results, *destinations: Destination, owner: str = "worker", back_off: BackOff = AT_ONCE
) -> Deliverer:
    return Deliverer(results.deliveries, results, destinations, owner=owner, back_off=back_off)


def by_kind(results: Results, uids: dict[str, str]) -> dict[str, Delivery]:
    rows = {delivery.sop_instance_uid: delivery for delivery in results.deliveries.find()}
    return {kind: rows[uid] for kind, uid in uids.items()}


@pytest.mark.service
def test_results_are_confirmed_by_orthanc(results: Results, orthanc: Orthanc) -> None:
    _, uids = results.job()
    sender = deliverer(results, dicom(orthanc.dicom_port, ae_title="ORTHANC"))

    assert sender.deliver_next()
    assert not sender.deliver_next()

    for delivery in by_kind(results, uids).values():
        assert (delivery.state, delivery.attempts, delivery.reason) == (DeliveryState.CONFIRMED, 1, "")
        assert delivery.confirmed_at is not None
    assert len(orthanc.instances(SEG)) == len(orthanc.instances(SR)) == 1


@pytest.mark.service
def test_results_are_confirmed_over_the_web(results: Results, orthanc: Orthanc) -> None:
    results.job()
    deliverer(results, Destination.parse({"name": "pacs", "url": orthanc.web_url}, "test")).deliver_next()

    assert {delivery.state for delivery in results.deliveries.find()} == {DeliveryState.CONFIRMED}
    assert orthanc.count() == 2


@pytest.mark.service
def test_what_cannot_be_asked_stays_sent_and_says_so(results: Results, tmp_path: Path) -> None:
    results.job()
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    with storescp(inbox) as port:
        deliverer(results, dicom(port, ae_title="STORESCP")).deliver_next()

    for delivery in results.deliveries.find():
        assert delivery.state is DeliveryState.SENT
        assert "cannot be queried" in delivery.reason
        assert delivery.next_attempt_at is None
    assert len(list(inbox.iterdir())) == 2


def test_the_segmentation_goes_before_the_report_in_one_association(results: Results) -> None:
    _, uids = results.job(["SR", "SEG"])
    with RecordingPeer() as peer:
        deliverer(results, dicom(peer.port)).deliver_next()

    assert peer.uids == [uids["SEG"], uids["SR"]]
    assert peer.associations == 1


def test_out_of_resources_and_then_success_is_one_retry_for_both(results: Results) -> None:
    _, uids = results.job()
    with RecordingPeer(answer=lambda request: 0xA700 if request == 0 else 0x0000) as peer:
        sender = deliverer(results, dicom(peer.port))
        sender.deliver_next()
        waiting = by_kind(results, uids)
        sender.deliver_next()

    assert waiting["SEG"].state is waiting["SR"].state is DeliveryState.WAITING
    assert "0xA700" in waiting["SEG"].reason
    assert waiting["SR"].reason == "waits for an object that it refers to"
    assert peer.uids == [uids["SEG"], uids["SR"]]
    assert {delivery.state for delivery in results.deliveries.find()} == {DeliveryState.SENT}


def test_cannot_understand_for_ever_is_dead_after_a_few_attempts_with_the_reason(results: Results) -> None:
    results.job(["SEG"])
    with RecordingPeer(answer=lambda _: 0xC000) as peer:
        sender = deliverer(results, dicom(peer.port))
        attempts = sum(1 for _ in iter(sender.deliver_next, False))

    (delivery,) = results.deliveries.find()
    assert attempts == delivery.attempts == 5
    assert delivery.state is DeliveryState.DEAD
    assert delivery.reason == "0xC000 cannot understand (after 5 attempts)"


def test_a_permanent_rejection_is_dead_at_once_and_can_be_replayed(results: Results) -> None:
    results.job()
    with RecordingPeer(require_calling=("SOMEBODY",)) as strict:
        sender = deliverer(results, dicom(strict.port))
        assert sum(1 for _ in iter(sender.deliver_next, False)) == 1
    for delivery in results.deliveries.find():
        assert (delivery.state, delivery.attempts) == (DeliveryState.DEAD, 1)
        assert "make IMAGINGAI known there" in delivery.reason

    assert results.deliveries.replay(destination="pacs") == 2
    with RecordingPeer() as peer:
        assert deliverer(results, dicom(peer.port)).deliver_next()
    assert len(peer.uids) == 2


def test_a_refused_segmentation_does_not_hold_back_the_report(results: Results) -> None:
    _, uids = results.job()
    with RecordingPeer(sop_classes=(SR,)) as peer:
        deliverer(results, dicom(peer.port)).deliver_next()

    deliveries = by_kind(results, uids)
    assert deliveries["SEG"].state is DeliveryState.DEAD
    assert "does not accept SOP class" in deliveries["SEG"].reason
    assert deliveries["SR"].state is DeliveryState.SENT


def test_a_vanished_destination_gets_everything_when_it_is_back(results: Results) -> None:
    _, uids = results.job()
    with breaking_peer(after_bytes=400) as port:
        deliverer(results, dicom(port)).deliver_next()
    lost = by_kind(results, uids)
    with RecordingPeer() as peer:
        deliverer(results, dicom(peer.port)).deliver_next()

    assert {delivery.state for delivery in lost.values()} == {DeliveryState.WAITING}
    assert peer.uids == [uids["SEG"], uids["SR"]]


@pytest.mark.service
def test_what_arrived_before_the_sender_was_lost_is_not_sent_again(results: Results, orthanc: Orthanc) -> None:
    job_id, _ = results.job()
    destination = dicom(orthanc.dicom_port, ae_title="ORTHANC")
    deliverer(results, destination).deliver_next()
    before = orthanc.get("/changes", last="")["Last"]
    results.deliveries.replay(job_id=job_id)
    results.deliveries.claim("lost", 60.0)  # and killed after the transfer, before it could write that down
    results.deliveries.release("lost")

    deliverer(results, destination).deliver_next()

    assert {delivery.state for delivery in results.deliveries.find()} == {DeliveryState.CONFIRMED}
    assert orthanc.get("/changes", last="")["Last"] == before


def test_two_senders_at_once_send_each_object_once(results: Results) -> None:
    expected = [uid for _ in range(8) for uid in results.job()[1].values()]
    with RecordingPeer(delay=0.01) as peer:
        senders = [deliverer(results, dicom(peer.port), owner=f"worker-{number}") for number in range(2)]
        barrier = threading.Barrier(2)

        def work(sender: Deliverer) -> None:
            barrier.wait()
            while sender.deliver_next():
                continue

        threads = [threading.Thread(target=work, args=(sender,)) for sender in senders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert Counter(peer.uids) == Counter(expected)


def test_a_lease_is_renewed_while_a_slow_destination_takes_its_time(results: Results) -> None:
    results.job(["SEG"])
    with RecordingPeer(delay=1.5) as peer:
        sender = Deliverer(results.deliveries, results, [dicom(peer.port)], owner="slow", lease_seconds=0.6)
        thread = threading.Thread(target=sender.deliver_next)
        thread.start()
        wait_until(lambda: peer.associations, what="the transfer began")
        while thread.is_alive():
            assert results.deliveries.sweep() == 0
            thread.join(0.1)

    assert [delivery.state for delivery in results.deliveries.find()] == [DeliveryState.SENT]
    assert len(peer.uids) == 1


def test_a_broken_destination_does_not_delay_another(results: Results) -> None:
    for _ in range(3):
        results.job(destinations=["broken", "pacs"])
    with RecordingPeer() as peer:
        destinations = (dicom(free_port(), "broken"), dicom(peer.port, "pacs"))
        sender = deliverer(results, *destinations, back_off=BackOff(first=60.0))
        batches = sum(1 for _ in iter(sender.deliver_next, False))

    assert batches == 4  # one try at the broken one, and three jobs
    assert len(peer.uids) == 6
    tried = [delivery.attempts for delivery in results.deliveries.find(destination="broken")]
    assert sorted(tried) == [0, 0, 0, 0, 1, 1]


def test_storage_that_does_not_answer_is_tried_again(results: Results) -> None:
    results.job(["SEG"])
    with RecordingPeer() as peer:
        sender = deliverer(results, dicom(peer.port))
        results.is_readable = False
        sender.deliver_next()
        (waiting,) = results.deliveries.find()
        results.is_readable = True
        sender.deliver_next()

    assert waiting.state is DeliveryState.WAITING
    assert waiting.reason == "not readable here: the object storage does not answer"
    assert len(peer.uids) == 1
