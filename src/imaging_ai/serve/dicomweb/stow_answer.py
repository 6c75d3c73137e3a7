"""The Store Instances Response (PS3.18 10.5.3, annex I)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imaging_ai.serve.dicomweb.stow_intake import Outcome

__all__ = ["store_response", "store_status"]

_RETRIEVE_URL, _WARNING_REASON = "00081190", "00081196"
_FAILURE_REASON, _FAILED_SOPS, _REFERENCED_SOPS, _OTHER_FAILURES = "00081197", "00081198", "00081199", "0008119A"
_SOP_CLASS, _SOP_INSTANCE = "00081150", "00081155"

Json = dict[str, Any]


def store_status(outcomes: Sequence[Outcome]) -> int:
    """Return the HTTP status: all stored, some, or none (table 10.5.3-1)."""
    failed = sum(one.error is not None for one in outcomes)
    return 200 if not failed else 202 if failed < len(outcomes) else 409


def store_response(outcomes: Sequence[Outcome], base_url: str, study: str | None) -> Json:
    """Return the response module in DICOM JSON (table I.1-1). `study` is the one that was posted to, if any."""
    stored = [one for one in outcomes if one.error is None]
    studies = {one.study_instance_uid for one in stored} or ({study} if study else set())
    response: Json = {_RETRIEVE_URL: _element("UR", f"{base_url}/studies/{min(studies)}" if len(studies) == 1 else "")}
    lists = {
        _FAILED_SOPS: [_reference(one) | _reason(one) for one in outcomes if one.error and one.sop_instance_uid],
        _REFERENCED_SOPS: [_reference(one) | {_RETRIEVE_URL: _element("UR", _url(base_url, one))} for one in stored],
        _OTHER_FAILURES: [_reason(one) for one in outcomes if one.error and not one.sop_instance_uid],
    }
    return response | {tag: {"vr": "SQ", "Value": items} for tag, items in lists.items() if items}


def _reference(one: Outcome) -> Json:
    return {_SOP_CLASS: _element("UI", one.sop_class_uid), _SOP_INSTANCE: _element("UI", one.sop_instance_uid)}


def _reason(one: Outcome) -> Json:
    return {_FAILURE_REASON: {"vr": "US", "Value": [one.error.dimse_status if one.error else 0]}}


def _url(base_url: str, one: Outcome) -> str:
    uids = one.study_instance_uid, one.series_instance_uid, one.sop_instance_uid
    return "{}/studies/{}/series/{}/instances/{}".format(base_url, *uids)


def _element(vr: str, value: str) -> Json:
    return {"vr": vr, "Value": [value]} if value else {"vr": vr}
