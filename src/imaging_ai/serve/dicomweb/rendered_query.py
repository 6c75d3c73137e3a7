"""The query of rendered resources and thumbnails (PS3.18 8.3.5), read into a wish."""

from __future__ import annotations

import math
import re
from typing import Any, cast, get_args

from litestar import Request

from imaging_ai.errors import BadParameterError
from imaging_ai.render.grey import VoiFunction, Window
from imaging_ai.render.wish import Annotation, IccProfile, Region, Viewport, Wish

__all__ = ["annotation", "decimal", "one", "positive", "quality", "thumbnail_wish", "wish"]

AnyRequest = Request[Any, Any, Any]

_DECIMAL = re.compile(r"[+-]?([0-9]{1,16}(\.[0-9]{0,16})?|\.[0-9]{1,16})([eE][+-]?[0-9]{1,3})?")
_POSITIVE = re.compile(r"[0-9]{1,9}")
_LONGEST_SIDE = 1 << 16


def wish(request: AnyRequest) -> Wish:
    """Read what a request for a rendered resource wishes.

    Raises
    ------
    BadParameterError
        If a parameter is not as the standard has it; it names the parameter.
    """
    if not request.query_params:
        return Wish()
    region, viewport = _viewport(one(request, "viewport"))
    return Wish(
        window=_window(one(request, "window")),
        region=region,
        viewport=viewport,
        quality=quality(request, "quality"),
        annotations=annotation(request, "annotation"),
        icc_profile=_icc_profile(one(request, "iccprofile")),
    )


def thumbnail_wish(request: AnyRequest) -> Wish:
    """Read what a request for a thumbnail wishes: a size at most (8.3.5.2)."""
    text = one(request, "viewport")
    region, viewport = _viewport(text)
    if region is not None:
        raise BadParameterError("viewport", "has only a width and a height for a thumbnail (PS3.18 8.3.5.2)")
    return Wish(viewport=viewport)


def one(request: AnyRequest, name: str) -> str | None:
    """Return the value of a parameter, None when it is absent; it may be there once."""
    found = request.query_params.getall(name, [])
    if len(found) > 1:
        raise BadParameterError(name, "is there more than once")
    return found[0] if found else None


def decimal(text: str, name: str) -> float:
    """Return a decimal number."""
    if not _DECIMAL.fullmatch(text) or not math.isfinite(number := float(text)):
        raise BadParameterError(name, "has something that is not a decimal number")
    return number


def positive(text: str, name: str) -> int:
    """Return a positive integer."""
    if not _POSITIVE.fullmatch(text) or int(text) == 0:
        raise BadParameterError(name, "is not a positive integer")
    return int(text)


def quality(request: AnyRequest, name: str) -> int | None:
    """Read the quality of an image (8.3.5.1.2)."""
    text = one(request, name)
    if text is None:
        return None
    if not _POSITIVE.fullmatch(text) or not 1 <= int(text) <= 100:
        raise BadParameterError(name, "is not an integer from 1 to 100")
    return int(text)


def annotation(request: AnyRequest, name: str) -> tuple[Annotation, ...]:
    """Read what is to be written on images (8.3.5.1.1)."""
    text = one(request, name)
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if not all(word in get_args(Annotation) for word in words):
        raise BadParameterError(name, "is not a list of patient and technique")
    return tuple(cast(Annotation, word) for word in words)


def _window(text: str | None) -> Window | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3:
        raise BadParameterError("window", "is not center,width,function")
    center, width = decimal(parts[0], "window"), decimal(parts[1], "window")
    if parts[2] not in get_args(VoiFunction):
        raise BadParameterError("window", f"the function is none of {', '.join(get_args(VoiFunction))}")
    function = cast(VoiFunction, parts[2])
    if width <= 0 or (function == "linear" and width < 1):
        raise BadParameterError("window", "the width is not over 0, or under 1 for linear (PS3.3 C.11.2.1.2.1)")
    return Window(center, width, function)


def _viewport(text: str | None) -> tuple[Region | None, Viewport | None]:
    if text is None:
        return None, None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 6):
        raise BadParameterError("viewport", "is not vw,vh or vw,vh,[sx],[sy],[sw],[sh]")
    width, height = positive(parts[0], "viewport"), positive(parts[1], "viewport")
    if max(width, height) > _LONGEST_SIDE:
        raise BadParameterError("viewport", f"is wider or higher than {_LONGEST_SIDE} pixels")
    region = None
    if len(parts) > 2:
        left, top, across, down = (
            decimal(part, "viewport") if part else None for part in (*parts[2:], "", "", "", "")[:4]
        )
        if across == 0 or down == 0:
            raise BadParameterError("viewport", "the region is empty")
        region = Region(
            abs(left or 0.0),
            abs(top or 0.0),
            None if across is None else abs(across),
            None if down is None else abs(down),
            flip_horizontally=(across or 0) < 0,
            flip_vertically=(down or 0) < 0,
        )
    return region, Viewport(width, height)


def _icc_profile(text: str | None) -> IccProfile:
    if text is None:
        return ""
    if not text or text not in get_args(IccProfile):
        raise BadParameterError("iccprofile", "is none of no, yes, srgb, adobergb, rommrgb")
    return cast(IccProfile, text)
