"""What an instance can be rendered as, by its Resource Category (PS3.18 8.7.2, table 8.7.4-1)."""

from __future__ import annotations

from typing import Literal

from imaging_ai.errors import NotAcceptable
from imaging_ai.render.elements import tag_of, text
from imaging_ai.render.formats import FORMATS
from imaging_ai.render.report import is_report
from imaging_ai.render.source import Source

__all__ = ["IMAGES", "MULTIPART_IMAGES", "REPORTS", "Category", "category_of", "document_type", "offers_of"]

Category = Literal["image", "report", "document"]

IMAGES = tuple(FORMATS)
MULTIPART_IMAGES = tuple(f'multipart/related; type="{image}"' for image in IMAGES)
REPORTS = ("text/html", "text/plain", "text/xml")

#: What is given of encapsulated documents as it is: nothing that a browser would run in our name.
_DOCUMENTS = ("application/pdf", "text/xml", "model/stl", "model/obj", "model/mtl")


def category_of(source: Source) -> Category:
    """Return what an instance is to a reader.

    Raises
    ------
    NotAcceptable
        If there is nothing of it that can be shown.
    """
    if source.frame_count:
        return "image"
    if source.pixels:
        why = source.document.error or "its frames cannot be told apart, as in a video"
        raise NotAcceptable(f"the instance cannot be rendered: {why}")
    if is_report(source.elements):
        return "report"
    if tag_of("EncapsulatedDocument") in source.elements:
        return "document"
    raise NotAcceptable("the instance is no image, report or document: there is nothing to render")


def document_type(source: Source) -> str:
    """Return the media type of an encapsulated document.

    Raises
    ------
    NotAcceptable
        If it is one that is not given out as rendered.
    """
    stated = text(source.elements, "MIMETypeOfEncapsulatedDocument").strip().lower()
    if stated not in _DOCUMENTS:
        raise NotAcceptable(f"the instance holds a document that is none of {', '.join(_DOCUMENTS)}")
    return stated


def offers_of(source: Source) -> tuple[str, ...]:
    """Return the media types that one frame, report or document can be had as, the default first."""
    category = category_of(source)
    if category == "image":
        return IMAGES
    return REPORTS if category == "report" else (document_type(source),)
