"""Structured reports as HTML or plain text (PS3.18 table 8.7.4-1): the content tree of PS3.3 C.17.3, plainly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from imaging_ai.render.elements import Elements, items, text, values

__all__ = ["as_html", "as_text", "is_report"]

_DEEPEST = 64
_MOST_ITEMS = 100_000
_STYLE = "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}dt{color:#555}li{margin:.2em 0}"
_HEAD = (
    ("Patient", "PatientName"),
    ("Patient ID", "PatientID"),
    ("Birth date", "PatientBirthDate"),
    ("Sex", "PatientSex"),
    ("Study date", "StudyDate"),
    ("Study", "StudyDescription"),
    ("Series", "SeriesDescription"),
    ("Completion", "CompletionFlag"),
    ("Verification", "VerificationFlag"),
)
_SIMPLE = {
    "TEXT": "TextValue",
    "DATE": "Date",
    "TIME": "Time",
    "DATETIME": "DateTime",
    "PNAME": "PersonName",
    "UIDREF": "UID",
}


@dataclass(frozen=True, slots=True)
class _Line:
    """A content item: how deep it is, what it is about, and what it says."""

    depth: int
    name: str
    value: str


def is_report(elements: Elements) -> bool:
    """Say whether this is an instance with a content tree."""
    return bool(text(elements, "ValueType") and items(elements, "ConceptNameCodeSequence"))


def as_html(elements: Elements) -> bytes:
    """Return the report as a page; every text in it is escaped."""
    title = escape(_meaning(elements, "ConceptNameCodeSequence") or "Report")
    parts = [f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>']
    parts.append(f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n<dl>")
    parts += [f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in _head(elements)]
    parts.append("</dl>")
    depth = 0
    for line in _lines(elements):
        parts.append("<ul>" * (line.depth - depth) + "</ul>" * (depth - line.depth))
        depth = line.depth
        value = escape(line.value).replace("\n", "<br>")
        parts.append(f"<li><b>{escape(line.name)}</b>{': ' if line.name and value else ''}{value}</li>")
    parts.append("</ul>" * depth + "</body></html>\n")
    return "\n".join(parts).encode()


def as_text(elements: Elements) -> bytes:
    """Return the report as plain text."""
    lines = [_meaning(elements, "ConceptNameCodeSequence") or "Report", ""]
    lines += [f"{label}: {value}" for label, value in _head(elements)] + [""]
    for line in _lines(elements):
        said = ": ".join(filter(None, (line.name, line.value.replace("\n", "\n" + "  " * line.depth))))
        lines.append(f"{'  ' * (line.depth - 1)}- {said}")
    return ("\n".join(lines) + "\n").encode()


def _head(elements: Elements) -> Iterator[tuple[str, str]]:
    for label, keyword in _HEAD:
        if value := text(elements, keyword):
            yield label, value


def _lines(root: Elements) -> Iterator[_Line]:
    """Give the content items below the root, in order, each before what it contains."""
    waiting = [(1, item) for item in reversed(items(root, "ContentSequence"))]
    for _ in range(_MOST_ITEMS):
        if not waiting:
            return
        depth, item = waiting.pop()
        yield _Line(depth, _meaning(item, "ConceptNameCodeSequence"), _value(item))
        if depth < _DEEPEST:
            waiting += [(depth + 1, below) for below in reversed(items(item, "ContentSequence"))]


def _value(item: Elements) -> str:
    kind = text(item, "ValueType")
    if kind in _SIMPLE:
        return text(item, _SIMPLE[kind]).replace("\r\n", "\n").replace("\r", "\n")
    if kind == "CODE":
        return _meaning(item, "ConceptCodeSequence")
    if kind == "NUM":
        measured = next(iter(items(item, "MeasuredValueSequence")), None)
        if measured is None:
            return _meaning(item, "NumericValueQualifierCodeSequence") or "no value"
        unit = next(iter(items(measured, "MeasurementUnitsCodeSequence")), {})
        symbol = text(unit, "CodeValue")
        return f"{text(measured, 'NumericValue')} {'' if symbol == '1' else symbol}".strip()
    if kind in ("IMAGE", "COMPOSITE", "WAVEFORM"):
        referenced = next(iter(items(item, "ReferencedSOPSequence")), {})
        frames = ", ".join(str(frame) for frame in values(referenced, "ReferencedFrameNumber"))
        return f"{kind.lower()} {text(referenced, 'ReferencedSOPInstanceUID')}{f' frame {frames}' if frames else ''}"
    if kind in ("SCOORD", "SCOORD3D", "TCOORD"):
        shape = text(item, "TemporalRangeType" if kind == "TCOORD" else "GraphicType").lower()
        points = len(values(item, "GraphicData")) // (3 if kind == "SCOORD3D" else 2)
        return f"{shape} of {points} points" if points else shape
    reference = values(item, "ReferencedContentItemIdentifier")
    return f"see item {'.'.join(str(part) for part in reference)}" if reference else ""


def _meaning(item: Elements, keyword: str) -> str:
    code = next(iter(items(item, keyword)), None)
    if code is None:
        return ""
    return next(filter(None, (text(code, word) for word in ("CodeMeaning", "CodeValue", "LongCodeValue"))), "")
