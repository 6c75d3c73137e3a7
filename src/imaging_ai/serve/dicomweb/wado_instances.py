"""Retrieving studies, series and instances as application/dicom (PS3.18 10.4.1.1.1 to 10.4.1.1.3).

Instances stream from storage as they are, or transcoded frame by frame, one at a time: memory does not grow with what
is asked for, nor with the patience of who asks. What cannot be given in any accepted transfer syntax is left out, and
the answer is then 206 (10.4.3.1).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import chain

from litestar import Response
from litestar.concurrency import sync_to_thread
from litestar.response import Stream

from imaging_ai.archive.retrieve import Listed, Retriever
from imaging_ai.archive.transcode import refusal, transcoded
from imaging_ai.errors import InputError, NotAcceptable, NotFound, StorageUnavailable
from imaging_ai.serve.dicomweb.media import DICOM, AnyRequest, MediaType, accepted
from imaging_ai.serve.dicomweb.ranges import answer_range
from imaging_ai.serve.dicomweb.wado_media import Form, dicom_forms
from imaging_ai.serve.dicomweb.wire import (
    Part,
    Pieces,
    begun,
    filled,
    gathered,
    multipart,
    part_head,
    parts_end,
    stream,
    warning,
)

__all__ = ["answer_instances"]

_log = logging.getLogger(__name__)
_PIECE = 3 << 17
_AT_ONCE = 1 << 20  # an instance up to this size is one piece

#: Video: what is stored is all there is (8.7.3.3: only in lossy compressed form).
_VIDEO = "1.2.840.10008.1.2.4.10"


@dataclass(frozen=True, slots=True)
class _Given:
    """An instance, and the transfer syntax it is given in."""

    listed: Listed
    transfer_syntax: str

    @property
    def as_stored(self) -> bool:
        return self.transfer_syntax == self.listed.instance.transfer_syntax_uid


def answer_instances(
    retriever: Retriever,
    request: AnyRequest,
    listed: Sequence[Listed],
    *,
    single: bool,
    ranges: Sequence[MediaType] | None = None,
) -> Response[bytes] | Stream:
    """Answer with instances; `single`: it is one, which may come without parts. `ranges`: what a query says instead.

    Raises
    ------
    NotAcceptable
        If none of them can be given as the client accepts it.
    """
    forms = dicom_forms(accepted(request) if ranges is None else ranges, single=single)
    if not forms:
        alone = ", application/dicom" if single else ""
        raise NotAcceptable(f'instances can be had as multipart/related; type="application/dicom"{alone}')
    forms = [form for form in forms if form.multipart == forms[0].multipart]
    reasons: set[str] = set()
    there = [one for one in listed if not retriever.is_lost(one.instance)]
    if not there:
        raise StorageUnavailable("the storage has lost the bytes of instances that the index has")
    given = [one for each in there if (one := _choose(retriever, each, forms, reasons))]
    if not given:
        raise NotAcceptable(f"not in any transfer syntax that was asked for: {'; '.join(sorted(reasons)[:3])}")
    if not forms[0].multipart:
        return _alone(retriever, given[0], request.headers.get("range", ""))
    is_partial = len(given) < len(listed)
    headers = warning(f"{len(listed) - len(given)} instances cannot be given as asked") if is_partial else {}
    rest = iter(given)
    first = next(_parts(retriever, rest), None)  # what cannot be read is said before the status is
    if first is None:
        raise NotFound("no such instances are held here")
    body = partial(_body, retriever, first, rest)
    return multipart(body, DICOM, status=206 if is_partial else 200, headers=headers)


def _choose(retriever: Retriever, listed: Listed, forms: Sequence[Form], reasons: set[str]) -> _Given | None:
    """Choose a transfer syntax for an instance: the most wanted that is possible, among equals the stored one."""
    stored = listed.instance.transfer_syntax_uid
    for form in sorted(forms, key=lambda one: (-one.q, one.transfer_syntax not in ("*", stored))):
        if form.transfer_syntax in ("*", stored):
            return _Given(listed, stored)
        if refused := refusal(retriever.layout(listed), form.transfer_syntax):
            reasons.add(refused)
            if not form.named and stored.startswith(_VIDEO):
                return _Given(listed, stored)
            continue
        return _Given(listed, form.transfer_syntax)
    return None


async def _body(retriever: Retriever, first: Part, rest: Iterator[_Given], boundary: str) -> AsyncGenerator[bytes]:
    """Give parts one after the other. What is in memory is read right into its piece; the rest is made in threads."""
    async with aclosing(_in_threads(first, boundary)) as pieces:
        async for piece in pieces:
            yield piece
    waiting, size = list[bytes](), 0
    for one in rest:
        whole = _in_memory(retriever, one, boundary)
        if whole is not None:
            waiting.append(whole)
            size += len(whole)
        if waiting and (whole is None or size >= _PIECE):
            yield b"".join(waiting)  # a single one is not copied
            waiting, size = [], 0
        if whole is None and (part := await sync_to_thread(next, _parts(retriever, iter((one,))), None)):
            async with aclosing(_in_threads(part, boundary)) as pieces:
                async for piece in pieces:
                    yield piece
    yield b"".join([*waiting, parts_end(boundary)])


def _in_memory(retriever: Retriever, one: _Given, boundary: str) -> bytes | None:
    """Return the part of an instance that goes out as it is stored, if nothing waits for it."""
    stored = one.listed.instance
    if not one.as_stored or stored.blob.length > _AT_ONCE or (fill := retriever.fill_of(stored)) is None:
        return None
    return filled(fill, ((0, stored.blob.length),), part_head(boundary, _content_type(one.transfer_syntax)), b"\r\n")


async def _in_threads(part: Part, boundary: str) -> AsyncGenerator[bytes]:
    head = part_head(boundary, part.content_type)
    pieces = Pieces(gathered(chain((head,), part.body, (b"\r\n",))), part.body)
    try:
        while piece := await sync_to_thread(next, pieces, b""):
            yield piece
    finally:  # whoever has gone may have left a thread that still reads: another one waits for it
        asyncio.get_running_loop().run_in_executor(None, pieces.close)


def _parts(retriever: Retriever, given: Iterator[_Given]) -> Iterator[Part]:
    for one in given:
        try:
            syntax, pieces = _pieces(retriever, one)
        except NotFound:
            _log.info("instance %s was deleted while it was retrieved", one.listed.instance.sop_instance_uid)
            continue
        yield Part(_content_type(syntax), pieces)


def _pieces(retriever: Retriever, one: _Given) -> tuple[str, Iterator[bytes]]:
    """Return the transfer syntax of an instance and its bytes.

    Among others, one that turns out to be damaged comes as it is stored, and says so in its part.
    """
    stored = one.listed.instance
    if not one.as_stored:
        try:
            return one.transfer_syntax, begun(transcoded(retriever.source(one.listed), one.transfer_syntax))
        except NotFound:
            raise
        except InputError as error:
            _log.warning("instance %s goes out as stored: %s", stored.sop_instance_uid, error.message)
    return stored.transfer_syntax_uid, begun(retriever.pieces_of(stored), 1)


def _alone(retriever: Retriever, one: _Given, asked: str) -> Stream:
    stored, media_type = one.listed.instance, _content_type(one.transfer_syntax)
    if one.as_stored:
        retriever.bytes_of(stored, 0, 1)  # a file that is gone is said before the status is

        def bytes_of(first: int, last: int) -> Iterator[bytes]:
            for start in range(first, last + 1, _PIECE):
                yield retriever.bytes_of(stored, start, min(_PIECE, last + 1 - start))

        return answer_range(asked, stored.blob.length, bytes_of, media_type)
    try:
        pieces = begun(transcoded(retriever.source(one.listed), one.transfer_syntax))
    except NotFound:
        raise
    except InputError as error:
        raise NotAcceptable(f"not in this transfer syntax: {error.message}") from error
    return stream(pieces, media_type)


def _content_type(transfer_syntax_uid: str) -> str:
    return f"{DICOM}; transfer-syntax={transfer_syntax_uid}" if transfer_syntax_uid else DICOM
