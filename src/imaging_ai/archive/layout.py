"""The layout of a stored instance: what its readers need of its document, kept small enough to be remembered.

Unlike `document.Document` it has no JSON, only the Image Pixel attributes that decoding needs (PS3.3 C.7.6.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from imaging_ai.archive.codecs import PIXEL_PATHS, image_of
from imaging_ai.archive.decoders import Image
from imaging_ai.archive.document import BulkValue, Document
from imaging_ai.archive.frames import NO_END, FrameTable
from imaging_ai.errors import ImagingAiError

__all__ = ["Layout", "layout_of"]

_OVERLAY_BIT = re.compile(rb'"(60[0-9A-F]{2})0102":\{"vr":"US","Value":\[[1-9]')


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the values of an instance lie in its file (in a deflated one: in its inflated data set).

    `image` is None, and `unreadable` says why, where the pixels cannot be understood or there are none. `error` is what
    is damaged. `overlay_bits` says that bits of the pixel cells hold overlays (retired, PS3.3 C.9.2).
    """

    transfer_syntax_uid: str
    frames: FrameTable
    bulk: Mapping[str, BulkValue]
    image: Image | None
    unreadable: str
    overlay_bits: bool
    error: str

    @property
    def pixels(self) -> BulkValue | None:
        """The value of Pixel Data, Float or Double Float Pixel Data."""
        return next((self.bulk[path] for path in PIXEL_PATHS if path in self.bulk), None)

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        return 1024 + 4 * (len(self.frames.lengths) + len(self.frames.firsts)) + 400 * len(self.bulk)


def layout_of(document: Document) -> Layout:
    """Return the layout that a document tells."""
    bulk = {value.path: value for value in document.bulk}
    image, unreadable = None, ""
    try:
        image = image_of(document)
    except ImagingAiError as error:
        unreadable = error.message
    overlays = {match[1] + b"3000" for match in _OVERLAY_BIT.finditer(document.json)}
    return Layout(
        document.transfer_syntax_uid,
        document.frames,
        bulk,
        image,
        unreadable,
        any(b'"%b":' % tag not in document.json for tag in overlays),
        "" if document.error == NO_END else document.error,
    )
