"""Retrieving bulk data (PS3.18 10.4.1.1.5 and, with all values of instances, CP-2040's collections).

A value comes as bytes, little endian, in parts or alone; alone also in ranges (RFC 9110 14). Pixel data comes native,
as one value, unless the client accepts it compressed: then every frame is a part. The parts of a collection say by
Content-Location which BulkDataURI of the metadata they are the value of.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from litestar import Response
from litestar.response import Stream

from imaging_ai.archive.codecs import PIXEL_PATHS
from imaging_ai.archive.document import DEFLATED, EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN
from imaging_ai.archive.json_writer import BulkValue
from imaging_ai.archive.retrieve import Listed, Retriever
from imaging_ai.archive.rewrite import swapped
from imaging_ai.archive.transcode import NATIVE, Source, pixel_value
from imaging_ai.errors import ImagingAiError, NotAcceptable, NotDicom, NotFound, StorageUnavailable
from imaging_ai.serve.dicomweb.media import OCTET_STREAM, AnyRequest, MediaType, accepted
from imaging_ai.serve.dicomweb.ranges import answer_range
from imaging_ai.serve.dicomweb.wado_frames import chosen_form, content_type, frame_reader
from imaging_ai.serve.dicomweb.wado_media import Form, frame_forms, media_type_of, value_forms
from imaging_ai.serve.dicomweb.wire import Part, base_url, begun, multipart, stream

__all__ = ["answer_bulk", "answer_value"]

_log = logging.getLogger(__name__)
_PIECE = 1 << 18
_VIDEO = "1.2.840.10008.1.2.4.10"


@dataclass(frozen=True, slots=True)
class _Value:
    """A bulk value of an instance, opened, and the form it is given in."""

    source: Source
    value: BulkValue
    form: Form
    transfer_syntax: str  # stored

    @property
    def in_place(self) -> bool:
        """Whether its bytes are a range of the file."""
        return not self.value.encapsulated

    def bytes_of(self, first: int, last: int) -> Iterator[bytes]:
        """Give a range of a value whose bytes are in place."""
        word = 8 if self.transfer_syntax == EXPLICIT_BIG_ENDIAN else 1
        begin = first // word * word
        for start in range(begin, last + 1, _PIECE):
            length = min(_PIECE, self.value.length - start)
            data = self.source.read(self.value.offset + start, length)
            if word > 1:
                data = swapped(data, self.value.vr)
            yield data[max(first - start, 0) : last + 1 - start]

    def parts(self, location: str) -> Iterator[Part]:
        """Give it as parts: one, or one for each frame."""
        headers = {"Content-Location": location}
        if self.in_place:
            yield Part(self.form.media_type, self.bytes_of(0, self.value.length - 1), headers)
        elif self.value.path not in PIXEL_PATHS:
            yield Part(self.form.media_type, _fragments(self.source, self.value), headers)
        elif self.transfer_syntax.startswith(_VIDEO):
            yield Part(content_type(self.form), _fragments(self.source, self.value), headers)
        elif self.form.transfer_syntax == EXPLICIT_LITTLE_ENDIAN:
            yield Part(content_type(self.form), begun(pixel_value(self.source)), headers)
        else:
            read = frame_reader(self.source, self.form)
            for number in range(1, self.source.layout.frames.count + 1):
                yield Part(content_type(self.form), (read(number),), headers)


def answer_value(retriever: Retriever, request: AnyRequest, listed: Listed, path: str) -> Response[bytes] | Stream:
    """Answer with one bulk value.

    Raises
    ------
    NotFound
        If the instance has no such value.
    NotAcceptable, RangeNotSatisfiable
        If it cannot be given as asked.
    """
    source = retriever.source(listed)
    found = source.layout.bulk.get(path.upper())
    if found is None:
        raise NotFound("the instance has no such bulk data")
    ranges = accepted(request)
    asked = request.headers.get("range", "")
    if asked and ranges == (MediaType("*/*"),):
        ranges = (MediaType(OCTET_STREAM),)  # a range is of a value, and not of what would be wrapped around it
    value = _value(source, found, ranges)
    location = f"{base_url(request)}/{_place(listed)}/bulkdata/{found.path}"
    if value.form.multipart:
        parts = value.parts(location)
        return multipart(chain((_first(parts),), parts), value.form.media_type)
    if not value.in_place:
        parts = value.parts(location)
        first = _first(parts)
        if next(parts, None) is not None:
            raise NotAcceptable("several frames come only as multipart/related")
        return stream(iter(first.body), first.content_type, headers=first.headers)
    return answer_range(asked, found.length, value.bytes_of, value.form.media_type)


def answer_bulk(
    retriever: Retriever, request: AnyRequest, listed: Sequence[Listed], *, pixels_only: bool
) -> Response[bytes] | Stream:
    """Answer with all bulk values of instances, or with their pixel data only.

    Raises
    ------
    NotFound
        If they have none.
    NotAcceptable
        If none can be given as asked, or the client wants no parts.
    """
    parts = _all_parts(retriever, request, listed, pixels_only)
    first = _first(parts)
    return multipart(chain((first,), parts), first.content_type.partition(";")[0])


def _all_parts(
    retriever: Retriever, request: AnyRequest, listed: Sequence[Listed], pixels_only: bool
) -> Iterator[Part]:
    ranges = [one for one in accepted(request) if one.multipart or one.essence == "*/*"]
    base, given = base_url(request), 0
    refused: ImagingAiError = NotFound("there is no bulk data here")
    if not ranges:
        raise NotAcceptable("bulk data of several values comes only as multipart/related")
    for one in listed:
        try:
            source = retriever.source(one)
            for path, found in source.layout.bulk.items():
                if not pixels_only or path in PIXEL_PATHS:
                    value = _value(source, found, ranges)
                    for part in value.parts(f"{base}/{_place(one)}/bulkdata/{path}"):
                        given += 1
                        yield part
        except (NotAcceptable, NotDicom, StorageUnavailable) as error:
            refused = NotAcceptable(error.message) if isinstance(error, NotDicom) else error
            _log.info("bulk data of instance %s is left out: %s", one.instance.sop_instance_uid, error.message)
        except NotFound:
            continue
    if not given:
        raise refused


def _value(source: Source, found: BulkValue, ranges: Sequence[MediaType]) -> _Value:
    """Return a value in the form that is wanted most of those that are possible."""
    stored = source.layout.transfer_syntax_uid
    if stored == DEFLATED:
        source = source.opened()
    if found.path in PIXEL_PATHS and found.encapsulated and stored not in NATIVE:
        if stored.startswith(_VIDEO):
            return _Value(source, found, _video_form(ranges, stored), stored)
        return _Value(source, found, chosen_form(source, frame_forms(ranges, stored), many=False), stored)
    form = next(value_forms(ranges), None)
    if form is None:
        raise NotAcceptable(f"this bulk data can be had as {OCTET_STREAM}, alone or in parts")
    return _Value(source, found, form, stored)


def _video_form(ranges: Sequence[MediaType], stored: str) -> Form:
    """A video is given as it is stored; nothing here decodes it."""
    for form in frame_forms(ranges, stored):
        if form.transfer_syntax == stored or not form.named:
            return Form(form.multipart, media_type_of(stored), stored)
    raise NotAcceptable(f"the video can be had as {media_type_of(stored)}")


def _fragments(source: Source, value: BulkValue) -> Iterator[bytes]:
    """Give the content of the fragments of an encapsulated value, without their delimiters (8.7.3.3.2)."""
    position, end = value.offset, value.offset + value.length
    position += 8 + int.from_bytes(source.read(position + 4, 4), "little")  # the Basic Offset Table
    while position + 8 <= end and source.read(position, 4) == b"\xfe\xff\x00\xe0":
        length = int.from_bytes(source.read(position + 4, 4), "little")
        for start in range(0, length, _PIECE):
            yield source.read(position + 8 + start, min(_PIECE, length - start))
        position += 8 + length


def _first(parts: Iterator[Part]) -> Part:
    try:
        first = next(parts, None)
    except NotDicom as error:
        raise NotAcceptable(error.message) from error
    if first is None:
        raise NotFound("there is no bulk data here")
    return first


def _place(listed: Listed) -> str:
    one = listed.instance
    return f"studies/{one.study_instance_uid}/series/{one.series_instance_uid}/instances/{one.sop_instance_uid}"
