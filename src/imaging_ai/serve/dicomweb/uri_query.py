"""The query of WADO-URI (PS3.18 9.1.2, 9.4.1.2, 9.5.1.2), read into who is asked for, as what, and a wish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestar import Request

from imaging_ai.errors import BadParameterError
from imaging_ai.render.grey import Window
from imaging_ai.render.wish import Region, Viewport, Wish
from imaging_ai.serve.dicomweb.media import DICOM, MediaType, accepted
from imaging_ai.serve.dicomweb.rendered_query import annotation, decimal, one, positive, quality
from imaging_ai.serve.dicomweb.wire import uid

__all__ = ["Asked", "asked"]

AnyRequest = Request[Any, Any, Any]

_LONGEST_SIDE = 1 << 16
#: What has no meaning for a DICOM object that is retrieved as it is.
_OF_RENDERING = (
    *("frameNumber", "imageAnnotation", "annotation", "imageQuality", "rows", "columns", "region", "windowCenter"),
    *("windowWidth", "presentationSeriesUID", "presentationUID"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for; `dicom` says that it is the object itself, in the transfer syntax of `ranges`."""

    study: str
    series: str
    instance: str
    ranges: tuple[MediaType, ...]
    dicom: bool
    frame_number: int | None
    wish: Wish


def asked(request: AnyRequest) -> Asked:
    """Read a request.

    Raises
    ------
    BadParameterError
        If a parameter is missing or not as the standard has it; it names the parameter.
    """
    if one(request, "requestType") != "WADO":
        raise BadParameterError("requestType", "is not WADO")
    study, series, instance = (_required_uid(request, name) for name in ("studyUID", "seriesUID", "objectUID"))
    _refuse_anonymize(one(request, "anonymize"))
    ranges = _ranges(request)
    dicom = ranges[0].essence == DICOM
    if dicom and (wrong := next((name for name in _OF_RENDERING if name in request.query_params), "")):
        raise BadParameterError(wrong, f"is not for contentType={DICOM} (PS3.18 9.4, 9.5)")
    frame = one(request, "frameNumber")
    return Asked(
        study,
        series,
        instance,
        (_object(request),) if dicom else ranges,
        dicom,
        None if frame is None else positive(frame, "frameNumber"),
        _wish(request),
    )


def _required_uid(request: AnyRequest, name: str) -> str:
    text = one(request, name)
    if not text:
        raise BadParameterError(name, "is missing")
    return uid(text, name)


def _refuse_anonymize(text: str | None) -> None:
    if text is None:
        return
    if text != "yes":
        raise BadParameterError("anonymize", "can only be yes")
    raise BadParameterError(
        "anonymize", "de-identification is not offered by this server: it gives objects as they are"
    )


def _ranges(request: AnyRequest) -> tuple[MediaType, ...]:
    """Return what is accepted: by contentType, the parameter of this service, else as everywhere."""
    text = one(request, "contentType")
    if not text:
        return accepted(request)
    types = [MediaType.parse(item) for item in text.split(",")[:64] if item.strip()]
    if not types:
        raise BadParameterError("contentType", "is not a list of media types")
    return tuple(sorted(types, key=lambda one: -one.q))


def _object(request: AnyRequest) -> MediaType:
    """Return the range that asks for the object in the transfer syntax of the query (9.4.2.4)."""
    text = one(request, "transferSyntax")
    if text is None:
        return MediaType(DICOM)
    return MediaType(DICOM, {"transfer-syntax": text if text == "*" else uid(text, "transferSyntax")})


def _wish(request: AnyRequest) -> Wish:
    if any(one(request, name) is not None for name in ("presentationUID", "presentationSeriesUID")):
        raise BadParameterError("presentationUID", "presentation states are not applied by this server")
    return Wish(
        window=_window(request),
        region=_region(one(request, "region")),
        viewport=_viewport(request),
        quality=quality(request, "imageQuality"),
        annotations=annotation(request, "imageAnnotation") or annotation(request, "annotation"),
        region_name="region",
    )


def _window(request: AnyRequest) -> Window | None:
    texts = {name: one(request, name) for name in ("windowCenter", "windowWidth")}
    if all(text is None for text in texts.values()):
        return None
    for name, text in texts.items():
        if text is None:
            raise BadParameterError(name, "is missing: windowCenter and windowWidth go together")
    center, width = (decimal(text or "", name) for name, text in texts.items())
    if width < 1:
        raise BadParameterError("windowWidth", "is under 1 (PS3.3 C.11.2.1.2.1)")
    return Window(center, width)


def _region(text: str | None) -> Region | None:
    if text is None:
        return None
    numbers = [decimal(part.strip(), "region") for part in text.split(",")[:5]]
    if len(numbers) != 4:
        raise BadParameterError("region", "is not xmin,ymin,xmax,ymax")
    left, top, right, bottom = numbers
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BadParameterError("region", "is not within 0.0,0.0,1.0,1.0, or its ends are not after its beginnings")
    return Region(left, top, right - left, bottom - top, normalized=True)


def _viewport(request: AnyRequest) -> Viewport | None:
    sides = []
    for name in ("columns", "rows"):
        text = one(request, name)
        side = None if text is None else positive(text, name)
        if side is not None and side > _LONGEST_SIDE:
            raise BadParameterError(name, f"is more than {_LONGEST_SIDE} pixels")
        sides.append(side)
    return Viewport(*sides) if any(sides) else None
