"""Taking a multipart body apart as it comes (RFC 2046 5.1, PS3.18 8.6.1.2).

A body of any length passes through in flat memory: what is known to belong to a part is handed on at once, and only
what may be the beginning of a delimiter is kept until more has come. However the body is cut into pieces on its way,
the same parts come out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from imaging_ai.errors import InputError

__all__ = ["MalformedMultipart", "PartBegins", "PartEnds", "Splitter"]

_MOST_PREAMBLE_BYTES = 64 << 10
_MOST_HEADER_BYTES = 16 << 10
_BOUNDARY = re.compile(r"[ -~]{1,200}")
_REST_OF_DELIMITER = re.compile(rb"(--)|[ \t]{0,256}(?=\r\n)")
_MAYBE_REST = re.compile(rb"-?|[ \t]{0,256}\r?")


class MalformedMultipart(InputError):
    """Raised when a body is no multipart as its Content-Type says, or ends too early."""

    code = "malformed-multipart"


@dataclass(frozen=True, slots=True)
class PartBegins:
    """A part begins; `headers` are by lower-case name."""

    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class PartEnds:
    """The part that began last is whole."""


Event = PartBegins | PartEnds | memoryview


class Splitter:
    """Splits one body: `feed` it piece by piece, then `finish`. The bytes of parts come as views of what was fed.

    Raises
    ------
    MalformedMultipart
        From `feed` and `finish`, when the body is not what its boundary says.
    """

    def __init__(self, boundary: str) -> None:
        if not _BOUNDARY.fullmatch(boundary) or boundary.endswith(" "):
            raise MalformedMultipart("the Content-Type of a multipart body needs a boundary of printable characters")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._held = b"\r\n"  # so that the first delimiter may be the very beginning
        self._at = 0  # where in `_held` we are
        self._skipped = 0
        self._step = self._preamble

    def feed(self, data: bytes) -> Iterator[Event]:
        """Give what `data` adds."""
        self._held = self._held[self._at :] + data
        self._at = 0
        step = None
        while self._step != step:
            step = self._step
            yield from step()

    def finish(self) -> None:
        """Say that the body has ended."""
        if self._step != self._epilogue:
            raise MalformedMultipart("the multipart body ends before its closing delimiter")

    # -- what may come next

    def _preamble(self) -> Iterator[Event]:
        for skipped in self._to_delimiter():
            self._skipped += len(skipped)
        if self._skipped > _MOST_PREAMBLE_BYTES:
            raise MalformedMultipart("the multipart body does not begin with its boundary")
        yield from ()

    def _headers(self) -> Iterator[Event]:
        """Read the headers of a part; where we are, the line of its delimiter ends."""
        held, start = self._held, self._at
        end = held.find(b"\r\n\r\n", start, start + _MOST_HEADER_BYTES)
        if end >= 0:
            self._at = end + 2
            self._step = self._blank_line
            yield PartBegins(_parsed(held[start + 2 : end]))
        elif len(held) - start >= _MOST_HEADER_BYTES:
            raise MalformedMultipart(f"the headers of a part are longer than {_MOST_HEADER_BYTES} bytes")

    def _blank_line(self) -> Iterator[Event]:
        """Step over the end of the headers, unless the part is empty and this is the delimiter after it already."""
        delimited = self._is_delimiter(self._at)
        if delimited is not None:
            self._at += 0 if delimited else 2
            self._step = self._body
        yield from ()

    def _body(self) -> Iterator[Event]:
        yield from self._to_delimiter()
        if self._step != self._body:
            yield PartEnds()

    def _epilogue(self) -> Iterator[Event]:
        self._at = len(self._held)
        yield from ()

    # -- delimiters

    def _to_delimiter(self) -> Iterator[memoryview]:
        """Give what comes before the next delimiter, and step over it once it is whole."""
        held, start = self._held, self._at
        found = held.find(self._delimiter, start)
        while found >= 0 and (delimited := self._is_delimiter(found)) is False:
            found = held.find(self._delimiter, found + 2)
        if found < 0:
            found, delimited = self._maybe_delimiter(start), None
        if found > start:
            yield memoryview(held)[start:found]
        self._at = found
        if delimited:
            self._at = delimited.end()
            self._step = self._epilogue if delimited[1] else self._headers

    def _is_delimiter(self, position: int) -> re.Match[bytes] | Literal[False] | None:
        """Return the end of the delimiter that is here, False when there is none, None when that cannot be said yet."""
        held, delimiter = self._held, self._delimiter
        here = held[position : position + len(delimiter)]
        if here != delimiter:
            return None if delimiter.startswith(here) else False
        after = position + len(delimiter)
        if (match := _REST_OF_DELIMITER.match(held, after)) is not None:
            return match
        return None if _MAYBE_REST.fullmatch(held, after) else False

    def _maybe_delimiter(self, start: int) -> int:
        """Return where, at the end of what is held, a delimiter may have begun; the very end when none has."""
        held = self._held
        position = max(start, len(held) - len(self._delimiter) + 1)
        while (position := held.find(b"\r", position)) >= 0:
            if self._delimiter.startswith(held[position:]):
                return position
            position += 1
        return len(held)


def _parsed(lines: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    unfolded = re.sub(r"\r\n[ \t]+", " ", lines.decode("latin-1"))
    for line in unfolded.split("\r\n") if unfolded else ():
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise MalformedMultipart("a part has a header line without a name")
        headers[name.strip().lower()] = value.strip()
    return headers
