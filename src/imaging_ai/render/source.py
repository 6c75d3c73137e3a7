"""One instance to be rendered: its attributes, its frames decoded one at a time, and its bulk values.

Everything comes from the document that was made when the instance was stored, and from ranges of its file; only the
deflated transfer syntax, which has no ranges, is inflated whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from imaging_ai.archive.codecs import Frames, described_frames
from imaging_ai.archive.decoders import Image
from imaging_ai.archive.document import (
    DEFLATED,
    EXPLICIT_BIG_ENDIAN,
    Document,
    inflate,
    make_document,
    read_file_meta,
    reader_of,
)
from imaging_ai.archive.frames import Reader
from imaging_ai.errors import InputError, NotAcceptable
from imaging_ai.render.elements import Elements, element, inline, items, numbers, tag_of, text, values

__all__ = ["Decoded", "Recall", "Source", "open_source"]

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_MAX_BULK = 1 << 26


Decoded = tuple[NDArray[Any], Image]

#: Returns the decoded frame of a number: what was made before, or else what the function makes of it now.
Recall = Callable[[int, Callable[[], Decoded]], Decoded]


@dataclass(frozen=True, slots=True)
class Source:
    """An instance, ready to be rendered."""

    elements: Elements
    document: Document
    read: Reader
    inflated: bool = False  # in memory, whole
    recall: Recall = lambda _number, make: make()

    @property
    def sop_class_uid(self) -> str:
        """What it is."""
        return text(self.elements, "SOPClassUID")

    @property
    def pixels(self) -> bool:
        """Whether it has pixel data."""
        return any(tag_of(keyword) in self.elements for keyword in _PIXELS)

    @property
    def frame_count(self) -> int:
        """How many frames can be read."""
        return self.document.frames.count

    def representative_frame(self, otherwise: int = 1) -> int:
        """Return the frame that stands for all (0028,6010)."""
        stated = numbers(self.elements, "RepresentativeFrameNumber")
        chosen = int(stated[0]) if stated else 0
        return chosen if 1 <= chosen <= self.frame_count else otherwise

    def frames(self) -> Frames:
        """Open the frames.

        Raises
        ------
        NotAcceptable
            If there are none that can be decoded here.
        """
        try:
            return described_frames(self.document, self.elements, self.read)
        except InputError as error:
            raise NotAcceptable(f"the instance cannot be rendered: {error.message}") from error

    def macro(self, frame_number: int, sequence: str) -> Elements:
        """Return the item of a functional group of a frame: its own, else the shared one, else the instance itself."""
        own = values(self.elements, "PerFrameFunctionalGroupsSequence")[frame_number - 1 : frame_number]
        groups = own + items(self.elements, "SharedFunctionalGroupsSequence")[:1]
        found = (item for group in groups if isinstance(group, dict) for item in items(group, sequence))
        return next(found, self.elements)

    def words(self, elements: Elements, keyword: str, bits: int, entries: int) -> NDArray[np.uint16]:
        """Return the entries of a lookup table, whose 8-bit entries may be packed two to a word (PS3.3 C.7.6.3.1.6)."""
        if values(elements, keyword):
            return np.clip(np.asarray(numbers(elements, keyword), np.float64), 0, 65535).astype(np.uint16)
        data = self.bytes_of(elements, keyword)
        return self._units(elements, keyword, data, wide=bits > 8 or not entries <= len(data) <= entries + 1)

    def units(self, elements: Elements, keyword: str, *, wide: bool) -> NDArray[np.uint16]:
        """Return the bytes of a binary value, or its words where it is `wide`."""
        return self._units(elements, keyword, self.bytes_of(elements, keyword), wide=wide)

    def _units(self, elements: Elements, keyword: str, data: bytes, *, wide: bool) -> NDArray[np.uint16]:
        if not wide:
            return np.frombuffer(data, np.uint8).astype(np.uint16)
        swapped = (
            self.document.transfer_syntax_uid == EXPLICIT_BIG_ENDIAN and inline(element(elements, keyword)) is None
        )
        return np.frombuffer(data[: len(data) // 2 * 2], ">u2" if swapped else "<u2").astype(np.uint16)

    def bytes_of(self, elements: Elements, keyword: str) -> bytes:
        """Return a binary value, wherever it is; empty when there is none."""
        found = element(elements, keyword)
        if (data := inline(found)) is not None:
            return data
        path = str(found.get("BulkDataURI", "")).partition("/bulkdata/")[2]
        value = next((one for one in self.document.bulk if path and one.path == path), None)
        return self.read(value.offset, min(value.length, _MAX_BULK)) if value else b""

    def bulk_range(self, keyword: str) -> tuple[int, int]:
        """Return offset and length of a bulk value at the top level, (0, 0) when it is none."""
        tag = tag_of(keyword)
        return next(((one.offset, one.length) for one in self.document.bulk if one.path == tag), (0, 0))


def open_source(document: Document, read: Reader, size: int) -> Source:
    """Open an instance, given its document and a reader of its file of `size` bytes."""
    inflated = document.transfer_syntax_uid == DEFLATED
    if inflated:
        _, start = read_file_meta(read(0, 1 << 16))
        data, _ = inflate(read(start, size - start))
        read = reader_of(data)
        document = make_document(read, len(data), "")
    attributes: Any = msgspec.json.decode(document.json)
    return Source(attributes if isinstance(attributes, dict) else {}, document, read, inflated)
