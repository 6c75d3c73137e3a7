"""A range of bytes of a value (RFC 9110 14), as bulk data is asked for in pieces."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from litestar.response import Stream

from imaging_ai.errors import RangeNotSatisfiable
from imaging_ai.serve.dicomweb.wire import stream

__all__ = ["answer_range", "byte_range"]

Bytes = Callable[[int, int], Iterator[bytes]]

_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})\s*\Z", re.IGNORECASE)


def byte_range(header: str, length: int) -> tuple[int, int] | None:
    """Return first and last byte that a Range header asks for.

    None means the whole: without a header, of another unit or form, or of several ranges, which a server may ignore.

    Raises
    ------
    RangeNotSatisfiable
        If it begins past the end.
    """
    match = _RANGE.match(header.strip())
    if match is None or match.group(1, 2) == ("", ""):
        return None
    if not match[1]:
        first, last = max(length - int(match[2]), 0), length - 1
    else:
        first, last = int(match[1]), min(int(match[2] or length - 1), length - 1)
        if match[2] and int(match[2]) < int(match[1]):
            return None  # no range at all (14.1.1)
    if first > last:
        raise RangeNotSatisfiable(f"the value has {length} bytes")
    return first, last


def answer_range(asked: str, length: int, bytes_of: Bytes, media_type: str) -> Stream:
    """Answer with `length` bytes or the range of them that a Range header asks for.

    `bytes_of` gives those from a first to a last one.

    Raises
    ------
    RangeNotSatisfiable
        If it begins past the end.
    """
    wanted = byte_range(asked, length)
    first, last = wanted or (0, length - 1)
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(last - first + 1)}
    if wanted:
        headers["Content-Range"] = f"bytes {first}-{last}/{length}"
    pieces = bytes_of(first, last)
    return stream(pieces, media_type, headers=headers, status=206 if wanted else 200)
