"""The Native DICOM Model says in XML what DICOM JSON says, and reading it lets no XML trick through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from imaging_ai.archive.document import make_document, reader_of
from imaging_ai.errors import InputError
from imaging_ai.serve.dicomweb.native import NAMESPACE, from_xml, to_xml


def document(inner: str) -> bytes:
    return f'<?xml version="1.0"?><NativeDicomModel xmlns="{NAMESPACE}">{inner}</NativeDicomModel>'.encode()


def test_every_real_data_set_comes_back_from_xml_as_it_went(real_data: Path) -> None:
    checked = 0
    for path in sorted((real_data / "syntaxes").glob("*.dcm"))[:40]:
        data = path.read_bytes()
        try:
            ds = dcmread(path, force=True)
            elements = json.loads(make_document(reader_of(data), len(data), str(ds.SOPInstanceUID)).json)
        except (InputError, AttributeError):
            continue
        assert _plain(from_xml(to_xml(elements))) == _plain(elements), path.name
        checked += 1
    assert checked > 10


def test_names_keep_their_components_and_groups() -> None:
    name = {"Alphabetic": "Yamada^Tarou^^Dr", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}
    xml = to_xml({"00100010": {"vr": "PN", "Value": [name]}})
    assert "<FamilyName>山田</FamilyName>" in xml.decode()
    assert '<DicomAttribute tag="00100010" vr="PN" keyword="PatientName">' in xml.decode()
    assert from_xml(xml) == {"00100010": {"vr": "PN", "Value": [name]}}


def test_private_attributes_are_written_by_their_creator_and_find_their_block_again() -> None:
    elements = {
        "00090010": {"vr": "LO", "Value": ["ACME 1"]},
        "00090011": {"vr": "LO", "Value": ["ACME 2"]},
        "00091101": {"vr": "SH", "Value": ["x"]},
    }
    xml = to_xml(elements).decode()
    assert '<DicomAttribute tag="00090001" vr="SH" privateCreator="ACME 2">' in xml
    assert from_xml(xml.encode()) == elements


def test_empty_values_keep_their_place() -> None:
    elements = {"00080008": {"vr": "CS", "Value": ["ORIGINAL", None, "AXIAL"]}, "00080050": {"vr": "SH"}}
    assert from_xml(to_xml(elements)) == elements


def test_items_and_bulk_data_nest() -> None:
    inner = {"00091001": {"vr": "UN", "BulkDataURI": "http://x/b?a=1&b=2"}, "00080060": {"vr": "CS", "Value": ["CT"]}}
    elements = {"00081115": {"vr": "SQ", "Value": [inner, {}]}, "00282000": {"vr": "OB", "InlineBinary": "AAEC"}}
    assert from_xml(to_xml(elements)) == elements


def test_a_reader_that_is_not_ours_understands_it() -> None:
    ds = Dataset()
    ds.PatientName, ds.StudyDescription, ds.Rows = "Müller^Jürgen", "<a> & \"b\" 'c'", 512
    read = from_xml(to_xml(ds.to_json_dict()))
    assert Dataset.from_json(read) == ds


def test_characters_that_xml_cannot_hold_do_not_break_it() -> None:
    xml = to_xml({"00104000": {"vr": "LT", "Value": ["a\0b\x0bc\r\nd\ufffe"]}})
    assert from_xml(xml)["00104000"]["Value"] == ["a b c\r\nd "]


_BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><NativeDicomModel>&b;</NativeDicomModel>'
_OUTSIDE = b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><NativeDicomModel/>'


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (_BOMB, "entities"),
        (_OUTSIDE, "document type"),
        (b"", "well-formed"),
        (b"<html/>", "html"),
        (b"<NativeDicomModel>", "well-formed"),
        (document("<Value/>"), "<Value>"),
        (document('<DicomAttribute tag="zz" vr="CS"/>'), "hexadecimal"),
        (document('<DicomAttribute tag="00080060" vr="XX"/>'), "VR"),
        (document('<DicomAttribute tag="00280010" vr="US"><Value number="1">x</Value></DicomAttribute>'), "number"),
        (document('<DicomAttribute tag="00280010" vr="US"><Value number="0">1</Value></DicomAttribute>'), "positive"),
        (document('<DicomAttribute tag="00280010" vr="US"><Value number="99999999">1</Value></DicomAttribute>'), "far"),
        (document('<DicomAttribute tag="00080060" vr="CS"/>' * 2), "twice"),
        (document('<DicomAttribute tag="00081115" vr="SQ"><Item number="1">' * 100), "deep"),
        (document('<DicomAttribute tag="00080001" vr="CS" privateCreator="A"/>'), "even group"),
        (document('<DicomAttribute tag="00080060" vr="CS"><Value number="1"><Evil/></Value></DicomAttribute>'), "Evil"),
    ],
)  # fmt: skip
def test_what_is_no_native_model_is_refused_and_named(data: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        from_xml(data)


def _plain(elements: dict[str, Any]) -> dict[str, Any]:
    """Without what XML cannot say: control characters, numbers' kinds, trailing carets of names."""
    return json.loads(json.dumps(elements), parse_float=float, parse_int=float, object_hook=_tidied)


def _tidied(value: dict[str, Any]) -> dict[str, Any]:
    groups = ("Alphabetic", "Ideographic", "Phonetic")
    tidied = {key: one.rstrip("^") if key in groups else one for key, one in value.items()}
    values = tidied.get("Value", [None])
    while values and values[-1] is None:
        values.pop()
    if not values:
        tidied.pop("Value", None)
    return tidied
