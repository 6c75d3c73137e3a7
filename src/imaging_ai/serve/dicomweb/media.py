"""Media types, and which of them a request accepts (PS3.18 8.7; RFC 9110 12.5.1).

The `accept` query parameter comes before the Accept header (8.7.8.1); without either everything is accepted. Ranges are
weighed by `q`, then by how much they say, then by their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from litestar import Request

from imaging_ai.errors import InputError, NotAcceptable

__all__ = [
    "DICOM",
    "DICOM_JSON",
    "DICOM_XML",
    "JSON",
    "MULTIPART_DICOM",
    "MULTIPART_XML",
    "OCTET_STREAM",
    "MediaType",
    "accepted",
    "asked",
    "best_of",
    "choose",
    "ranges_of",
]

AnyRequest = Request[Any, Any, Any]

DICOM = "application/dicom"
DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
JSON = "application/json"
OCTET_STREAM = "application/octet-stream"
MULTIPART_DICOM = 'multipart/related; type="application/dicom"'
MULTIPART_XML = 'multipart/related; type="application/dicom+xml"'

_MOST_RANGES = 64
_MOST_CHARACTERS = 8_192


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type or range such as ``multipart/related; type="image/*"; q=0.5``.

    `essence` is ``type/subtype`` in lower case; `parameters` are by lower-case name, their values without quotes.
    """

    essence: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    q: float = 1.0

    @classmethod
    def parse(cls, text: str) -> MediaType:
        """Read one media type or range. Raises `InputError` when it is none."""
        first, *rest = _split(text, ";")
        essence = first.strip().lower()
        kind, slash, subtype = essence.partition("/")
        if not (kind and slash and subtype) or " " in essence or '"' in essence:
            raise InputError(f"{text.strip()[:80]!r} is not a media type")
        parameters: dict[str, str] = {}
        for item in rest:
            name, _, value = item.partition("=")
            if name.strip():
                parameters[name.strip().lower()] = _unquoted(value.strip())
        try:
            q = float(parameters.pop("q", "1"))
        except ValueError:
            raise InputError(f"the weight q of the media type {essence} is not a number") from None
        return cls(essence, parameters, min(max(q, 0.0), 1.0))

    @property
    def multipart(self) -> bool:
        """Whether it is ``multipart/related``."""
        return self.essence == "multipart/related"

    @property
    def part(self) -> str:
        """The essence of the parts of a multipart type (``*/*`` when not said); else its own."""
        return self.parameters.get("type", "*/*").lower() if self.multipart else self.essence

    @property
    def transfer_syntax(self) -> str:
        """The `transfer-syntax` parameter: a UID, ``*``, or "" when not said."""
        return self.parameters.get("transfer-syntax", "")

    def covers(self, offer: MediaType) -> bool:
        """Say whether this range takes what is offered; parameters other than `type` do not count."""
        if self.essence == "*/*":
            return True
        if self.multipart and offer.multipart:
            return _within(offer.part, self.part)
        return _within(offer.essence, self.essence)

    @property
    def rank(self) -> int:
        """How much the range says: more wins over less where weights are equal."""
        kind, _, subtype = self.part.partition("/")
        return (self.essence != "*/*") * 4 + (kind != "*") * 2 + (subtype != "*") * 2 + bool(self.transfer_syntax)


def accepted(request: AnyRequest) -> tuple[MediaType, ...]:
    """Return the ranges a request accepts, the most wanted first; those with q=0 come last, as what it refuses.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    return ranges_of(asked(request))


def asked(request: AnyRequest) -> str:
    """Return what a request says that it accepts."""
    named = request.query_params.getall("accept", []) if request.scope["query_string"] else []
    return ",".join(named or [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"accept"])


@lru_cache(maxsize=256)  # clients say the same thing every time
def ranges_of(text: str) -> tuple[MediaType, ...]:
    if len(text) > _MOST_CHARACTERS:
        raise InputError(f"accept is longer than {_MOST_CHARACTERS} characters")
    ranges = [MediaType.parse(item) for item in _split(text, ",") if item.strip()]
    if len(ranges) > _MOST_RANGES:
        raise InputError(f"accept has more than {_MOST_RANGES} media types")
    if not ranges:
        return (MediaType("*/*"),)
    return tuple(sorted(ranges, key=lambda one: (-one.q, -one.rank)))


def choose(request: AnyRequest, offers: Sequence[str]) -> str:
    """Return the offer that the request wants most; among equals the first one offered.

    Raises
    ------
    NotAcceptable
        If it wants none of them; the message lists them.
    """
    return _chosen(asked(request), tuple(offers))


@lru_cache(maxsize=256)
def _chosen(asked: str, offers: tuple[str, ...]) -> str:
    return best_of(ranges_of(asked), offers)


def best_of(ranges: Sequence[MediaType], offers: Sequence[str]) -> str:
    """Return the offer that is wanted most of ranges that are accepted; among equals the first one offered.

    Raises
    ------
    NotAcceptable
        If none is; the message lists them.
    """
    best, best_q = "", 0.0
    for text in offers:
        offer = _offered(text)
        covering = [one for one in ranges if one.covers(offer)]
        q = max(covering, key=lambda one: one.rank).q if covering else 0.0
        if q > best_q:
            best, best_q = text, q
    if not best:
        raise NotAcceptable(f"this can be had as {', '.join(offers)}")
    return best


@lru_cache(maxsize=256)
def _offered(text: str) -> MediaType:
    return MediaType.parse(text)


def _within(essence: str, wanted: str) -> bool:
    kind, _, subtype = wanted.partition("/")
    return kind in ("*", essence.partition("/")[0]) and subtype in ("*", essence.partition("/")[2])


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside of quotes."""
    pieces, start, quoted, position = [], 0, False, 0
    while position < len(text):
        character = text[position]
        if quoted and character == "\\":
            position += 1
        elif character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            pieces.append(text[start:position])
            start = position + 1
        position += 1
    pieces.append(text[start:])
    return pieces


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return value
