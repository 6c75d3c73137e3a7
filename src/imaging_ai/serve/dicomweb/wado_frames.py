"""Retrieving frames (PS3.18 10.4.1.1.6): a frame is a range of a file, decoded or encoded only where that is asked for.

Frames come in the order asked, one part each, however often. A part says by its Content-Type in which transfer syntax
its bytes are: that is what viewers decode by.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from litestar import Response
from litestar.response import Stream

from imaging_ai.archive.document import DEFLATED, EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN
from imaging_ai.archive.layout import Layout
from imaging_ai.archive.retrieve import Fill, Listed, Retriever
from imaging_ai.archive.transcode import NATIVE, Source, frame, refusal
from imaging_ai.errors import BadParameterError, NotAcceptable, NotDicom, NotFound
from imaging_ai.serve.dicomweb.media import AnyRequest, accepted, asked, ranges_of
from imaging_ai.serve.dicomweb.wado_media import Form, frame_forms
from imaging_ai.serve.dicomweb.wire import Part, Whole, filled, multipart, part_head, parts_end

__all__ = ["answer_at_once", "answer_frames", "chosen_form", "content_type", "frame_numbers", "frame_reader"]

_MOST_FRAMES = 10_000
_AT_ONCE = 4 << 20  # so many bytes are answered in one piece

#: Frames of these are not given as they lie in the file.
_NOT_AS_THEY_LIE = (DEFLATED, EXPLICIT_BIG_ENDIAN)


def frame_numbers(text: str) -> tuple[int, ...]:
    """Read a list of frame numbers (10.4.1.1.6).

    Raises
    ------
    BadParameterError
        If it is none.
    """
    items = text.split(",")
    if len(items) > _MOST_FRAMES:
        raise BadParameterError("frames", f"are more than {_MOST_FRAMES}")
    if not all(item.isascii() and item.isdigit() and len(item) < 10 for item in items):
        raise BadParameterError("frames", "is not a list of frame numbers, such as 1,2")
    return tuple(map(int, items))


def answer_frames(
    retriever: Retriever, request: AnyRequest, listed: Listed, numbers: Sequence[int]
) -> Response[bytes] | Stream:
    """Answer with frames of an instance.

    Raises
    ------
    NotFound
        If the instance has no such frames.
    NotAcceptable
        If they cannot be given as the client accepts them.
    """
    source = retriever.source(listed)
    layout = source.layout
    if layout.pixels is None:
        raise NotFound("the instance has no frames")
    if layout.transfer_syntax_uid == DEFLATED:
        source = source.opened()
    if source.layout.frames.count == 0:
        raise NotAcceptable(
            layout.unreadable or "the frames of this instance cannot be told apart; ask for its bulk data"
        )
    for number in numbers:
        if not 1 <= number <= source.layout.frames.count:
            raise NotFound(f"frame {number} does not exist: the instance has {source.layout.frames.count} frames")
    form = chosen_form(source, frame_forms(accepted(request), layout.transfer_syntax_uid), many=len(numbers) > 1)
    read = frame_reader(source, form)
    first = read(numbers[0])
    if not form.multipart:
        return Response(first, media_type=content_type(form))
    if len(numbers) * len(first) > _AT_ONCE and len(numbers) > 1:
        return multipart(_parts(read, numbers, first, form), form.media_type)
    return _at_once([first, *map(read, numbers[1:])], form)


def answer_at_once(request: AnyRequest, layout: Layout, fill: Fill, number: str) -> Whole | None:
    """Answer with a frame whose bytes go out as they lie in memory; None leaves the rest to `answer_frames`."""
    frames = layout.frames
    is_one = number.isascii() and number.isdigit() and len(number) < 10 and 1 <= int(number) <= frames.count
    form = _stored_form(asked(request), layout.transfer_syntax_uid)
    if not is_one or form is None or frames.frame_bits % 8:
        return None
    ranges = frames.ranges(int(number))
    if sum(size for _, size in ranges) > _AT_ONCE:
        return None
    if not form.multipart:
        return _whole(filled(fill, ranges, b"", b""), content_type(form))
    boundary = secrets.token_hex(16)
    head, tail = part_head(boundary, content_type(form)), b"\r\n" + parts_end(boundary)
    body = filled(fill, ranges, head, tail)
    return _whole(body, _multipart_type(form, boundary))


@lru_cache(maxsize=256)
def _stored_form(asked: str, stored: str) -> Form | None:
    """Return the form that is wanted most, if frames of a transfer syntax are given in it as they lie in the file."""
    form = next(frame_forms(ranges_of(asked), stored), None)
    return form if form and _as_stored(stored, form.transfer_syntax) and stored not in _NOT_AS_THEY_LIE else None


def _whole(body: bytes | None, media_type: str) -> Whole | None:
    return None if body is None else Whole(body, media_type)


def chosen_form(source: Source, forms: Iterator[Form], *, many: bool) -> Form:
    """Return the first form that is possible; `many` frames need parts.

    Raises
    ------
    NotAcceptable
        If there is none.
    """
    reasons: list[str] = []
    for form in forms:
        if many and not form.multipart:
            reasons.append("several frames come only as multipart/related")
            continue
        refused = _refusal(source, form.transfer_syntax)
        if not refused:
            return form
        reasons.append(refused)
    told = "; ".join(dict.fromkeys(reasons))
    raise NotAcceptable(
        told
        or 'frames can be had as multipart/related; type="application/octet-stream", in their stored transfer syntax'
    )


def frame_reader(source: Source, form: Form) -> Callable[[int], bytes]:
    """Return what reads a frame in a form; it raises `NotAcceptable` where a frame is damaged."""

    def read(number: int) -> bytes:
        try:
            return frame(source, number, form.transfer_syntax)
        except NotDicom as error:
            raise NotAcceptable(error.message) from error

    return read


def content_type(form: Form) -> str:
    """Return the Content-Type of a frame in a form."""
    return f"{form.media_type}; transfer-syntax={form.transfer_syntax}"


def _refusal(source: Source, target: str) -> str:
    """Say why frames cannot be given; those of a damaged instance that are whole can, as they are stored."""
    return "" if _as_stored(source.layout.transfer_syntax_uid, target) else refusal(source.layout, target)


def _as_stored(stored: str, target: str) -> bool:
    return target == stored or (target == EXPLICIT_LITTLE_ENDIAN and stored in NATIVE)


def _parts(read: Callable[[int], bytes], numbers: Sequence[int], first: bytes, form: Form) -> Iterator[Part]:
    yield Part(content_type(form), (first,))
    for number in numbers[1:]:
        yield Part(content_type(form), (read(number),))


def _at_once(frames: Sequence[bytes], form: Form) -> Response[bytes]:
    """Answer with parts as one body: nearly every viewer asks for one frame at a time."""
    boundary = secrets.token_hex(16)
    head = part_head(boundary, content_type(form))
    pieces = [piece for one in frames for piece in (head, one, b"\r\n")]
    body = b"".join([*pieces, parts_end(boundary)])
    return Response(body, media_type=_multipart_type(form, boundary))


def _multipart_type(form: Form, boundary: str) -> str:
    return f'multipart/related; type="{form.media_type}"; boundary="{boundary}"'
