"""Items 89 to 97: the worklist service (PS3.18 sections 8.10 and 11; PS3.4 Annex CC)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from peer import JSON, Peer, value
from pydicom.uid import generate_uid
from websockets.sync.client import ClientConnection, connect

GLOBAL, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"
SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED = "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"
STATE, TRANSACTION, LABEL = "00741000", "00081195", "00741204"
STATE_REPORT, CANCEL_REQUESTED = 1, 2
#: Tables 11.6.3-1 and 11.7.3-1 have two rows for a Transaction UID that is missing or wrong, and for a wrong state.
REFUSED = (400, 409)

Attributes = dict[str, Any]


def one(vr: str, *values: Any) -> Attributes:
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def code(text: str, scheme: str, meaning: str) -> Attributes:
    return {"00080100": one("SH", text), "00080102": one("SH", scheme), "00080104": one("LO", meaning)}


def workitem(label: str = "Conformance", **changed: Attributes) -> Attributes:
    """What a new work item must have (PS3.4 Table CC.2.5-3)."""
    return {
        "00081080": one("LO"),
        "00081084": one("SQ"),
        TRANSACTION: one("UI"),
        "00100010": one("PN", {"Alphabetic": "Conformance^Nobody"}),
        "00100020": one("LO", "CONFORMANCE-UPS"),
        "00100021": one("LO"),
        "00100030": one("DA", "19700101"),
        "00100040": one("CS", "O"),
        "00101002": one("SQ"),
        "0020000D": one("UI", generate_uid()),
        "00380010": one("LO"),
        "00380014": one("SQ"),
        "00404005": one("DT", "20240229101112"),
        "00404018": one("SQ", code("110004", "DCM", "Computer Aided Diagnosis")),
        "00404021": one("SQ"),
        "00404025": one("SQ"),
        "00404026": one("SQ"),
        "00404027": one("SQ"),
        "00404034": one("SQ"),
        "00404041": one("CS", "READY"),
        "0040A370": one("SQ"),
        STATE: one("CS", SCHEDULED),
        "00741200": one("CS", "MEDIUM"),
        "00741202": one("LO", "Conformance"),
        LABEL: one("LO", label),
        "00741210": one("SQ"),
        **changed,
    }


#: What must be there before a work item may be COMPLETED (PS3.4 Table CC.2.5-3, final state requirements).
PERFORMED = {
    "00741216": one(
        "SQ",
        {
            "00404028": one("SQ", code("STATION", "99CONF", "A station")),
            "00404050": one("DT", "20240229101112"),
            "00404051": one("DT", "20240229111213"),
            "00404019": one("SQ", code("110004", "DCM", "Computer Aided Diagnosis")),
            "00404033": one("SQ"),
        },
    )
}


class Worklist:
    """The worklist service of the server under test."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def create(self, uid: str = "", body: Attributes | None = None) -> str:
        """Create a work item and give its UID."""
        uid = uid or generate_uid()
        response = self.post(f"/workitems?{uid}", body or workitem())
        assert response.status_code == 201, f"{response.status_code} {response.text[:500]}"
        return uid

    def post(self, path: str, body: Attributes | None = None) -> httpx.Response:
        return self.peer.post(path, b"" if body is None else json.dumps([body]).encode(), JSON if body else "")

    def change(self, uid: str, state: str, transaction: str) -> httpx.Response:
        body = [{STATE: one("CS", state), TRANSACTION: one("UI", transaction)}]
        headers = {"Content-Type": JSON, "Accept": JSON}
        path = f"/workitems/{uid}/state"
        return self.peer.request("PUT", path, headers=headers, content=json.dumps(body).encode())

    def claim(self, uid: str) -> str:
        """Set it IN PROGRESS and give the Transaction UID."""
        transaction = generate_uid()
        response = self.change(uid, IN_PROGRESS, transaction)
        assert response.status_code == 200, f"{response.status_code} {response.text[:500]}"
        return transaction

    def finish(self, uid: str, transaction: str) -> None:
        response = self.post(f"/workitems/{uid}?{transaction}", PERFORMED)
        assert response.status_code == 200, f"{response.status_code} {response.text[:500]}"
        response = self.change(uid, COMPLETED, transaction)
        assert response.status_code == 200, f"{response.status_code} {response.text[:500]}"

    def get(self, uid: str) -> Attributes:
        response = self.peer.get(f"/workitems/{uid}", JSON)
        assert response.status_code == 200, f"{response.status_code} {response.text[:500]}"
        found = response.json()
        return dict(found[0] if isinstance(found, list) else found)

    def subscribe(self, what: str, ae_title: str, query: str = "") -> httpx.Response:
        return self.peer.request("POST", f"/workitems/{what}/subscribers/{ae_title}{query}")

    def unsubscribe(self, what: str, ae_title: str) -> int:
        return self.peer.request("DELETE", f"/workitems/{what}/subscribers/{ae_title}").status_code

    @contextlib.contextmanager
    def channel(self, ae_title: str) -> Iterator[ClientConnection]:
        """Open the notification connection of a subscriber (8.10.4)."""
        address = self.peer.address(f"/subscribers/{ae_title}").replace("http", "ws", 1)
        headers = {"Authorization": f"Bearer {self.peer.token}"} if self.peer.token else {}
        with connect(address, additional_headers=headers, open_timeout=20, proxy=None) as connection:
            yield connection


