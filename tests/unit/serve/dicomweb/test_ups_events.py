"""Subscriptions, and the reports that a notification connection brings: which, in what order, and how often."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar.exceptions import WebSocketDisconnect
from litestar.testing import WebSocketTestSession

import ledgers
from imaging_ai.core.job import Failure, Stage
from imaging_ai.queue.events import EventType
from imaging_ai.queue.workitem_elements import code, elements, first, items, said
from imaging_ai.queue.workitem_feed import Feed
from services.worklist import AE_TITLE, Worklist, finished, make_parts, open_worklist

GLOBAL = "1.2.840.10008.5.1.4.34.5"
FILTERED = "1.2.840.10008.5.1.4.34.5.1"
NUMBER = "00771001"

Told = tuple[str, int, str]


@pytest.fixture
def worklist(tmp_path: Path) -> Iterator[Worklist]:
    database = ledgers.open_database(ledgers.sqlite_url(tmp_path))
    with open_worklist(make_parts(database, tmp_path)) as worklist:
        yield worklist
    database.dispose()


def subscribe(worklist: Worklist, uid: str = GLOBAL, query: str = "", ae_title: str = "WATCHER") -> None:
    answer = worklist.send("POST", f"/workitems/{uid}/subscribers/{ae_title}{query}")
    assert answer.status_code == 201, answer.text


def connect(worklist: Worklist, ae_title: str = "WATCHER", query: str = "") -> WebSocketTestSession:
    return worklist.http.websocket_connect(f"/dicom-web/ws/subscribers/{ae_title}{query}")


def next_report(socket: WebSocketTestSession) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(socket.receive_text(timeout=20))
    return report


def told(report: dict[str, Any]) -> Told:
    """Of which item, what type of event, and the state or what else it tells."""
    kind = int(first(report, "EventTypeID"))
    what = said(report, "ProcedureStepState")
    if kind == EventType.PROGRESS_REPORT:
        progress = items(report, "ProcedureStepProgressInformationSequence")
        what = said(progress[0], "ProcedureStepProgress") if progress else ""
    if kind == EventType.CANCEL_REQUESTED:
        what = said(report, "RequestingAE")
    if kind == EventType.ASSIGNED:
        what = said(items(report, "ScheduledStationNameCodeSequence")[0], "CodeValue")
    return said(report, "AffectedSOPInstanceUID"), kind, what


def hear(worklist: Worklist, count: int, ae_title: str = "WATCHER", query: str = "") -> list[Told]:
    """Connect, take so many reports, and say goodbye at once: they are not confirmed."""
    with connect(worklist, ae_title, query) as socket:
        return [told(next_report(socket)) for _ in range(count)]


def waiting(worklist: Worklist, ae_title: str = "WATCHER") -> list[Told]:
    """Everything that waits for a subscriber, without a connection."""
    feed = Feed(worklist.parts.database, AE_TITLE)
    feed.dispatch()
    name = feed.open(ae_title)
    found: list[Told] = []
    number = 0
    while batch := feed.after(ae_title, name, number):
        number = batch[-1].number
        found += [told(json.loads(one.data)) for one in batch]
    return found


# -- subscribing


def test_a_subscription_tells_where_the_connection_is(worklist: Worklist) -> None:
    uid = worklist.create()
    for target in (uid, GLOBAL):
        answer = worklist.send("POST", f"/workitems/{target}/subscribers/WATCHER")
        assert answer.status_code == 201
        assert answer.headers["content-location"] == "ws://localhost:8080/dicom-web/ws/subscribers/WATCHER"
    assert worklist.send("DELETE", f"/workitems/{uid}/subscribers/WATCHER").status_code == 200
    assert worklist.send("DELETE", f"/workitems/{GLOBAL}/subscribers/WATCHER").status_code == 200


def test_a_subscription_that_is_not_there_cannot_be_ended_or_suspended(worklist: Worklist) -> None:
    uid = worklist.create()
    for target in (uid, GLOBAL, FILTERED):
        assert worklist.send("DELETE", f"/workitems/{target}/subscribers/WATCHER").status_code == 404
        assert worklist.send("POST", f"/workitems/{target}/subscribers/WATCHER/suspend").status_code == 404


@pytest.mark.parametrize("ae_title", ["%20", "A" * 17, "A%5CB", "A%0AB"])
def test_what_is_no_ae_title_is_refused(worklist: Worklist, ae_title: str) -> None:
    assert worklist.send("POST", f"/workitems/{GLOBAL}/subscribers/{ae_title}").status_code == 400


@pytest.mark.parametrize(
    "query", ["", "?deletionlock=perhaps&WorklistLabel=x", "?Nonsense=1", "?StudyInstanceUID=abc", "?filter=Nonsense=1"]
)
def test_a_filter_that_is_missing_or_unknown_is_refused(worklist: Worklist, query: str) -> None:
    assert worklist.send("POST", f"/workitems/{FILTERED}/subscribers/WATCHER{query}").status_code == 400


def test_a_subscriber_of_one_item_hears_its_state_now_and_what_happens_to_it(worklist: Worklist) -> None:
    uid, other = worklist.create(), worklist.create()
    subscribe(worklist, uid)
    worklist.claim(other)
    transaction = worklist.claim(uid)
    progress = elements(ProcedureStepProgressInformationSequence=[elements(ProcedureStepProgress=30)])
    worklist.send("POST", f"/workitems/{uid}?{transaction}", progress)
    worklist.send("POST", f"/workitems/{uid}?{transaction}", finished())
    worklist.change(uid, "COMPLETED", transaction)
    assert hear(worklist, 4) == [(uid, 1, "SCHEDULED"), (uid, 1, "IN PROGRESS"), (uid, 3, "30"), (uid, 1, "COMPLETED")]


def test_a_subscriber_of_the_worklist_hears_of_every_new_item(worklist: Worklist) -> None:
    before = worklist.create()
    subscribe(worklist)
    station = code("CT1", "99TEST", "CT 1")
    uid = worklist.create(ScheduledStationNameCodeSequence=[station])
    worklist.claim(before)
    assert hear(worklist, 3) == [(uid, 1, "SCHEDULED"), (uid, 5, "CT1"), (before, 1, "IN PROGRESS")]


def test_a_subscription_to_the_worklist_with_a_lock_tells_every_state_first(worklist: Worklist) -> None:
    first_uid, second = worklist.create(), worklist.create()
    worklist.claim(second)
    subscribe(worklist, query="?deletionlock=true")
    assert waiting(worklist) == [(first_uid, 1, "SCHEDULED"), (second, 1, "IN PROGRESS")]


def test_a_filter_takes_items_by_what_they_are_when_they_come(worklist: Worklist) -> None:
    night = worklist.create(WorklistLabel="Night")
    worklist.create()
    subscribe(worklist, FILTERED, "?WorklistLabel=Night&ProcedureStepState=SCHEDULED")
    later = worklist.create(WorklistLabel="Night")
    worklist.create(WorklistLabel="Day")
    worklist.claim(night)
    worklist.claim(later)
    expected = [(later, 1, "SCHEDULED"), (night, 1, "IN PROGRESS"), (later, 1, "IN PROGRESS")]
    assert hear(worklist, 3) == expected
    assert waiting(worklist) == expected


def test_a_filter_can_be_one_parameter(worklist: Worklist) -> None:
    subscribe(worklist, FILTERED, "?filter=WorklistLabel=Night,ScheduledProcedureStepPriority=HIGH")
    uid = worklist.create(WorklistLabel="Night", ScheduledProcedureStepPriority="HIGH")
    worklist.create(WorklistLabel="Night")
    assert waiting(worklist) == [(uid, 1, "SCHEDULED")]


def test_a_filter_on_this_station_takes_our_jobs(worklist: Worklist) -> None:
    subscribe(worklist, FILTERED, f"?ScheduledStationNameCodeSequence.CodeValue={AE_TITLE}")
    worklist.create()
    job = worklist.ledger.get(ledgers.schedule(worklist.ledger))
    assert waiting(worklist) == [(job.job_uid, 1, "SCHEDULED"), (job.job_uid, 5, AE_TITLE)]


@pytest.mark.parametrize("target", [GLOBAL, FILTERED])
def test_who_suspends_hears_of_the_items_there_are_and_of_no_new_one(worklist: Worklist, target: str) -> None:
    subscribe(worklist, target, "?WorklistLabel=Readers" if target == FILTERED else "")
    uid = worklist.create()
    assert worklist.send("POST", f"/workitems/{target}/subscribers/WATCHER/suspend").status_code == 200
    new = worklist.create()
    worklist.claim(new)
    worklist.claim(uid)
    assert waiting(worklist) == [(uid, 1, "SCHEDULED"), (uid, 1, "IN PROGRESS")]


def test_who_unsubscribes_from_the_worklist_hears_nothing_more_of_any_item(worklist: Worklist) -> None:
    uid = worklist.create()
    subscribe(worklist)
    subscribe(worklist, uid)
    worklist.send("DELETE", f"/workitems/{GLOBAL}/subscribers/WATCHER")
    worklist.claim(uid)
    worklist.create()
    assert waiting(worklist) == []


def test_who_unsubscribes_from_one_item_goes_on_hearing_of_the_others(worklist: Worklist) -> None:
    uid, other = worklist.create(), worklist.create()
    subscribe(worklist)
    assert worklist.send("DELETE", f"/workitems/{uid}/subscribers/WATCHER").status_code == 200
    worklist.claim(uid)
    worklist.claim(other)
    assert waiting(worklist) == [(other, 1, "IN PROGRESS")]
    assert worklist.send("DELETE", f"/workitems/{uid}/subscribers/WATCHER").status_code == 200


def test_a_filter_that_is_ended_takes_its_items_with_it_but_not_those_chosen_by_name(worklist: Worklist) -> None:
    named = worklist.create()
    subscribe(worklist, named)
    subscribe(worklist, FILTERED, "?WorklistLabel=Readers")
    by_filter = worklist.create()
    assert worklist.send("DELETE", f"/workitems/{FILTERED}/subscribers/WATCHER").status_code == 200
    worklist.claim(by_filter)
    worklist.claim(named)
    assert waiting(worklist)[-1] == (named, 1, "IN PROGRESS")
    assert (by_filter, 1, "IN PROGRESS") not in waiting(worklist)


# -- jobs


def test_a_job_tells_all_its_life(worklist: Worklist) -> None:
    subscribe(worklist)
    ledger = worklist.ledger
    ledgers.schedule(ledger)
    job = ledgers.claim(ledger)
    ledger.progress(job.id, job.attempt, 40, Stage.INFER)
    ledger.fail(job.id, job.attempt, Failure(Stage.INFER, "model-out-of-memory", "no memory", permanent=False))
    uid = job.job_uid
    assert waiting(worklist) == [
        (uid, 1, "SCHEDULED"),
        (uid, 5, AE_TITLE),
        (uid, 1, "IN PROGRESS"),
        (uid, 3, "40"),
        (uid, 3, "40"),
    ]


def test_a_job_that_completes_tells_so(worklist: Worklist) -> None:
    ledgers.schedule(worklist.ledger)
    subscribe(worklist)
    job = ledgers.claim(worklist.ledger)
    ledgers.complete(worklist.ledger, job)
    assert waiting(worklist) == [(job.job_uid, 1, "IN PROGRESS"), (job.job_uid, 1, "COMPLETED")]


def test_a_job_canceled_while_it_waits_goes_by_way_of_in_progress(worklist: Worklist) -> None:
    job = worklist.ledger.get(ledgers.schedule(worklist.ledger))
    subscribe(worklist)
    worklist.send("POST", f"/workitems/{job.job_uid}/cancelrequest")
    assert waiting(worklist) == [(job.job_uid, 1, "IN PROGRESS"), (job.job_uid, 1, "CANCELED")]


def test_a_wish_to_cancel_what_runs_reaches_its_subscribers_with_reason_and_contact(worklist: Worklist) -> None:
    ledgers.schedule(worklist.ledger)
    job = ledgers.claim(worklist.ledger)
    uid = worklist.create()
    worklist.claim(uid)
    subscribe(worklist)
    given = elements(ReasonForCancellation="wrong side", ContactDisplayName="Dr Roe", RequestingAE="DESK")
    for each in (job.job_uid, uid):
        assert worklist.send("POST", f"/workitems/{each}/cancelrequest", given).status_code == 202
    with connect(worklist) as socket:
        for each in (job.job_uid, uid):
            report = next_report(socket)
            assert told(report) == (each, 2, "DESK")
            assert said(report, "ReasonForCancellation") == "wrong side"
            assert said(report, "ContactDisplayName") == "Dr Roe"


def test_nothing_is_told_of_a_change_that_was_rolled_back(worklist: Worklist) -> None:
    subscribe(worklist)
    with pytest.raises(RuntimeError), worklist.ledger.database.write() as session:
        worklist.ledger.schedule(session, ledgers.request())
        raise RuntimeError
    assert waiting(worklist) == []


# -- the connection


def test_a_report_has_what_n_event_report_has(worklist: Worklist) -> None:
    subscribe(worklist)
    uid = worklist.create()
    with connect(worklist) as socket:
        report = next_report(socket)
    assert said(report, "AffectedSOPClassUID") == "1.2.840.10008.5.1.4.34.6.1"
    assert said(report, "AffectedSOPInstanceUID") == uid
    assert first(report, "CommandField") == 0x100
    assert first(report, "MessageID") == report[NUMBER]["Value"][0] % 65_536
    assert said(report, "InputReadinessState") == "READY"


def test_a_connection_may_be_opened_before_any_subscription(worklist: Worklist) -> None:
    with connect(worklist) as socket:
        subscribe(worklist)
        uid = worklist.create()
        assert told(next_report(socket)) == (uid, 1, "SCHEDULED")


def test_what_was_not_confirmed_comes_again_and_in_the_same_order(worklist: Worklist) -> None:
    subscribe(worklist)
    uids = [worklist.create() for _ in range(5)]
    assert [uid for uid, _, _ in hear(worklist, 3)] == uids[:3]
    assert [uid for uid, _, _ in hear(worklist, 5)] == uids


def confirm(report: dict[str, Any], key: str) -> str:
    value = first(report, "MessageID") if key == "00000120" else report[NUMBER]["Value"][0]
    return json.dumps({key: {"vr": "US", "Value": [value]}})


@pytest.mark.parametrize("key", ["00000120", NUMBER])
def test_what_was_confirmed_does_not_come_again(worklist: Worklist, key: str) -> None:
    subscribe(worklist)
    uids = [worklist.create() for _ in range(5)]
    with connect(worklist) as socket:
        reports = [next_report(socket) for _ in range(5)]
        socket.send_text(confirm(reports[2], key))
        uids.append(worklist.create())
        next_report(socket)
    assert [uid for uid, _, _ in hear(worklist, 3)] == uids[3:]


def test_a_client_that_comes_back_says_how_far_it_was(worklist: Worklist) -> None:
    subscribe(worklist)
    uids = [worklist.create() for _ in range(4)]
    with connect(worklist) as socket:
        reports = [next_report(socket) for _ in range(4)]
    number = reports[1][NUMBER]["Value"][0]
    assert [uid for uid, _, _ in hear(worklist, 2, query=f"?after={number}")] == uids[2:]


@pytest.mark.parametrize(
    "answer", ["", "hello", "{}", "[]", '{"00000120":{"vr":"US","Value":["x"]}}', '{"00000120":7}']
)
def test_what_is_no_answer_confirms_nothing_and_does_no_harm(worklist: Worklist, answer: str) -> None:
    subscribe(worklist)
    uid = worklist.create()
    with connect(worklist) as socket:
        next_report(socket)
        socket.send_text(answer)
        other = worklist.create()
        assert told(next_report(socket)) == (other, 1, "SCHEDULED")
    assert [each for each, _, _ in hear(worklist, 2)] == [uid, other]


def test_an_answer_that_is_too_long_ends_the_connection(worklist: Worklist) -> None:
    with connect(worklist) as socket:
        socket.send_text("x" * 5_000)
        with pytest.raises(WebSocketDisconnect) as ended:
            socket.receive_text(timeout=20)
    assert ended.value.code == 1009


def test_the_newest_connection_of_an_application_has_its_reports(worklist: Worklist) -> None:
    subscribe(worklist)
    with connect(worklist) as older, connect(worklist) as newer:
        uid = worklist.create()
        assert told(next_report(newer)) == (uid, 1, "SCHEDULED")
        with pytest.raises(WebSocketDisconnect) as ended:
            older.receive_text(timeout=20)
    assert ended.value.code == 4000


def test_each_subscriber_has_reports_of_its_own(worklist: Worklist) -> None:
    subscribe(worklist)
    subscribe(worklist, ae_title="OTHER")
    uid = worklist.create()
    assert hear(worklist, 1) == hear(worklist, 1, "OTHER") == [(uid, 1, "SCHEDULED")]


@pytest.mark.parametrize("path", ["/ws/subscribers/" + "A" * 17, "/ws/subscribers/WATCHER?after=x"])
def test_a_connection_that_cannot_be_is_refused(worklist: Worklist, path: str) -> None:
    with pytest.raises(WebSocketDisconnect), worklist.http.websocket_connect(f"/dicom-web{path}"):
        pass


def test_a_page_of_another_origin_gets_no_connection(worklist: Worklist) -> None:
    path = "/dicom-web/ws/subscribers/WATCHER"
    with (
        pytest.raises(WebSocketDisconnect),
        worklist.http.websocket_connect(path, headers={"origin": "https://evil.example"}),
    ):
        pass
    with worklist.http.websocket_connect(path, headers={"origin": "http://localhost:8080"}):
        pass
