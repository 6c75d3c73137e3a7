"""Reports as pages and as text: everything said, nothing run."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import encoded
from imaging_ai.render.report import as_html, as_text, is_report
from rendering import source_of


def code(meaning: str) -> dict[str, Any]:
    return {"vr": "SQ", "Value": [{"00080104": {"vr": "LO", "Value": [meaning]}}]}


def item(kind: str, name: str = "", **elements: Any) -> dict[str, Any]:
    """Make a content item in DICOM JSON."""
    made = {"0040A040": {"vr": "CS", "Value": [kind]}}
    if name:
        made["0040A043"] = code(name)
    return made | {f"{tag[1:]}": {"vr": "UN", "Value": value} for tag, value in elements.items()}


def report(*content: dict[str, Any]) -> dict[str, Any]:
    return item("CONTAINER", "Report") | {"0040A730": {"vr": "SQ", "Value": list(content)}}


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_our_own_report_tells_its_findings_in_both_forms() -> None:
    volume = encoded.phantom_volume()
    elements = source_of(encoded.encode(volume)["SR"].data).elements
    assert is_report(elements)
    page, plain = Page(as_html(elements)).text, as_text(elements).decode()
    for said in ("Imaging Measurement Report", "Volume"):
        assert said in page and said in plain, said


def test_each_kind_of_content_says_its_value() -> None:
    measured = {
        "0040A30A": {"vr": "DS", "Value": [12.5]},
        "004008EA": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["mm"]}}]},
    }
    reference = {"00081155": {"vr": "UI", "Value": ["1.2.3"]}, "00081160": {"vr": "IS", "Value": [4, 5]}}
    elements = report(
        item("TEXT", "Comment", _0040A160=["all well"]),
        item("NUM", "Diameter", _0040A300=[measured]),
        item("NUM", "Missing"),
        item("PNAME", "Reader", _0040A123=[{"Alphabetic": "Doe^Jane"}]),
        item("DATE", "Day", _0040A121=["20240102"]),
        item("IMAGE", "", _00081199=[reference]),
        item("SCOORD", "Outline", _00700023=["POLYLINE"], _00700022=[1, 2, 3, 4]),
        item("CONTAINER", "Inner") | {"0040A730": {"vr": "SQ", "Value": [item("TEXT", "Deep", _0040A160=["down"])]}},
    )
    plain = as_text(elements).decode()
    assert plain.splitlines()[3:] == [
        "- Comment: all well",
        "- Diameter: 12.5 mm",
        "- Missing: no value",
        "- Reader: Doe Jane",
        "- Day: 20240102",
        "- image 1.2.3 frame 4, 5",
        "- Outline: polyline of 2 points",
        "- Inner",
        "  - Deep: down",
    ]


def test_markup_in_a_report_stays_text() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    elements = report(item("TEXT", evil, _0040A160=[evil + "\nsecond line"])) | {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": evil}]},
        "0040A043": code(evil),
    }
    page = Page(as_html(elements))
    assert not {"script", "img"} & set(page.tags)
    assert page.text.count("<script>") == 5  # title, heading, patient, name, value
    assert "br" in page.tags


def test_a_tree_without_bottom_and_one_that_is_damaged_are_told_as_far_as_they_go() -> None:
    deep = item("TEXT", "bottom")
    for _ in range(200):
        deep = item("CONTAINER", "level") | {"0040A730": {"vr": "SQ", "Value": [deep]}}
    assert as_text(report(deep)).decode().count("level") == 64
    assert Page(as_html(report(deep))).tags.count("ul") == 64
    damaged: Any = json.loads(
        '{"0040A730": {"vr": "SQ", "Value": [null, 5, {"0040A040": 3}, {"0040A040": {"Value": 7}}]}}'
    )
    assert as_html(damaged) and as_text(damaged)
    assert not is_report(damaged)
