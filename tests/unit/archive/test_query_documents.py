"""Keys and returned attributes inside data sets."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from imaging_ai.archive.query_attributes import path_of
from imaging_ai.archive.query_documents import cut, grow, holds, top_level
from imaging_ai.archive.query_values import Matching, criterion_of

CREATOR = {"vr": "LO", "Value": ["ACME"]}


def item(procedure: str, step: str) -> dict[str, Any]:
    return {"00400009": {"vr": "SH", "Value": [step]}, "00401001": {"vr": "SH", "Value": [procedure]}}


DATA = {
    "00080060": {"vr": "CS", "Value": ["CT"]},
    "00091001": {"vr": "LO", "Value": ["of another"]},
    "00090010": {"vr": "LO", "Value": ["OTHER"]},
    "00090011": CREATOR,
    "00091101": {"vr": "LO", "Value": ["ours"]},
    "00400275": {"vr": "SQ", "Value": [item("RP1", "S1"), item("RP2", "S2"), {}]},
    "00081140": {"vr": "SQ"},
}
ELEMENTS = msgspec.json.decode(json.dumps(DATA), type=dict[str, msgspec.Raw])


def path(text: str) -> tuple[str, ...]:
    found = path_of(text)
    assert found
    return found


def found(keys: dict[str, str], returned: tuple[str, ...] = (), creators: dict[str, str] | None = None) -> Any:
    """What a search cuts out of the data set, None where it does not match."""
    criteria = []
    for name, value in keys.items():
        criterion = criterion_of(name, "SH", value, Matching())
        assert criterion
        criteria.append((path(name), criterion))
    tree = grow(criteria, map(path, returned))
    if not holds(tree, ELEMENTS, creators or {}):
        return None
    return {tag: json.loads(element) for tag, element in cut(tree, ELEMENTS, creators or {}).items()}


SEQUENCE, STEP = "RequestAttributesSequence", "RequestAttributesSequence.ScheduledProcedureStepID"


def test_a_key_in_a_sequence_returns_the_items_that_meet_it() -> None:
    assert found({"00400275.00401001": "RP2"}) == {
        "00400275": {"vr": "SQ", "Value": [{"00401001": {"vr": "SH", "Value": ["RP2"]}}]}
    }


def test_all_keys_of_a_sequence_hold_in_the_same_item() -> None:
    procedure = f"{SEQUENCE}.RequestedProcedureID"
    assert found({procedure: "RP1", STEP: "S1"})
    assert found({procedure: "RP1", STEP: "S2"}) is None


def test_a_sequence_that_is_asked_for_is_returned_whole() -> None:
    assert found({STEP: "S1"}, (SEQUENCE,)) == {"00400275": DATA["00400275"]}


def test_only_what_is_asked_for_is_returned_of_items() -> None:
    assert found({}, (STEP,))["00400275"]["Value"] == [
        {"00400009": {"vr": "SH", "Value": ["S1"]}},
        {"00400009": {"vr": "SH", "Value": ["S2"]}},
        {},
    ]


def test_what_a_data_set_lacks_is_neither_met_nor_returned() -> None:
    assert found({"StudyComments": "x"}) is None
    assert found({"ReferencedImageSequence.ReferencedSOPInstanceUID": "1.2"}) is None
    assert found({}, ("StudyComments", "ReferencedImageSequence")) == {"00081140": {"vr": "SQ"}}


def test_a_private_attribute_comes_with_its_creator() -> None:
    assert found({}, ("00091101",)) == {"00090011": CREATOR, "00091101": DATA["00091101"]}
    assert found({}, ("00091001",)) == {"00090010": DATA["00090010"], "00091001": DATA["00091001"]}


def test_a_private_attribute_is_found_in_the_block_of_its_creator() -> None:
    ours = {"00090010": CREATOR, "00091001": DATA["00091101"]}
    assert found({}, ("00091001",), {"00090010": "ACME"}) == ours
    assert found({"00091001": "ours"}, (), {"00090010": "ACME"}) == ours
    assert found({"00091001": "ours"}) is None
    assert found({}, ("00091001",), {"00090010": "NOBODY"}) == {}


def test_a_tree_needs_its_attributes_and_all_of_private_groups() -> None:
    needed = top_level(grow((), [path("00091001"), path(SEQUENCE)]))
    assert needed("00400275") and needed("00090011") and not needed("00080060")


def test_names_of_attributes_are_keywords_or_tags() -> None:
    assert path_of("PatientID") == path_of("00100020") == ("00100020",)
    assert path_of("00400275.RequestedProcedureID") == ("00400275", "00401001")
    assert path_of("0008103e") == ("0008103E",)
    for text in ("", "patientid", "Nonsense", "0010", "00100020.00100020", "PatientID.", "00020010", "x" * 10_000):
        assert path_of(text) is None, text
    assert path_of(".".join(["00400275"] * 9)) is None
