"""Retrieving metadata (PS3.18 10.4.1.2): the stored DICOM JSON of instances, joined; or the same in XML.

No DICOM is parsed. The entity tag says which bytes of storage the instances have, so a client that holds the answer
gets 304 for one query of the index; an answer that was made once is remembered under it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import imagecodecs
import msgspec
from litestar import Response
from litestar.response import Stream

from imaging_ai.archive.retrieve import Listed, Retriever
from imaging_ai.serve.dicomweb.media import DICOM_JSON, DICOM_XML, JSON, MULTIPART_XML, AnyRequest, choose
from imaging_ai.serve.dicomweb.native import to_xml
from imaging_ai.serve.dicomweb.recent import Recent
from imaging_ai.serve.dicomweb.wire import (
    Part,
    base_url,
    etag_of,
    gathered,
    multipart,
    not_modified,
    stream,
    takes,
    takes_gzip,
)

__all__ = ["MetadataAnswers"]

_AT_ONCE = 1_000  # instances that are answered in one piece
_PAGE = 500
_REMEMBERED_BYTES = 32 << 20


class MetadataAnswers:
    """Answers with metadata, and remembers them up to `_REMEMBERED_BYTES`."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        self._bodies: Recent[tuple[str, str], bytes] = Recent(_REMEMBERED_BYTES, part=4)

    def answer(self, request: AnyRequest, listed: Sequence[Listed]) -> Response[bytes] | Stream:
        """Answer with the metadata of instances. Raises `NotAcceptable`."""
        media_type = choose(request, (DICOM_JSON, MULTIPART_XML, JSON))
        base = base_url(request)
        etag = etag_of(base, media_type, *[one.content for one in listed])
        headers = {"ETag": etag, "Vary": "Accept, Accept-Encoding"}
        if not_modified(request, etag):
            return Response(b"", status_code=304, headers=headers)
        if media_type == MULTIPART_XML:
            return multipart(self._xml(listed, base), DICOM_XML, headers=headers)
        streamed = len(listed) > _AT_ONCE
        if takes(request, "zstd") and not streamed:
            headers["Content-Encoding"] = "zstd"
        elif takes_gzip(request):
            headers["Content-Encoding"] = "gzip"
        coding = headers.get("Content-Encoding", "")
        if streamed:
            pieces = gathered(self._json(listed, base))
            return stream(_gzipped(pieces) if coding else pieces, media_type, headers=headers)
        return Response(self._body(listed, base, etag, coding), media_type=media_type, headers=headers)

    def _body(self, listed: Sequence[Listed], base: str, etag: str, coding: str) -> bytes:
        key = (etag, coding)
        if known := self._bodies.get(key):
            return known
        body = b"".join(self._json(listed, base))
        if coding == "zstd":
            body = bytes(imagecodecs.zstd_encode(body, 1))
        elif coding == "gzip":
            body = b"".join(_gzipped(iter((body,))))
        self._bodies.keep(key, body, len(body))
        return body

    def _json(self, listed: Sequence[Listed], base: str) -> Iterator[bytes]:
        before = b"["
        for documents in self._documents(listed, base):
            yield before
            yield documents
            before = b","
        yield b"]" if before == b"," else b"[]"

    def _xml(self, listed: Sequence[Listed], base: str) -> Iterator[Part]:
        for documents in self._documents(listed, base):
            for document in msgspec.json.decode(b"[%b]" % documents):
                yield Part(DICOM_XML, (to_xml(document),))

    def _documents(self, listed: Sequence[Listed], base: str) -> Iterator[bytes]:
        for start in range(0, len(listed), _PAGE):
            yield from self._retriever.documents(listed[start : start + _PAGE], base)


def _gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    engine = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        yield engine.compress(piece)
    yield engine.flush()
