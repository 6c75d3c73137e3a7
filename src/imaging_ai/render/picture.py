"""A frame as a picture: decoded, its grayscale or colours transformed, cropped, scaled, and written on if wished.

A picture is an array of 8-bit levels, (rows, columns) or (rows, columns, 3).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from imaging_ai.errors import BadParameterError, InputError, NotAcceptable, NotFound, TooLarge
from imaging_ai.render.annotation import annotate
from imaging_ai.render.colour import has_supplemental_palette, labelmap_rgb, palette_rgb, rgb_of, supplemented
from imaging_ai.render.elements import number, numbers, text
from imaging_ai.render.grey import Grayscale, Rescale, Window
from imaging_ai.render.source import Decoded, Source
from imaging_ai.render.transformations import grayscale_of
from imaging_ai.render.wish import MOST_PIXELS, Picture, Region, Viewport, Wish

__all__ = ["SEGMENTATIONS", "decoded", "draw", "finished", "pixel_aspect", "tile"]

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_MOST_SCALED = 1 << 25


def draw(source: Source, frame_number: int, wish: Wish) -> Picture:
    """Render one frame; frames count from 1.

    Raises
    ------
    NotFound
        If there is no such frame.
    NotAcceptable, TooLarge
        If it cannot be rendered.
    BadParameterError
        If the wish has nothing of it, or too much.
    """
    frame, image = decoded(source, frame_number)
    region = wish.region or Region()
    rows, columns = frame.shape[:2]
    left, top, right, bottom = region.box(columns, rows, wish.region_name)
    part = (slice(top, bottom), slice(left, right))
    if frame.ndim == 2:
        levels = _gray(source, frame_number, frame, wish.window, part, image.bits_stored)
    else:
        levels = rgb_of(frame[part], image.photometric_interpretation, image.bits_stored)
    return finished(levels, source, frame_number, wish)


def finished(levels: Picture, source: Source, frame_number: int, wish: Wish) -> Picture:
    """Turn, scale and write on the wished region of a frame."""
    region = wish.region or Region()
    if region.flip_horizontally:
        levels = levels[:, ::-1]
    if region.flip_vertically:
        levels = levels[::-1]
    picture = np.ascontiguousarray(levels)
    if wish.viewport is not None:
        picture = _scaled(picture, wish.viewport, pixel_aspect(source, frame_number))
    if wish.annotations:
        picture = annotate(picture, source, frame_number, wish.annotations)
    return picture


def decoded(source: Source, frame_number: int) -> Decoded:
    """Return the stored values of a frame, read-only. Raises `NotFound`, `NotAcceptable`, `TooLarge`."""
    return source.recall(frame_number, lambda: _decoded(source, frame_number))


def _decoded(source: Source, frame_number: int) -> Decoded:
    frames = source.frames()
    if min(frames.image.rows, frames.image.columns, frames.image.samples) < 1:
        raise NotAcceptable("the instance cannot be rendered: it has no rows, columns or samples")
    if frames.image.rows * frames.image.columns > MOST_PIXELS:
        raise TooLarge(f"frames of more than {MOST_PIXELS} pixels are not rendered")
    try:
        frame = frames.decode(frame_number)
    except NotFound:
        raise
    except InputError as error:
        raise NotAcceptable(f"the instance cannot be rendered: {error.message}") from error
    frame.setflags(write=False)
    return frame, frames.image


def _gray(
    source: Source, frame_number: int, frame: NDArray[Any], window: Window | None, part: tuple[slice, slice], bits: int
) -> Picture:
    """Return the pixels of a part of a frame of one sample; what it gets by default depends on the whole."""
    if source.sop_class_uid in SEGMENTATIONS:
        return _segments(source, frame, part)
    if text(source.elements, "PhotometricInterpretation") == "PALETTE COLOR":
        return palette_rgb(source, frame[part])
    levels = grayscale_of(source, frame_number, frame, window).levels(frame[part], bits)
    supplemental = has_supplemental_palette(source, frame_number)
    return supplemented(source, frame[part], levels) if supplemental else levels


def _segments(source: Source, frame: NDArray[Any], part: tuple[slice, slice]) -> Picture:
    """Return a frame of a segmentation (PS3.3 C.8.20): white where its segment is, or the labels in their colours."""
    kind = text(source.elements, "SegmentationType")
    if kind == "LABELMAP":
        palette = text(source.elements, "PhotometricInterpretation") == "PALETTE COLOR"
        return palette_rgb(source, frame[part]) if palette else labelmap_rgb(source, frame[part])
    whole = number(source.elements, "MaximumFractionalValue") if kind == "FRACTIONAL" else 1
    return Grayscale(Rescale(), Window.spanning(0, whole or 255)).levels(frame[part])


def pixel_aspect(source: Source, frame_number: int) -> float:
    """Return how many times higher than wide a pixel is (PS3.3 C.7.6.3.1.7)."""
    measures = source.macro(frame_number, "PixelMeasuresSequence")
    for elements, keyword in (
        (measures, "PixelSpacing"),
        (source.elements, "PixelSpacing"),
        (source.elements, "ImagerPixelSpacing"),
        (source.elements, "NominalScannedPixelSpacing"),
        (source.elements, "PixelAspectRatio"),
    ):
        found = numbers(elements, keyword)
        if len(found) == 2 and min(found) > 0 and 0.01 <= found[0] / found[1] <= 100:
            return found[0] / found[1]
    return 1.0


def tile(word: str, wish: Wish) -> Picture:
    """Return a picture, as large as wished, with one word in its middle."""
    width, height = wish.viewport.fit(1, 1) if wish.viewport else (128, 128)
    _check_scaled(width, height)
    picture = Image.new("L", (width, height), 32)
    font = ImageFont.load_default(max(height // 4, 4))
    ImageDraw.Draw(picture).text((width / 2, height / 2), word[:16], fill=224, font=font, anchor="mm")
    return np.asarray(picture)


def _check_scaled(width: int, height: int) -> None:
    if width * height > _MOST_SCALED:
        raise BadParameterError("viewport", f"images are not scaled to more than {_MOST_SCALED} pixels")


def _scaled(picture: Picture, viewport: Viewport, aspect: float) -> Picture:
    rows, columns = picture.shape[:2]
    width, height = viewport.fit(columns, rows * aspect)
    _check_scaled(width, height)
    if (width, height) == (columns, rows):
        return picture
    smaller = width < columns and height < rows
    how = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((width, height), how, reducing_gap=2.0 if smaller else None))
