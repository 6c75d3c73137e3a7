"""Text burned into rendered images, only where it is asked for (PS3.18 8.3.5.1.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imaging_ai.render.elements import Elements, number, numbers, text
from imaging_ai.render.source import Source
from imaging_ai.render.wish import Annotation, Picture

__all__ = ["annotate"]

_MARGIN = 4
_LONGEST = 80


def annotate(picture: Picture, source: Source, frame_number: int, wanted: Sequence[Annotation]) -> Picture:
    """Return the picture with the patient at its top left and the technique at its bottom left."""
    drawn = Image.fromarray(picture)
    pen = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(min(max(drawn.height // 32, 10), 32))
    white, black = (255, 0) if drawn.mode == "L" else ((255, 255, 255), (0, 0, 0))
    for name, lines, top in (
        ("patient", _patient(source.elements), True),
        ("technique", _technique(source, frame_number), False),
    ):
        written = "\n".join(line[:_LONGEST] for line in lines if line)
        if name not in wanted or not written:
            continue
        at = (_MARGIN, _MARGIN if top else drawn.height - _MARGIN)
        pen.multiline_text(
            at, written, fill=white, font=font, anchor="la" if top else "ld", stroke_width=1, stroke_fill=black
        )
    return np.asarray(drawn)


def _patient(elements: Elements) -> Iterator[str]:
    yield text(elements, "PatientName")
    yield text(elements, "PatientID")
    yield " ".join(filter(None, (_date(text(elements, "PatientBirthDate")), text(elements, "PatientSex"))))


def _technique(source: Source, frame_number: int) -> Iterator[str]:
    elements = source.elements
    yield " ".join(filter(None, (text(elements, "Modality"), _date(text(elements, "StudyDate")))))
    yield text(elements, "SeriesDescription")
    series, instance = text(elements, "SeriesNumber"), text(elements, "InstanceNumber")
    frame = f"Frame {frame_number}/{source.frame_count}" if source.frame_count > 1 else ""
    yield " ".join(filter(None, (f"Se {series}" if series else "", f"Im {instance}" if instance else "", frame)))
    position = numbers(source.macro(frame_number, "PlanePositionSequence"), "ImagePositionPatient")
    if len(position) == 3:
        yield "Pos " + " ".join(f"{value:.1f}" for value in position)
    if thickness := number(source.macro(frame_number, "PixelMeasuresSequence"), "SliceThickness"):
        yield f"{thickness:g} mm"


def _date(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else text
