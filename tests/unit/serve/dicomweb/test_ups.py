"""UPS-RS over HTTP: creating, reading, claiming, changing and ending work items, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ledgers
from imaging_ai.core.identity import new_uid
from imaging_ai.core.job import Failure, JobState, Priority, Stage
from imaging_ai.queue.workitem_elements import code, elements, first, items, said, tag
from imaging_ai.queue.workitem_runs import ALGORITHM_NAME
from imaging_ai.serve.dicomweb.native import from_xml, to_xml
from services.worklist import AE_TITLE, Worklist, finished, make_parts, model_item, new_item, open_worklist

TRANSACTION = "00081195"


@pytest.fixture
def worklist(tmp_path: Path) -> Iterator[Worklist]:
    database = ledgers.open_database(ledgers.sqlite_url(tmp_path))
    with open_worklist(make_parts(database, tmp_path)) as worklist:
        yield worklist
    database.dispose()


# -- creating


def test_a_new_work_item_has_an_address_and_can_be_read_there(worklist: Worklist) -> None:
    answer = worklist.send("POST", "/workitems?workitem=2.25.7", new_item())
    assert (answer.status_code, answer.content) == (201, b"")
    assert answer.headers["location"] == "http://localhost:8080/dicom-web/workitems/2.25.7"
    assert answer.headers["content-location"] == answer.headers["location"]
    dataset = worklist.get("2.25.7")
    assert said(dataset, "SOPClassUID") == "1.2.840.10008.5.1.4.34.6.1"
    assert said(dataset, "ProcedureStepState") == "SCHEDULED"
    assert said(dataset, "ProcedureStepLabel") == "Read the chest"
    assert said(dataset, "ScheduledProcedureStepModificationDateTime").endswith("+0000")
    assert TRANSACTION not in dataset


@pytest.mark.parametrize("query", ["?2.25.8", "?2.25.8=", "?AffectedSOPInstanceUID=2.25.8", "?workitem=2.25.8"])
def test_the_uid_is_taken_from_the_query_in_every_spelling(worklist: Worklist, query: str) -> None:
    answer = worklist.send("POST", f"/workitems{query}", new_item())
    assert answer.headers["location"].endswith("/workitems/2.25.8")


@pytest.mark.parametrize("keyword", ["AffectedSOPInstanceUID", "SOPInstanceUID"])
def test_the_uid_is_taken_from_the_data_set(worklist: Worklist, keyword: str) -> None:
    answer = worklist.send("POST", "/workitems", new_item(**{keyword: "2.25.9"}))
    assert answer.headers["location"].endswith("/workitems/2.25.9")
    assert tag("AffectedSOPInstanceUID") not in worklist.get("2.25.9")


def test_a_work_item_without_a_uid_gets_one(worklist: Worklist) -> None:
    answer = worklist.send("POST", "/workitems", new_item())
    assert answer.headers["location"].rpartition("/")[2].startswith("2.25.")


def test_two_uids_that_differ_are_refused(worklist: Worklist) -> None:
    answer = worklist.send("POST", "/workitems?2.25.1", new_item(SOPInstanceUID="2.25.2"))
    assert answer.status_code == 400


def test_a_uid_that_is_taken_is_refused_whether_by_an_item_or_by_a_job(worklist: Worklist) -> None:
    uid = worklist.create()
    job = worklist.ledger.get(ledgers.schedule(worklist.ledger))
    for taken in (uid, job.job_uid):
        assert worklist.send("POST", f"/workitems?{taken}", new_item()).status_code == 409


@pytest.mark.parametrize("uid", ["1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"])
def test_the_uid_of_the_worklist_itself_is_refused(worklist: Worklist, uid: str) -> None:
    assert worklist.send("POST", f"/workitems?{uid}", new_item()).status_code == 400


@pytest.mark.parametrize(
    "keyword",
    [
        "ProcedureStepState",
        "ScheduledProcedureStepPriority",
        "ProcedureStepLabel",
        "ScheduledProcedureStepStartDateTime",
        "InputReadinessState",
    ],
)
def test_an_attribute_of_type_1_that_is_missing_is_named(worklist: Worklist, keyword: str) -> None:
    given = new_item()
    del given[tag(keyword)]
    for body in (given, new_item(**{keyword: None})):
        answer = worklist.send("POST", "/workitems", body)
        assert answer.status_code == 400
        assert keyword in answer.json()["detail"]


def test_everything_that_is_wrong_is_named_at_once(worklist: Worklist) -> None:
    given = new_item(ProcedureStepState="IN PROGRESS", TransactionUID="1.2", ScheduledProcedureStepPriority="STAT")
    answer = worklist.send("POST", "/workitems", given)
    assert answer.status_code == 400
    for keyword in ("ProcedureStepState", "TransactionUID", "ScheduledProcedureStepPriority"):
        assert keyword in answer.json()["detail"]


def test_a_worklist_label_is_filled_in_and_the_client_told(worklist: Worklist) -> None:
    answer = worklist.send("POST", "/workitems?2.25.5", new_item(WorklistLabel=None))
    assert "created with modifications" in answer.headers["warning"]
    assert said(worklist.get("2.25.5"), "WorklistLabel") == "WORKLIST"
    assert "warning" not in worklist.send("POST", "/workitems", new_item()).headers


# -- reading


def test_reading_can_be_had_in_json_and_xml(worklist: Worklist) -> None:
    uid = worklist.create()
    default = worklist.send("GET", f"/workitems/{uid}")
    assert default.headers["content-type"] == "application/dicom+json"
    xml = worklist.send("GET", f"/workitems/{uid}", headers={"accept": "application/dicom+xml"})
    assert said(from_xml(xml.content), "SOPInstanceUID") == uid
    several = worklist.send(
        "GET", f"/workitems/{uid}", headers={"accept": 'multipart/related; type="application/dicom+xml"'}
    )
    assert several.headers["content-type"].startswith('multipart/related; type="application/dicom+xml"; boundary="')
    assert several.content.count(b"<NativeDicomModel") == 1
    assert worklist.send("GET", f"/workitems/{uid}?accept=application/dicom%2Bxml").text.startswith("<?xml")
    assert worklist.send("GET", f"/workitems/{uid}", headers={"accept": "image/png"}).status_code == 406


def test_what_is_not_there_is_not_found_and_what_is_no_uid_is_bad(worklist: Worklist) -> None:
    for method, rest, body in (
        ("GET", "", None),
        ("POST", "", elements(ProcedureStepLabel="x")),
        ("PUT", "/state", elements(ProcedureStepState="IN PROGRESS", TransactionUID="1.2")),
        ("PUT", "/state", elements(ProcedureStepState="COMPLETED", TransactionUID="1.2")),
        ("PUT", "/state", elements(ProcedureStepState="COMPLETED")),
        ("POST", "/cancelrequest", None),
        ("POST", "/subscribers/ME", None),
        ("DELETE", "/subscribers/ME", None),
    ):
        assert worklist.send(method, f"/workitems/1.2.3{rest}", body).status_code == 404, (method, rest)
        assert worklist.send(method, f"/workitems/abc{rest}", body).status_code == 400, (method, rest)


def test_a_wrong_method_is_told_which_are_right(worklist: Worklist) -> None:
    answer = worklist.send("DELETE", "/workitems/1.2.3")
    assert answer.status_code == 405
    assert {"GET", "POST"} <= {method.strip() for method in answer.headers["allow"].split(",")}


# -- claiming, updating, ending


def test_who_claims_first_has_it(worklist: Worklist) -> None:
    uid = worklist.create()
    transaction = worklist.claim(uid)
    assert worklist.state(uid) == "IN PROGRESS"
    assert TRANSACTION not in worklist.get(uid)
    second = worklist.change(uid, "IN PROGRESS", new_uid())
    assert second.status_code == 409
    assert "The Transaction UID is incorrect." in second.headers["warning"]
    again = worklist.change(uid, "IN PROGRESS", transaction)
    assert again.status_code == 409
    assert "inconsistent with the state" in again.headers["warning"]


def test_a_step_is_claimed_updated_and_completed_by_its_transaction_uid(worklist: Worklist) -> None:
    uid = worklist.create()
    transaction = worklist.claim(uid)
    progress = elements(ProcedureStepProgress=50, ProcedureStepProgressDescription="half of it")
    update = worklist.send(
        "POST", f"/workitems/{uid}?{transaction}", elements(ProcedureStepProgressInformationSequence=[progress])
    )
    assert (update.status_code, update.content) == (200, b"")
    assert worklist.send("POST", f"/workitems/{uid}?transaction-uid={transaction}", finished()).status_code == 200
    assert worklist.change(uid, "COMPLETED", transaction).status_code == 200
    dataset = worklist.get(uid)
    assert said(dataset, "ProcedureStepState") == "COMPLETED"
    assert first(items(dataset, "ProcedureStepProgressInformationSequence")[0], "ProcedureStepProgress") == 50


@pytest.mark.parametrize(("given", "warning"), [("", "is missing"), ("?1.2.3", "is incorrect")])
def test_an_update_without_the_right_transaction_uid_is_refused(worklist: Worklist, given: str, warning: str) -> None:
    uid = worklist.create()
    worklist.claim(uid)
    answer = worklist.send("POST", f"/workitems/{uid}{given}", elements(ProcedureStepLabel="other"))
    assert answer.status_code == 409
    assert f"The Transaction UID {warning}." in answer.headers["warning"]
    assert said(worklist.get(uid), "ProcedureStepLabel") == "Read the chest"


def test_the_transaction_uid_of_an_update_may_be_in_the_data_set_and_is_not_kept(worklist: Worklist) -> None:
    uid = worklist.create()
    transaction = worklist.claim(uid)
    changes = elements(ProcedureStepLabel="other", TransactionUID=transaction)
    assert worklist.send("POST", f"/workitems/{uid}", changes).status_code == 200
    assert TRANSACTION not in worklist.get(uid)
    assert worklist.change(uid, "IN PROGRESS", transaction).status_code == 409


def test_an_item_that_nobody_claimed_is_updated_without_a_transaction_uid(worklist: Worklist) -> None:
    uid = worklist.create()
    assert worklist.send("POST", f"/workitems/{uid}", elements(WorklistLabel="Night")).status_code == 200
    assert said(worklist.get(uid), "WorklistLabel") == "Night"
    claimed = worklist.send("POST", f"/workitems/{uid}?1.2.3", elements(WorklistLabel="Day"))
    assert claimed.status_code == 409
    assert "did not reference a claimed Workitem" in claimed.headers["warning"]


@pytest.mark.parametrize(
    "changes",
    [
        elements(PatientName="Roe"),
        elements(ProcedureStepState="COMPLETED"),
        elements(SOPInstanceUID="1.2"),
        elements(ReferencedRequestSequence=None),
        elements(ProcedureStepLabel=None),
        elements(InputReadinessState="SOON"),
    ],
)
def test_an_update_names_what_it_may_not_change(worklist: Worklist, changes: dict[str, Any]) -> None:
    uid = worklist.create()
    answer = worklist.send("POST", f"/workitems/{uid}", changes)
    assert answer.status_code == 400
    assert any(keyword in answer.json()["detail"] for keyword in ("cannot be", "must have", "must be"))


def test_completing_needs_the_final_state_attributes_and_names_those_missing(worklist: Worklist) -> None:
    uid = worklist.create()
    transaction = worklist.claim(uid)
    answer = worklist.change(uid, "COMPLETED", transaction)
    assert answer.status_code == 409
    assert "UnifiedProcedureStepPerformedProcedureSequence" in answer.json()["detail"]
    partly = finished()
    del partly[tag("UnifiedProcedureStepPerformedProcedureSequence")]["Value"][0][tag("OutputInformationSequence")]
    worklist.send("POST", f"/workitems/{uid}?{transaction}", partly)
    answer = worklist.change(uid, "COMPLETED", transaction)
    assert answer.status_code == 409
    assert "OutputInformationSequence" in answer.json()["detail"]
    assert worklist.state(uid) == "IN PROGRESS"


def test_the_performer_cancels_with_nothing_more_and_time_and_reason_are_filled_in(worklist: Worklist) -> None:
    uid = worklist.create()
    transaction = worklist.claim(uid)
    assert worklist.change(uid, "CANCELED", transaction).status_code == 200
    (progress,) = items(worklist.get(uid), "ProcedureStepProgressInformationSequence")
    assert said(progress, "ProcedureStepCancellationDateTime")
    (reason,) = items(progress, "ProcedureStepDiscontinuationReasonCodeSequence")
    assert said(reason, "CodeValue") == "110513"


def test_what_the_performer_said_of_a_cancellation_is_kept(worklist: Worklist) -> None:
    uid = worklist.create()
    transaction = worklist.claim(uid)
    why = code("110510", "DCM", "Duplicate order")
    progress = elements(
        ReasonForCancellation="twice", ProcedureStepDiscontinuationReasonCodeSequence=[why], ProcedureStepProgress=10
    )
    changes = elements(ProcedureStepProgressInformationSequence=[progress])
    worklist.send("POST", f"/workitems/{uid}?{transaction}", changes)
    worklist.change(uid, "CANCELED", transaction)
    (kept,) = items(worklist.get(uid), "ProcedureStepProgressInformationSequence")
    assert (said(kept, "ReasonForCancellation"), first(kept, "ProcedureStepProgress")) == ("twice", 10)
    assert items(kept, "ProcedureStepDiscontinuationReasonCodeSequence") == [why]


#: PS3.4 Table CC.1.1-2: from a state, to a state, with the right Transaction UID: the status, and the Warning.
TABLE = [
    ("SCHEDULED", "COMPLETED", 409, "inconsistent"),
    ("SCHEDULED", "CANCELED", 409, "inconsistent"),
    ("IN PROGRESS", "IN PROGRESS", 409, "inconsistent"),
    ("COMPLETED", "IN PROGRESS", 409, "inconsistent"),
    ("COMPLETED", "COMPLETED", 200, "already in the requested state of COMPLETED"),
    ("COMPLETED", "CANCELED", 409, "inconsistent"),
    ("CANCELED", "IN PROGRESS", 409, "inconsistent"),
    ("CANCELED", "COMPLETED", 409, "inconsistent"),
    ("CANCELED", "CANCELED", 200, "already in the requested state of CANCELED"),
]


def in_state(worklist: Worklist, state: str) -> tuple[str, str]:
    """A work item in a state, and its Transaction UID."""
    uid, transaction = worklist.create(), new_uid()
    if state != "SCHEDULED":
        transaction = worklist.claim(uid)
        worklist.send("POST", f"/workitems/{uid}?{transaction}", finished())
    if state in ("COMPLETED", "CANCELED"):
        assert worklist.change(uid, state, transaction).status_code == 200
    assert worklist.state(uid) == state
    return uid, transaction


@pytest.mark.parametrize(("before", "wanted", "status", "warning"), TABLE)
def test_every_transition_is_answered_as_the_table_has_it(
    worklist: Worklist, before: str, wanted: str, status: int, warning: str
) -> None:
    uid, transaction = in_state(worklist, before)
    answer = worklist.change(uid, wanted, transaction)
    assert answer.status_code == status
    assert warning in answer.headers["warning"]
    assert worklist.state(uid) == before


@pytest.mark.parametrize("before", ["IN PROGRESS", "COMPLETED", "CANCELED"])
@pytest.mark.parametrize("wanted", ["COMPLETED", "CANCELED"])
def test_ending_without_the_right_transaction_uid_is_refused(worklist: Worklist, before: str, wanted: str) -> None:
    uid, _ = in_state(worklist, before)
    wrong = worklist.change(uid, wanted, new_uid())
    assert (wrong.status_code, "The Transaction UID is incorrect." in wrong.headers["warning"]) == (409, True)
    missing = worklist.change(uid, wanted)
    assert (missing.status_code, "The Transaction UID is missing." in missing.headers["warning"]) == (400, True)
    assert worklist.state(uid) == before


@pytest.mark.parametrize("state", ["COMPLETED", "CANCELED"])
def test_a_final_item_is_updated_by_nobody(worklist: Worklist, state: str) -> None:
    uid, transaction = in_state(worklist, state)
    answer = worklist.send("POST", f"/workitems/{uid}?{transaction}", elements(ProcedureStepLabel="other"))
    assert (answer.status_code, "inconsistent" in answer.headers["warning"]) == (409, True)


@pytest.mark.parametrize("state", ["SCHEDULED", "DONE", ""])
def test_a_state_that_cannot_be_asked_for_is_bad(worklist: Worklist, state: str) -> None:
    uid = worklist.create()
    assert worklist.change(uid, state, "1.2.3").status_code == 400


# -- requests to cancel


def test_a_request_to_cancel_what_waits_cancels_it(worklist: Worklist) -> None:
    uid = worklist.create()
    given = elements(
        ReasonForCancellation="ordered twice",
        ProcedureStepDiscontinuationReasonCodeSequence=[code("110510", "DCM", "Duplicate order")],
    )
    answer = worklist.send("POST", f"/workitems/{uid}/cancelrequest", given)
    assert answer.status_code == 202
    dataset = worklist.get(uid)
    (progress,) = items(dataset, "ProcedureStepProgressInformationSequence")
    assert (said(dataset, "ProcedureStepState"), said(progress, "ReasonForCancellation")) == (
        "CANCELED",
        "ordered twice",
    )
    again = worklist.send("POST", f"/workitems/{uid}/cancelrequest")
    assert again.status_code == 202
    assert "already in the requested state of CANCELED" in again.headers["warning"]


def test_a_request_to_cancel_that_nobody_would_hear_is_refused(worklist: Worklist) -> None:
    uid, _ = in_state(worklist, "IN PROGRESS")
    answer = worklist.send("POST", f"/workitems/{uid}/cancelrequest")
    assert (answer.status_code, "cannot be contacted" in answer.headers["warning"]) == (409, True)
    worklist.send("POST", f"/workitems/{uid}/subscribers/READER")
    assert worklist.send("POST", f"/workitems/{uid}/cancelrequest").status_code == 202
    assert worklist.state(uid) == "IN PROGRESS"


def test_who_hears_through_a_filter_is_reached(worklist: Worklist) -> None:
    worklist.send("POST", "/workitems/1.2.840.10008.5.1.4.34.5.1/subscribers/READER?WorklistLabel=Readers")
    uid, _ = in_state(worklist, "IN PROGRESS")
    assert worklist.send("POST", f"/workitems/{uid}/cancelrequest").status_code == 202


def test_a_request_to_cancel_what_is_completed_is_refused(worklist: Worklist) -> None:
    uid, _ = in_state(worklist, "COMPLETED")
    answer = worklist.send("POST", f"/workitems/{uid}/cancelrequest")
    assert (answer.status_code, "already COMPLETED" in answer.headers["warning"]) == (409, True)


# -- jobs are work items


def test_a_job_is_a_work_item_under_its_uid_all_its_life(worklist: Worklist) -> None:
    ledger = worklist.ledger
    job = ledger.get(ledgers.schedule(ledger, model="liver", priority=Priority.HIGH, rule="ct abdomen"))
    dataset = worklist.get(job.job_uid)
    assert said(dataset, "ProcedureStepState") == "SCHEDULED"
    assert said(dataset, "ScheduledProcedureStepPriority") == "HIGH"
    assert said(dataset, "StudyInstanceUID") == job.study_instance_uid
    (workitem,) = items(dataset, "ScheduledWorkitemCodeSequence")
    assert (said(workitem, "CodeValue"), said(workitem, "CodingSchemeDesignator")) == ("liver", "99IMAGINGAI")
    (station,) = items(dataset, "ScheduledStationNameCodeSequence")
    assert said(station, "CodeValue") == AE_TITLE
    parameter = items(dataset, "ScheduledProcessingParametersSequence")[0]
    assert said(items(parameter, "ConceptNameCodeSequence")[0], "CodeValue") == ALGORITHM_NAME[0]
    running = ledgers.claim(ledger)
    ledger.progress(running.id, running.attempt, 40, Stage.INFER)
    dataset = worklist.get(job.job_uid)
    (progress,) = items(dataset, "ProcedureStepProgressInformationSequence")
    assert (said(dataset, "ProcedureStepState"), first(progress, "ProcedureStepProgress")) == ("IN PROGRESS", 40)
    ledgers.complete(ledger, running)
    dataset = worklist.get(job.job_uid)
    (performed,) = items(dataset, "UnifiedProcedureStepPerformedProcedureSequence")
    assert said(dataset, "ProcedureStepState") == "COMPLETED"
    assert said(performed, "PerformedProcedureStepEndDateTime")


def test_a_job_that_waits_for_another_attempt_is_in_progress(worklist: Worklist) -> None:
    ledger = worklist.ledger
    ledgers.schedule(ledger)
    job = ledgers.claim(ledger)
    ledger.fail(job.id, job.attempt, Failure(Stage.INFER, "model-out-of-memory", "no memory", permanent=False))
    assert ledger.get(job.id).state is JobState.SCHEDULED
    assert worklist.state(job.job_uid) == "IN PROGRESS"
    assert worklist.search("ProcedureStepState=IN PROGRESS") == [job.job_uid]
    assert worklist.search("ProcedureStepState=SCHEDULED") == []


def test_a_job_that_failed_is_canceled_with_the_reason(worklist: Worklist) -> None:
    ledger = worklist.ledger
    ledgers.schedule(ledger)
    job = ledgers.claim(ledger)
    ledger.fail(job.id, job.attempt, Failure(Stage.READ, "no-geometry", "no positions", permanent=True))
    (progress,) = items(worklist.get(job.job_uid), "ProcedureStepProgressInformationSequence")
    assert said(progress, "ReasonForCancellation") == "no positions"
    (reason,) = items(progress, "ProcedureStepDiscontinuationReasonCodeSequence")
    assert said(reason, "CodeMeaning") == "Object Types not supported"


def test_nobody_else_claims_ends_or_changes_our_job(worklist: Worklist) -> None:
    job = worklist.ledger.get(ledgers.schedule(worklist.ledger))
    for answer in (
        worklist.change(job.job_uid, "IN PROGRESS", "1.2.3"),
        worklist.change(job.job_uid, "COMPLETED", "1.2.3"),
        worklist.send("POST", f"/workitems/{job.job_uid}", elements(ProcedureStepLabel="x")),
    ):
        assert answer.status_code == 409
        assert "inconsistent" in answer.headers["warning"]
    assert worklist.ledger.get(job.id) == job


def test_a_request_to_cancel_a_job_that_waits_cancels_it(worklist: Worklist) -> None:
    job = worklist.ledger.get(ledgers.schedule(worklist.ledger))
    answer = worklist.send(
        "POST", f"/workitems/{job.job_uid}/cancelrequest", elements(ReasonForCancellation="not needed")
    )
    assert answer.status_code == 202
    now = worklist.ledger.get(job.id)
    assert now.state is JobState.CANCELED
    assert now.failure is not None
    assert now.failure.reason == "not needed"
    assert worklist.state(job.job_uid) == "CANCELED"


def test_a_request_to_cancel_a_job_that_runs_asks_its_worker_to_stop(worklist: Worklist) -> None:
    ledgers.schedule(worklist.ledger)
    job = ledgers.claim(worklist.ledger)
    assert worklist.send("POST", f"/workitems/{job.job_uid}/cancelrequest").status_code == 202
    assert worklist.ledger.get(job.id).cancel_requested
    assert worklist.audited(job.job_uid) == ["job.schedule", "job.cancel"]
    worklist.ledger.stopped(job.id, job.attempt)
    assert worklist.state(job.job_uid) == "CANCELED"


def test_a_note_why_nothing_ran_is_no_work_item(worklist: Worklist) -> None:
    ledger = worklist.ledger
    with ledger.database.write() as session:
        noted = ledger.note(
            session, ledgers.request(model=""), Failure(Stage.ROUTE, "no-rule-matched", "none", permanent=True)
        )
    assert noted is not None
    assert worklist.send("GET", f"/workitems/{ledger.get(noted).job_uid}").status_code == 404
    assert worklist.search() == []


# -- what a model of ours is asked for


def install(worklist: Worklist, tmp_path: Path, name: str = "liver") -> None:
    folder = tmp_path / "models" / name / "configs"
    folder.mkdir(parents=True)
    (folder / "inference.json").write_text("{}")


def test_a_work_item_for_a_model_of_ours_is_ours_and_waits_for_its_inputs(worklist: Worklist, tmp_path: Path) -> None:
    install(worklist, tmp_path)
    answer = worklist.send("POST", "/workitems?2.25.4", model_item("liver", "1.2", "1.2.1"))
    assert answer.status_code == 201
    assert "created with modifications" in answer.headers["warning"]
    assert said(worklist.get("2.25.4"), "InputReadinessState") == "UNAVAILABLE"
    assert worklist.change("2.25.4", "IN PROGRESS", "1.2.3").status_code == 409
    assert worklist.send("POST", "/workitems/2.25.4/cancelrequest").status_code == 202
    assert worklist.state("2.25.4") == "CANCELED"


def test_a_work_item_for_another_station_is_not_ours(worklist: Worklist, tmp_path: Path) -> None:
    install(worklist, tmp_path)
    other = code("OTHER", "99TEST", "Other")
    body = model_item("liver", "1.2", "1.2.1", ScheduledStationNameCodeSequence=[other])
    worklist.send("POST", "/workitems?2.25.4", body)
    assert worklist.change("2.25.4", "IN PROGRESS", "1.2.3").status_code == 200


def test_a_model_can_be_named_by_a_processing_parameter(worklist: Worklist, tmp_path: Path) -> None:
    install(worklist, tmp_path)
    parameter = elements(ValueType="TEXT", ConceptNameCodeSequence=[code(*ALGORITHM_NAME)], TextValue="liver")
    body = model_item("liver", "1.2", "1.2.1", ScheduledProcessingParametersSequence=[parameter])
    del body[tag("ScheduledWorkitemCodeSequence")]
    worklist.send("POST", "/workitems?2.25.4", body)
    assert worklist.change("2.25.4", "IN PROGRESS", "1.2.3").status_code == 409


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (model_item("kidney", "1.2", "1.2.1"), "ScheduledWorkitemCodeSequence"),
        (model_item("liver", "1.2"), "InputInformationSequence"),
        (model_item("liver", "1.2", ""), "SeriesInstanceUID"),
        (model_item("liver", "", "1.2.1"), "StudyInstanceUID"),
    ],
)
def test_a_work_item_that_no_model_of_ours_could_do_is_refused(
    worklist: Worklist, tmp_path: Path, body: dict[str, Any], named: str
) -> None:
    install(worklist, tmp_path)
    answer = worklist.send("POST", "/workitems", body)
    assert answer.status_code == 400
    assert named in answer.json()["detail"]


# -- bodies


def test_a_work_item_can_come_as_xml_alone_or_in_a_part(worklist: Worklist) -> None:
    xml = to_xml(new_item())
    alone = worklist.send("POST", "/workitems?2.25.1", xml, headers={"content-type": "application/dicom+xml"})
    assert alone.status_code == 201, alone.text
    part = b"--x\r\nContent-Type: application/dicom+xml\r\n\r\n" + xml + b"\r\n--x--\r\n"
    kind = 'multipart/related; type="application/dicom+xml"; boundary=x'
    inside = worklist.send("POST", "/workitems?2.25.2", part, headers={"content-type": kind})
    assert inside.status_code == 201, inside.text
    one, other = worklist.get("2.25.1"), worklist.get("2.25.2")
    assert said(one, "ProcedureStepLabel") == said(other, "ProcedureStepLabel") == "Read the chest"
    assert first(one, "PatientName") == {"Alphabetic": "Doe^Jane"}


def test_a_list_of_one_is_one(worklist: Worklist) -> None:
    assert worklist.send("POST", "/workitems", [new_item()]).status_code == 201
    assert worklist.send("POST", "/workitems", [new_item(), new_item()]).status_code == 400


DEEP = b'{"00400000":' * 100_000
NESTED: dict[str, Any] = {}
for _ in range(20):
    NESTED = {"00404021": {"vr": "SQ", "Value": [NESTED]}}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"7", 400),
        (b"null", 400),
        (b'"\xff"', 400),
        (DEEP, 400),
        (b"[" * 1_000_000, 400),
        (json.dumps(NESTED).encode(), 400),
        (b'{"0074100": {"vr": "CS"}}', 400),
        (b'{"00741000": "SCHEDULED"}', 400),
        (b'{"00741000": {"vr": "XX", "Value": ["SCHEDULED"]}}', 400),
        (b'{"00741000": {"vr": "LO", "Value": ["SCHEDULED"]}}', 400),
        (b'{"00741000": {"vr": "CS", "Value": "SCHEDULED"}}', 400),
        (b'{"00741000": {"vr": "CS", "Value": [1]}}', 400),
        (b'{"00741000": {"vr": "CS", "Value": ["scheduled"]}}', 400),
        (b'{"00404021": {"vr": "SQ", "Value": ["x"]}}', 400),
        (b'{"00404005": {"vr": "DT", "Value": ["tomorrow"]}}', 400),
        (b'{"00741004": {"vr": "DS", "Value": [{}]}}', 400),
        (b'{"00741004": {"vr": "DS", "Value": ["1e999"]}}', 400),
        (b'{"00100010": {"vr": "PN", "Value": [{"Alphabetic": 7}]}}', 400),
        (b'{"00100010": {"vr": "PN", "Value": [{"Alphabetic": "a\\u0000b"}]}}', 400),
        (b'{"00741204": {"vr": "LO", "BulkDataURI": "http://x/"}}', 400),
        (b'{"00741204": {"vr": "LO", "Value": ["\\ud800"]}}', 400),
        (b" " * (5 << 20), 413),
    ],
)
def test_a_body_that_is_no_work_item_is_refused_and_told_why(worklist: Worklist, body: bytes, status: int) -> None:
    for path in ("/workitems", f"/workitems/{worklist.create()}"):
        answer = worklist.send("POST", path, body)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("kind", ["text/plain", "image/png", "application/dicom", ""])
def test_a_body_of_another_kind_is_refused(worklist: Worklist, kind: str) -> None:
    answer = worklist.send("POST", "/workitems", b"hello", headers={"content-type": kind})
    assert answer.status_code == 415


def test_an_entity_bomb_is_refused(worklist: Worklist) -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><NativeDicomModel>&a;</NativeDicomModel>'
    answer = worklist.send("POST", "/workitems", bomb, headers={"content-type": "application/dicom+xml"})
    assert answer.status_code == 400


# -- the trail


def test_what_is_done_to_a_work_item_leaves_audit_events(worklist: Worklist) -> None:
    uid, transaction = in_state(worklist, "COMPLETED")
    worklist.get(uid)
    done = worklist.audited(uid)
    assert done[:4] == ["workitem.create", "workitem.state", "workitem.update", "workitem.state"]
    assert "read-workitem" in done
    assert transaction not in str(done)
    other = worklist.create()
    worklist.send("POST", f"/workitems/{other}/cancelrequest")
    assert worklist.audited(other) == ["workitem.create", "workitem.cancel-request"]
