"""The Native DICOM Model in XML (PS3.19 A.1), from and to the DICOM JSON model (PS3.18 F).

Both directions keep what the other form can say: VRs, private creators, bulk data by URI, person names by component,
nested items. Reading refuses document types and entities, and whatever nests deeper than a data set can reasonably.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import dictionary_VR, keyword_for_tag

from imaging_ai.errors import InputError

__all__ = ["NAMESPACE", "from_xml", "to_xml"]

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"

Elements = Mapping[str, Any]

_NAME_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
#: What an attribute of a VR has its values in, where that is not <Value>.
_HOLDS = {"SQ": "Item", "PN": "PersonName"}
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_INTEGERS = frozenset({"SS", "US", "SL", "UL", "SV", "UV", "IS"})
_REALS = frozenset({"FL", "FD", "DS"})
_VRS = (
    _INTEGERS
    | _REALS
    | {
        *("AE", "AS", "AT", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "SQ", "ST", "TM", "UC", "UI", "UR", "UT"),
        *("OB", "OD", "OF", "OL", "OV", "OW", "UN"),
    }
)
_DEEPEST = 64
_MOST_ELEMENTS = 1_000_000
_MOST_EMPTY = 10_000  # values that are there by the numbers of others only
_NOT_IN_XML = {character: " " for character in range(32) if character not in (9, 10, 13)} | {0xFFFE: " ", 0xFFFF: " "}


# -- writing


def to_xml(elements: Elements) -> bytes:
    """Return a data set, decoded from DICOM JSON, as an XML document in UTF-8."""
    pieces = ['<?xml version="1.0" encoding="UTF-8"?>', f'<NativeDicomModel xmlns="{NAMESPACE}" xml:space="preserve">']
    pieces.extend(_attributes(elements))
    pieces.append("</NativeDicomModel>")
    return "".join(pieces).encode("utf-8", "replace")


def _attributes(elements: Elements) -> Iterator[str]:
    for tag in sorted(elements):
        element = elements[tag]
        private = _creator(elements, tag)
        keyword = "" if private else keyword_for_tag(int(tag, 16))
        named = (f" keyword={quoteattr(keyword)}" if keyword else "") + (
            f" privateCreator={_quoted(private)}" if private else ""
        )
        shown = f"{tag[:4]}00{tag[6:]}" if private else tag
        yield f'<DicomAttribute tag="{shown}" vr="{element["vr"]}"{named}>'
        yield from _content(element)
        yield "</DicomAttribute>"


def _content(element: Mapping[str, Any]) -> Iterator[str]:
    if "BulkDataURI" in element:
        yield f"<BulkData uri={_quoted(element['BulkDataURI'])}/>"
    elif "InlineBinary" in element:
        yield f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
    for number, value in enumerate(element.get("Value", ()), 1):
        if element["vr"] == "SQ":
            yield f'<Item number="{number}">'
            yield from _attributes(value or {})
            yield "</Item>"
        elif value is None:
            continue  # an empty value keeps its number by its absence
        elif element["vr"] == "PN":
            yield f'<PersonName number="{number}">'
            yield from _name(value)
            yield "</PersonName>"
        else:
            yield f'<Value number="{number}">{_text(value)}</Value>'


def _name(value: Mapping[str, str]) -> Iterator[str]:
    for group in _NAME_GROUPS:
        if value.get(group):
            yield f"<{group}>"
            for part, text in zip(_NAME_PARTS, value[group].split("^"), strict=False):
                if text:
                    yield f"<{part}>{_text(text)}</{part}>"
            yield f"</{group}>"


def _text(value: object) -> str:
    return escape(str(value).translate(_NOT_IN_XML)).replace("\r", "&#13;")


def _quoted(value: object) -> str:
    return quoteattr(str(value).translate(_NOT_IN_XML))


def _creator(elements: Elements, tag: str) -> str:
    """Return the private creator of a tag; "" for standard tags and for creators themselves."""
    if int(tag[:4], 16) % 2 == 0 or int(tag[4:], 16) < 0x1000:
        return ""
    values = elements.get(f"{tag[:4]}00{tag[4:6]}", {}).get("Value") or [""]
    return str(values[0] or "")


# -- reading


def from_xml(data: bytes) -> dict[str, Any]:
    """Return the data set of a Native DICOM Model document, as DICOM JSON has it.

    Raises
    ------
    InputError
        If it is not such a document, has a document type or entities, or nests too deep.
    """
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = _refuse
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise InputError(
            f"the XML is not well-formed at line {error.lineno}: {expat.ErrorString(error.code)}"
        ) from None
    except (LookupError, ValueError):  # of expat, which asks Python for encodings it does not know
        raise InputError("the XML is in an encoding that is not taken; UTF-8 is") from None
    if reader.root is None:
        raise InputError("the XML is not a NativeDicomModel (PS3.19 A.1)")
    return reader.root


def _refuse(*_: object) -> None:
    raise InputError("the XML has a document type or entities, which are not taken")


class _Reader:
    """Builds the data set while expat walks the document."""

    def __init__(self) -> None:
        self.root: dict[str, Any] | None = None
        self._items: list[dict[str, Any]] = []  # the data sets we are in
        self._elements: list[dict[str, Any]] = []  # the attributes we are in, one for each data set
        self._path: list[str] = []
        self._text: list[str] = []
        self._number, self._names, self._parts = 0, dict[str, str](), dict[str, str]()
        self._seen, self._empty = 0, 0

    def start(self, qualified: str, attributes: dict[str, str]) -> None:
        name, parent = qualified.rpartition(" ")[2], self._path[-1] if self._path else ""
        self._seen += 1
        if len(self._items) > _DEEPEST or self._seen > _MOST_ELEMENTS:
            raise InputError("the XML nests too deep or has too many elements")
        self._path.append(name)
        self._text.clear()
        if name == "NativeDicomModel" and not parent:
            self.root = {}
            self._items.append(self.root)
        elif name == "DicomAttribute" and parent in ("NativeDicomModel", "Item"):
            self._begin(attributes)
        elif name == "Item" and parent == "DicomAttribute":
            self._require_fit(name)
            item: dict[str, Any] = {}
            self._put(_number(attributes), item)
            self._items.append(item)
        elif name in ("Value", "PersonName") and parent == "DicomAttribute":
            self._require_fit(name)
            self._number, self._names = _number(attributes), {}
        elif name == "BulkData" and parent == "DicomAttribute":
            self._elements[-1]["BulkDataURI"] = attributes.get("uri") or attributes.get("uuid", "")
        elif name in _NAME_GROUPS and parent == "PersonName":
            self._parts = {}
        elif not self._known(name, parent):
            raise InputError(f"the XML has <{name[:40]}> where PS3.19 A.1 has none")

    def end(self, qualified: str) -> None:
        name = self._path.pop()
        text = "".join(self._text)
        self._text.clear()
        if name in ("Item", "NativeDicomModel"):
            self._items.pop()
        elif name == "DicomAttribute":
            element = self._elements.pop()
            if not element.get("Value", True):
                del element["Value"]
        elif name == "Value":
            self._put(self._number, _value(self._elements[-1]["vr"], text))
        elif name == "PersonName":
            self._put(self._number, self._names)
        elif name in _NAME_GROUPS:
            parts = [self._parts.get(part, "") for part in _NAME_PARTS]
            self._names[name] = "^".join(parts).rstrip("^")
        elif name in _NAME_PARTS:
            self._parts[name] = text
        elif name == "InlineBinary":
            self._elements[-1]["InlineBinary"] = "".join(text.split())

    def text(self, data: str) -> None:
        self._text.append(data)

    @staticmethod
    def _known(name: str, parent: str) -> bool:
        return (name in _NAME_PARTS and parent in _NAME_GROUPS) or (
            name == "InlineBinary" and parent == "DicomAttribute"
        )

    def _require_fit(self, name: str) -> None:
        vr = self._elements[-1]["vr"]
        if name != (wanted := _HOLDS.get(vr, "Value")):
            raise InputError(f"the XML has a <{name}> in an attribute of VR {vr}, which has a <{wanted}>")

    def _begin(self, attributes: dict[str, str]) -> None:
        tag = attributes.get("tag", "").upper()
        if len(tag) != 8 or any(character not in "0123456789ABCDEF" for character in tag):
            raise InputError(f"the XML has a DicomAttribute whose tag is not eight hexadecimal digits: {tag[:20]!r}")
        creator = attributes.get("privateCreator", "")
        tag = self._private(tag, creator) if creator else tag
        vr = attributes.get("vr") or _usual_vr(tag)
        if vr not in _VRS:
            raise InputError(f"the XML has the attribute {tag} with an unknown VR {vr[:10]!r}")
        element: dict[str, Any] = {"vr": vr}
        if tag in self._items[-1]:
            raise InputError(f"the XML has the attribute {tag} twice")
        self._items[-1][tag] = element
        self._elements.append(element)

    def _private(self, tag: str, creator: str) -> str:
        """Return the tag in the block that its creator has, or gets, in this data set (PS3.5 7.8.1)."""
        if int(tag[:4], 16) % 2 == 0:
            raise InputError(f"the XML has the attribute {tag} with a private creator in an even group")
        item = self._items[-1]
        blocks = [f"{tag[:4]}00{block:02X}" for block in range(0x10, 0x100)]
        for block in (*(one for one in blocks if item.get(one, {}).get("Value") == [creator]), *blocks):
            if item.setdefault(block, {"vr": "LO", "Value": [creator]}).get("Value") == [creator]:
                return f"{tag[:4]}{block[6:]}{tag[6:]}"
        raise InputError(f"the XML has more private creators in group {tag[:4]} than there are blocks")

    def _put(self, number: int, value: object) -> None:
        values = self._elements[-1].setdefault("Value", [])
        self._empty += max(number - len(values) - 1, 0)
        if self._empty > _MOST_EMPTY:
            raise InputError("the XML numbers values far beyond those it has")
        while len(values) < number:
            values.append(None)
        values[number - 1] = value


def _number(attributes: dict[str, str]) -> int:
    number = attributes.get("number", "")
    if not number.isdecimal() or not 1 <= len(number) <= 8 or int(number) < 1:
        raise InputError("the XML has a value whose number is not a positive integer")
    return int(number)


def _usual_vr(tag: str) -> str:
    try:
        return dictionary_VR(int(tag, 16))
    except KeyError:
        return "UN"


def _value(vr: str, text: str) -> object:
    if not text:
        return None
    try:
        if vr in _INTEGERS:
            return int(text)
        return float(text) if vr in _REALS else text
    except ValueError:
        raise InputError(f"the XML has a value of VR {vr} that is not a number") from None