def next_event(connection: ClientConnection, of: str, kind: int = STATE_REPORT) -> Attributes:
    """The next event of this type about a work item."""
    while True:
        event = json.loads(connection.recv(timeout=15))
        event = event[0] if isinstance(event, list) else event
        if value(event, "00001000") == of and value(event, "00001002") == kind:
            return dict(event)


def states(connection: ClientConnection, of: str, last: str) -> list[str]:
    """The states of a work item, as events tell them up to the last one; a repeated first one is left out."""
    found: list[str] = []
    while not found or found[-1] != last:
        found.append(value(next_event(connection, of), STATE))
    return found[1:] if found[:2] == [found[0]] * 2 else found


@pytest.fixture(scope="module")
def worklist(peer: Peer) -> Worklist:
    """The service, or a skip where there is none."""
    response = peer.get("/workitems", JSON, limit="1")
    if response.status_code in (404, 405, 501):
        pytest.skip("this server has no worklist service")
    return Worklist(peer)


@pytest.fixture
def ae_title(worklist: Worklist) -> str:
    return "C" + generate_uid()[-12:].replace(".", "0")


def test_item_89_a_work_item_is_created_once_with_its_uid_in_the_query_or_the_body(worklist: Worklist) -> None:
    """11.4."""
    uid, other = generate_uid(), generate_uid()
    response = worklist.post(f"/workitems?{uid}", workitem())
    assert response.status_code == 201, response.text[:500]
    assert response.headers["location"].endswith(f"/workitems/{uid}")
    assert worklist.post(f"/workitems?{uid}", workitem()).status_code == 409
    body = workitem(**{"00080016": one("UI", "1.2.840.10008.5.1.4.34.6.1"), "00080018": one("UI", other)})
    assert worklist.post("/workitems", body).status_code == 201
    assert value(worklist.get(other), LABEL) == "Conformance"
    named = generate_uid()
    assert worklist.post(f"/workitems?AffectedSOPInstanceUID={named}", workitem()).status_code == 201
    assert value(worklist.get(named), STATE) == SCHEDULED
    for wrong in (workitem(**{STATE: one("CS", COMPLETED)}), {LABEL: one("LO", "too little")}):
        assert worklist.post(f"/workitems?{generate_uid()}", wrong).status_code == 400


def test_item_90_a_work_item_is_retrieved_without_its_lock_and_found_by_state(worklist: Worklist) -> None:
    """11.5, 11.9."""
    label = f"Conformance {generate_uid()[-10:]}"
    uid = worklist.create(body=workitem(label))
    (match,) = worklist.peer.search("/workitems", ProcedureStepState=SCHEDULED, ProcedureStepLabel=label)
    assert value(match, "00080018") == uid and value(match, STATE) == SCHEDULED
    worklist.claim(uid)
    assert not value(worklist.get(uid), TRANSACTION), "the Transaction UID is told to others"
    assert worklist.peer.search("/workitems", ProcedureStepState=SCHEDULED, ProcedureStepLabel=label) == []
    (match,) = worklist.peer.search("/workitems", **{STATE: IN_PROGRESS, LABEL: label})
    assert value(match, "00080018") == uid and not value(match, TRANSACTION)
    assert worklist.peer.get(f"/workitems/{generate_uid()}", JSON).status_code == 404


def test_item_91_one_performer_claims_and_the_second_is_refused(worklist: Worklist) -> None:
    """11.7; PS3.4 CC.2.1."""
    uid = worklist.create()
    worklist.claim(uid)
    assert value(worklist.get(uid), STATE) == IN_PROGRESS
    assert worklist.change(uid, IN_PROGRESS, generate_uid()).status_code in REFUSED
    assert worklist.change(generate_uid(), IN_PROGRESS, generate_uid()).status_code == 404


def test_item_92_only_who_has_the_transaction_uid_updates(worklist: Worklist) -> None:
    """11.6; PS3.4 CC.2.6."""
    uid = worklist.create()
    transaction = worklist.claim(uid)
    progress = {"00741002": one("SQ", {"00741004": one("DS", 50), "00741006": one("ST", "half way")})}
    assert worklist.post(f"/workitems/{uid}?{transaction}", progress).status_code == 200
    assert value(value(worklist.get(uid), "00741002"), "00741004") == 50
    for query in (f"?{generate_uid()}", ""):
        change = {"00741202": one("LO", "Stolen")}
        assert worklist.post(f"/workitems/{uid}{query}", change).status_code in REFUSED
    assert value(worklist.get(uid), "00741202") == "Conformance"


