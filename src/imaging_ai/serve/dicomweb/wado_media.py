"""Which representation of instances, frames and bulk data a request is given (PS3.18 8.7.3 to 8.7.8).

A range without `transfer-syntax` means Explicit VR Little Endian (8.7.3.1, 8.7.3.3), for an image type the default of
table 8.7.3-5; ``*`` means as stored. Implicit VR and Big Endian are given to nobody who names them (8.7.3.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from imaging_ai.archive.document import EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from imaging_ai.archive.transcode import NATIVE
from imaging_ai.serve.dicomweb.media import DICOM, OCTET_STREAM, MediaType

__all__ = ["NOT_GIVEN", "Form", "dicom_forms", "frame_forms", "media_type_of", "value_forms"]

NOT_GIVEN = frozenset({IMPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN})

_JPEG, _JPEG_2000 = "1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.4.9"

#: Media type -> its transfer syntaxes, the default first (table 8.7.3-5).
_SYNTAXES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "image/jpeg": tuple(_JPEG + end for end in ("70", "50", "51", "57")),
        "image/dicom-rle": ("1.2.840.10008.1.2.5",),
        "image/jls": (_JPEG + "80", _JPEG + "81"),
        "image/jp2": (_JPEG_2000 + "0", _JPEG_2000 + "1"),
        "image/jpx": (_JPEG_2000 + "2", _JPEG_2000 + "3"),
        "image/jphc": (_JPEG + "201", _JPEG + "202", _JPEG + "203"),
        "image/jxl": (_JPEG + "110", _JPEG + "111", _JPEG + "112"),
        "video/mpeg": (_JPEG + "100", _JPEG + "100.1", _JPEG + "101", _JPEG + "101.1"),
        "video/mp4": tuple(_JPEG + str(end) + part for end in range(102, 107) for part in ("", ".1")),
        "video/h265": (_JPEG + "107", _JPEG + "108"),
    }
)
_MEDIA_TYPES = MappingProxyType({uid: name for name, uids in _SYNTAXES.items() for uid in uids})


@dataclass(frozen=True, slots=True)
class Form:
    """One acceptable way to answer: in parts or not, of a media type, in a transfer syntax (``*``: as stored)."""

    multipart: bool
    media_type: str
    transfer_syntax: str
    q: float = 1.0
    named: bool = True  # whether the client named the transfer syntax


def media_type_of(transfer_syntax_uid: str) -> str:
    """Return the media type of a frame as it lies in a transfer syntax."""
    return _MEDIA_TYPES.get(transfer_syntax_uid, OCTET_STREAM)


def dicom_forms(ranges: Sequence[MediaType], *, single: bool) -> list[Form]:
    """Return the ways to answer with whole instances, the most wanted first; `single`: one instance may come alone."""
    forms = []
    for one in ranges:
        if one.q == 0 or one.transfer_syntax in NOT_GIVEN or not _covers(one, DICOM):
            continue
        multipart = one.multipart or one.essence == "*/*"
        if multipart or single:
            named = bool(one.transfer_syntax)
            syntax = one.transfer_syntax or EXPLICIT_LITTLE_ENDIAN
            forms.append(Form(multipart, DICOM, syntax, one.q, named))
    return [form for form in forms if not _refused(form, ranges)]


def frame_forms(ranges: Sequence[MediaType], stored: str) -> Iterator[Form]:
    """Give the ways to answer with frames that are stored in a transfer syntax, the most wanted first."""
    for one in ranges:
        if one.q == 0 or one.transfer_syntax in NOT_GIVEN:
            continue
        for media_type, syntax in _frames_of(one, stored):
            form = Form(one.multipart or one.essence == "*/*", media_type, syntax, one.q, bool(one.transfer_syntax))
            if not _refused(form, ranges):
                yield form


def value_forms(ranges: Sequence[MediaType], media_type: str = OCTET_STREAM) -> Iterator[Form]:
    """Give the ways to answer with a value that is no pixel data, most wanted first: bytes, or its own type."""
    for one in ranges:
        if one.q == 0 or one.transfer_syntax not in ("", "*", EXPLICIT_LITTLE_ENDIAN):
            continue
        for own in dict.fromkeys((OCTET_STREAM, media_type)):
            form = Form(one.multipart or one.essence == "*/*", own, EXPLICIT_LITTLE_ENDIAN, one.q)
            if _covers(one, own) and not _refused(form, ranges):
                yield form


def _frames_of(one: MediaType, stored: str) -> Iterator[tuple[str, str]]:
    """Give (media type, transfer syntax) that a range asks for."""
    native = EXPLICIT_LITTLE_ENDIAN if stored in NATIVE else stored
    wanted = native if one.transfer_syntax == "*" else one.transfer_syntax
    if _covers(one, OCTET_STREAM) and one.part != "*/*":
        yield OCTET_STREAM, wanted or EXPLICIT_LITTLE_ENDIAN
    elif one.part == "*/*":
        syntax = wanted or EXPLICIT_LITTLE_ENDIAN
        yield media_type_of(syntax), syntax
    elif one.part in _SYNTAXES:
        syntaxes = _SYNTAXES[one.part]
        if one.transfer_syntax in ("", "*"):
            yield one.part, stored if stored in syntaxes else syntaxes[0]
        elif one.transfer_syntax in syntaxes:
            yield one.part, one.transfer_syntax
    elif one.part.endswith("/*"):
        syntax = stored if one.transfer_syntax in ("", "*") else one.transfer_syntax
        if _covers(one, media_type_of(syntax)):
            yield media_type_of(syntax), syntax


def _covers(one: MediaType, media_type: str) -> bool:
    kind, _, subtype = one.part.partition("/")
    return kind in ("*", media_type.partition("/")[0]) and subtype in ("*", media_type.partition("/")[2])


def _refused(form: Form, ranges: Sequence[MediaType]) -> bool:
    """Say whether a range with q=0 names this form."""
    return any(
        one.q == 0
        and one.part != "*/*"
        and one.multipart == form.multipart
        and _covers(one, form.media_type)
        and one.transfer_syntax in ("", form.transfer_syntax)
        for one in ranges
    )
