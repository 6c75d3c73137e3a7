"""The Native DICOM Model (PS3.19 A.1), as far as these tests write and read it."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

__all__ = ["NAMESPACE", "read", "write"]

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_NAME_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")


def write(attributes: dict[str, Any]) -> bytes:
    """Write a data set in DICOM JSON as XML."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel xmlns="{NAMESPACE}">{_attributes(attributes)}'
        "</NativeDicomModel>"
    ).encode()


def read(document: bytes) -> dict[str, list[str]]:
    """Read the tags of the top level and their plain values."""
    root = ElementTree.fromstring(document)
    assert root.tag == f"{{{NAMESPACE}}}NativeDicomModel", f"the root is {root.tag}"
    return {
        attribute.attrib["tag"].upper(): [text.text or "" for text in attribute.findall(f"{{{NAMESPACE}}}Value")]
        for attribute in root
    }


def _attributes(attributes: dict[str, Any]) -> str:
    return "".join(
        f'<DicomAttribute tag="{tag}" vr="{element["vr"]}">{_content(element)}</DicomAttribute>'
        for tag, element in sorted(attributes.items())
    )


def _content(element: dict[str, Any]) -> str:
    if "BulkDataURI" in element:
        return f'<BulkData uri="{escape(element["BulkDataURI"])}"/>'
    if "InlineBinary" in element:
        return f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
    return "".join(_value(number, one, element["vr"]) for number, one in enumerate(element.get("Value", []), start=1))


def _value(number: int, one: Any, vr: str) -> str:
    if vr == "SQ":
        return f'<Item number="{number}">{_attributes(one)}</Item>'
    if vr == "PN":
        groups = "".join(f"<{group}>{_name(text)}</{group}>" for group, text in one.items())
        return f'<PersonName number="{number}">{groups}</PersonName>'
    return f'<Value number="{number}">{escape(str(one))}</Value>'


def _name(text: str) -> str:
    parts = zip(_NAME_PARTS, text.split("^"), strict=False)
    return "".join(f"<{part}>{escape(value)}</{part}>" for part, value in parts if value)