def test_item_93_illegal_transitions_and_unfinished_completions_are_refused(worklist: Worklist) -> None:
    """11.7; PS3.4 Table CC.1.1-2, CC.2.1.3."""
    uid = worklist.create()
    assert worklist.change(uid, COMPLETED, generate_uid()).status_code in REFUSED
    transaction = worklist.claim(uid)
    assert worklist.change(uid, COMPLETED, transaction).status_code in REFUSED, "completed without what was performed"
    assert worklist.change(uid, SCHEDULED, transaction).status_code in REFUSED
    worklist.finish(uid, transaction)
    assert value(worklist.get(uid), STATE) == COMPLETED
    assert worklist.change(uid, IN_PROGRESS, transaction).status_code in REFUSED
    assert worklist.change(uid, CANCELED, transaction).status_code in REFUSED
    again = worklist.change(uid, COMPLETED, transaction)
    assert again.status_code == 200 and "already in the requested state of COMPLETED" in again.headers["warning"]


def test_item_94_a_request_to_cancel_cancels_what_is_scheduled_and_tells_the_owner(
    worklist: Worklist, ae_title: str
) -> None:
    """11.8; PS3.4 CC.2.2."""
    uid = worklist.create()
    reason = {"00741238": one("LT", "not needed")}
    assert worklist.post(f"/workitems/{uid}/cancelrequest", reason).status_code == 202
    assert value(worklist.get(uid), STATE) == CANCELED
    running = worklist.create()
    worklist.claim(running)
    assert worklist.subscribe(running, ae_title).status_code == 201
    with worklist.channel(ae_title) as events:
        assert worklist.post(f"/workitems/{running}/cancelrequest", reason).status_code == 202
        event = next_event(events, running, CANCEL_REQUESTED)
        assert value(event, "00741238") == "not needed"
    assert value(worklist.get(running), STATE) == IN_PROGRESS
    assert worklist.post(f"/workitems/{generate_uid()}/cancelrequest").status_code == 404


def test_item_95_a_subscription_is_made_and_ended(worklist: Worklist, ae_title: str) -> None:
    """11.10, 11.11."""
    uid = worklist.create()
    response = worklist.subscribe(uid, ae_title)
    assert response.status_code == 201
    address = response.headers["content-location"]
    assert address.startswith(("ws://", "wss://")) and address.endswith(f"/subscribers/{ae_title}")
    assert worklist.unsubscribe(uid, ae_title) == 200
    assert worklist.unsubscribe(uid, ae_title) == 404
    assert worklist.subscribe(generate_uid(), ae_title).status_code == 404


def test_item_96_worklists_are_subscribed_to_whole_and_filtered_until_suspended(
    worklist: Worklist, ae_title: str
) -> None:
    """11.10, 11.11, 11.12; PS3.4 CC.2.3."""
    label = f"Wanted {generate_uid()[-10:]}"
    filtered = ae_title[:-1] + "F"
    assert worklist.subscribe(GLOBAL, ae_title, "?deletionlock=false").status_code == 201
    assert worklist.subscribe(FILTERED, filtered, f"?filter={LABEL}={label}").status_code == 201
    with worklist.channel(ae_title) as everything, worklist.channel(filtered) as some:
        unwanted, wanted = worklist.create(), worklist.create(body=workitem(label))
        assert value(next_event(everything, unwanted), STATE) == SCHEDULED
        assert value(next_event(everything, wanted), STATE) == SCHEDULED
        event = json.loads(some.recv(timeout=15))
        event = event[0] if isinstance(event, list) else event
        assert value(event, "00001000") == wanted, "the filter lets others through"
        suspended = worklist.peer.request("POST", f"/workitems/{GLOBAL}/subscribers/{ae_title}/suspend")
        assert suspended.status_code == 200
        after = worklist.create()
        worklist.claim(wanted)
        assert value(next_event(everything, wanted), STATE) == IN_PROGRESS, "what was subscribed goes on"
        with pytest.raises(TimeoutError):
            while value(json.loads(everything.recv(timeout=1)), "00001000") != after:
                pass
    for what, who in ((GLOBAL, ae_title), (FILTERED, filtered)):
        assert worklist.unsubscribe(what, who) == 200


def test_item_97_events_come_in_order_and_none_is_lost_across_a_reconnect(worklist: Worklist, ae_title: str) -> None:
    """8.10.4, 8.10.5; PS3.4 CC.2.4."""
    uid = worklist.create()
    assert worklist.subscribe(uid, ae_title).status_code == 201
    with worklist.channel(ae_title) as events:
        transaction = worklist.claim(uid)
        before = states(events, uid, IN_PROGRESS)
    worklist.finish(uid, transaction)
    with worklist.channel(ae_title) as events:
        after = states(events, uid, COMPLETED)
    assert before in ([IN_PROGRESS], [SCHEDULED, IN_PROGRESS])
    # What the lost connection may not have brought can come again, in order.
    whole = [SCHEDULED, IN_PROGRESS, COMPLETED]
    assert after == whole[-len(after) :]
    assert worklist.unsubscribe(uid, ae_title) == 200
